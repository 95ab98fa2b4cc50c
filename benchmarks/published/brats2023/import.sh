#!/bin/sh
# Usage: sh import.sh FOLDER, the folder that holds BraTS-GLI-00000-000 and so on (ASNR-MICCAI-BraTS2023-GLI-Challenge-TrainingData).
nnunet_moe import -i "$1" -d Dataset523_BraTS2023 \
    -m T1w='{case}-t1n.nii.gz' -m T1c='{case}-t1c.nii.gz' -m T2w='{case}-t2w.nii.gz' -m FLAIR='{case}-t2f.nii.gz' -l '{case}-seg.nii.gz' \
    -labels necrosis=1 edema=2 enhancing=3 \
    -regions "whole tumor=necrosis,edema,enhancing" "tumor core=necrosis,enhancing" "enhancing tumor=enhancing"
