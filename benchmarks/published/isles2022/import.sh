#!/bin/sh
# Usage: sh import.sh FOLDER, the folder that holds sub-strokecase0001 and derivatives (ISLES-2022).
nnunet_moe import -i "$1" -d Dataset522_ISLES2022 -labels lesion=1 --align grid --reference DWI \
    -m DWI='sub-{case}_ses-0001_dwi.nii.gz' -m ADC='sub-{case}_ses-0001_adc.nii.gz' \
    -m FLAIR='sub-{case}_ses-0001_FLAIR.nii.gz' -l 'sub-{case}_ses-0001_msk.nii.gz'
