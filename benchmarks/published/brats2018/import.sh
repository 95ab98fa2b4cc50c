#!/bin/sh
# Usage: sh import.sh FOLDER, the folder that holds HGG and LGG (MICCAI_BraTS_2018_Data_Training).
nnunet_moe import -i "$1" -d Dataset518_BraTS2018 \
    -m T1w='{case}_t1.nii.gz' -m T1c='{case}_t1ce.nii.gz' -m T2w='{case}_t2.nii.gz' -m FLAIR='{case}_flair.nii.gz' -l '{case}_seg.nii.gz' \
    -labels necrosis=1 edema=2 enhancing=4 --renumber \
    -regions "whole tumor=necrosis,edema,enhancing" "tumor core=necrosis,enhancing" "enhancing tumor=enhancing"
