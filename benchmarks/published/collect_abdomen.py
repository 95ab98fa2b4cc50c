"""Write FLARE22, AMOS22 and ATLAS23 as one raw dataset with one image type per case: CT, MRI and CE-MRI.

The three data sets number their labels differently, and each has its own labels. So this script renumbers the labels
that the tables of M4oE have, drops the others, and says in `label_sets` which of them each image type has.
"""

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import SimpleITK as sitk

LABELS = {
    name: number
    for number, name in enumerate(
        ("liver", "right kidney", "spleen", "pancreas", "gallbladder", "stomach", "left kidney", "liver tumor"), 1
    )
}
ORGANS = [name for name in LABELS if name != "liver tumor"]
FLARE = {"liver": 1, "right kidney": 2, "spleen": 3, "pancreas": 4, "gallbladder": 9, "stomach": 11, "left kidney": 13}
AMOS = {"spleen": 1, "right kidney": 2, "left kidney": 3, "gallbladder": 4, "liver": 6, "stomach": 7, "pancreas": 10}
ATLAS = {"liver": 1, "liver tumor": 2}
CHANNELS = ("CT", "MRI", "CE-MRI")
LABEL_SETS = {"CT": ORGANS, "MRI": ORGANS, "CE-MRI": ["liver", "liver tumor"]}
FIRST_MRI = 507
"""AMOS22 numbers its cases; those up to 500 are CT, and MRI begins at 507."""


def found_cases(flare: Path, amos: Path, atlas: Path) -> Iterator[tuple[str, int, Path, Path, dict[str, int]]]:
    """Yield name, channel, image, segmentation and label numbers of each case."""
    for image in sorted((flare / "images").glob("*_0000.nii.gz")):
        name = image.name.removesuffix("_0000.nii.gz")
        yield name, 0, image, flare / "labels" / f"{name}.nii.gz", FLARE
    for part in ("Tr", "Va"):
        for image in sorted((amos / f"images{part}").glob("amos_*.nii.gz")):
            name = image.name.removesuffix(".nii.gz")
            channel = int(int(name.removeprefix("amos_")) >= FIRST_MRI)
            yield name, channel, image, amos / f"labels{part}" / image.name, AMOS
    for image in sorted((atlas / "imagesTr").glob("im*.nii.gz"), key=lambda file: int(re.sub(r"\D", "", file.stem))):
        number = re.sub(r"\D", "", image.name.partition(".")[0])
        yield f"atlas_{int(number):04d}", 2, image, atlas / "labelsTr" / f"lb{number}.nii.gz", ATLAS


def collect(flare: Path, amos: Path, atlas: Path, raw: Path) -> int:
    """Write the raw dataset, and return its number of cases."""
    for folder in ("imagesTr", "labelsTr"):
        (raw / folder).mkdir(parents=True)
    number = 0
    for name, channel, image, label, numbers in found_cases(flare, amos, atlas):
        (raw / "imagesTr" / f"{name}_{channel:04d}.nii.gz").symlink_to(image.resolve())
        given = sitk.ReadImage(str(label))
        values = sitk.GetArrayFromImage(given)
        written = np.zeros(values.shape, np.uint8)
        for organ, value in numbers.items():
            written[values == value] = LABELS[organ]
        segmentation = sitk.GetImageFromArray(written)
        segmentation.CopyInformation(given)
        sitk.WriteImage(segmentation, str(raw / "labelsTr" / f"{name}.nii.gz"))
        number += 1
    description = {
        "channel_names": {str(channel): name for channel, name in enumerate(CHANNELS)},
        "labels": {"background": 0, **LABELS},
        "label_sets": LABEL_SETS,
        "numTraining": number,
        "file_ending": ".nii.gz",
    }
    (raw / "dataset.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    return number


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for source, holds in (("flare", "images and labels"), ("amos", "imagesTr and labelsTr"), ("atlas", "imagesTr")):
        parser.add_argument(f"-{source}", type=Path, required=True, help=f"the folder that holds {holds}")
    parser.add_argument("-o", type=Path, required=True, help="write nnUNet_raw/Dataset540_M4oEAbdomen to this folder")
    options = parser.parse_args()
    print(f"Wrote {collect(options.flare, options.amos, options.atlas, options.o)} cases to {options.o}")
