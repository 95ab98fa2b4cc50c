#!/bin/sh
# Usage: sh import.sh FOLDER, the folder that holds Training and Testing.
nnunet_moe import -i "$1" -d Dataset516_MSSEG2016 -labels lesion=1 \
    -m T1w='{part}/{center}/{number}/Preprocessed_Data/T1_preprocessed.nii.gz' \
    -m T2w='{part}/{center}/{number}/Preprocessed_Data/T2_preprocessed.nii.gz' \
    -m FLAIR='{part}/{center}/{number}/Preprocessed_Data/FLAIR_preprocessed.nii.gz' \
    -l '{part}/{center}/{number}/Masks/Consensus.nii.gz'
