#!/usr/bin/env python3
"""Compare methods on real patients with CT, PET and T1w, on a CPU: train them, and score them with all codes.

    python benchmarks/sts.py --shared ../shared --out sts --study benchmarks/sts_screening.yaml

It imports the 35 training cases of soft-tissue sarcoma, plans them, and adds a configuration that a CPU can train.
Then it runs the study `sts.yaml`, which scores the 15 test cases, or another study of that dataset and configuration
(--study). Choose settings with `sts_screening.yaml`: it scores only validation cases. To resume, rerun the command with
the same --out. Each study has a folder with its name below --out.

It needs `data/sts` below --shared, and reports an error if it is missing. `docs/lab_notes/sts.md` describes the data
and what to cite.

The patch is smaller than the images on purpose. They were cropped to 50 mm around the tumor, so a network that sees all
borders of an image knows where the tumor is.
"""

import os
from pathlib import Path

from cohort import Cohort, open_workspace, parse_options

COHORT = Cohort(
    "Dataset503_STS",
    patch_size=[40, 40],
    features_per_stage=[16, 32, 64],
    batch_size=16,
    length={"num_epochs": 80, "num_iterations_per_epoch": 50, "num_val_iterations_per_epoch": 14},
)
MODALITIES = {"CT": "0000", "PET": "0001", "T1w": "0002"}


def main() -> None:
    options = parse_options(Path(__file__), __doc__)
    data = options.shared / "data/sts"
    workspace = open_workspace(options, [data])
    if not COHORT.is_raw(workspace):
        files = [f"{name}=imagesTr/{{case}}_{channel}.nii.gz" for name, channel in MODALITIES.items()]
        modalities = [argument for file in files for argument in ("-m", file)]
        labels = ("-l", "labelsTr/{case}.nii.gz", "-labels", "tumour=1")
        workspace.run("nnunet_moe", "import", "-i", str(data), "-d", COHORT.dataset, *labels, *modalities, "-np", "2")
    if not COHORT.is_preprocessed(workspace):
        workspace.run("nnunet_moe", "plan_and_preprocess", "-d", "503", "-c", "2d", "-np", "2", "-npfp", "2")
    os.environ["STS"] = str(data.resolve())
    COHORT.run_study(workspace, options)


if __name__ == "__main__":
    main()
