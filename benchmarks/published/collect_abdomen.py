"""Write FLARE22, AMOS22 and ATLAS23 as one raw dataset with one image type per case: CT, MRI and CE-MRI.

The three data sets number their labels differently, and each has its own labels. So this script renumbers the labels
that the tables of M4oE have, drops the others, and says in `label_sets` which of them each image type has.
"""

import argparse
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

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


class Case(NamedTuple):
    """A case of one of the data sets."""

    name: str
    channel: int
    image: Path
    label: Path
    numbers: dict[str, int]
    """Organ -> its number in the segmentation."""


def found_cases(flare: Path, amos: Path, atlas: Path) -> dict[str, list[Case]]:
    """Return the cases of each source: a data set, or one of the two parts of AMOS22.

    Raises:
        SystemExit: a source has no case, or a case has no segmentation.
    """
    sources = {
        f"FLARE22 ({flare / 'images'})": list(_flare(flare)),
        **{f"AMOS22 ({amos / f'images{part}'})": list(_amos(amos, part)) for part in ("Tr", "Va")},
        f"ATLAS23 ({atlas / 'imagesTr'})": list(_atlas(atlas)),
    }
    if empty := [source for source, cases in sources.items() if not cases]:
        raise SystemExit(
            f"No cases in {', '.join(empty)}. The names must be FLARE22_Tr_0001_0000.nii.gz, amos_0001.nii.gz and "
            "im0.nii.gz. Check the folders. Nothing was written."
        )
    missing = [str(case.label) for cases in sources.values() for case in cases if not case.label.is_file()]
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise SystemExit(
            f"{len(missing)} cases have no segmentation: {', '.join(missing[:5])}{more}. Download these files, or move "
            "the images away. Nothing was written."
        )
    return sources


def _flare(folder: Path) -> Iterator[Case]:
    for image in sorted((folder / "images").glob("*_0000.nii.gz")):
        name = image.name.removesuffix("_0000.nii.gz")
        yield Case(name, 0, image, folder / "labels" / f"{name}.nii.gz", FLARE)


def _amos(folder: Path, part: str) -> Iterator[Case]:
    for image in sorted((folder / f"images{part}").glob("amos_*.nii.gz")):
        name = image.name.removesuffix(".nii.gz")
        channel = int(int(name.removeprefix("amos_")) >= FIRST_MRI)
        yield Case(name, channel, image, folder / f"labels{part}" / image.name, AMOS)


def _atlas(folder: Path) -> Iterator[Case]:
    for image in sorted((folder / "imagesTr").glob("im*.nii.gz"), key=lambda file: int(re.sub(r"\D", "", file.stem))):
        number = re.sub(r"\D", "", image.name.partition(".")[0])
        yield Case(f"atlas_{int(number):04d}", 2, image, folder / "labelsTr" / f"lb{number}.nii.gz", ATLAS)


def collect(flare: Path, amos: Path, atlas: Path, raw: Path) -> dict[str, int]:
    """Write the raw dataset, and return the number of cases of each source.

    Raises:
        SystemExit: the output exists, a source has no case, or a case has no segmentation. Nothing was written.
    """
    if raw.exists():
        raise SystemExit(f"{raw} exists. Remove it, or choose another folder with -o.")
    sources = found_cases(flare, amos, atlas)
    unfinished = raw.with_name(f"{raw.name}.unfinished")  # so that an interrupted run leaves no dataset
    shutil.rmtree(unfinished, ignore_errors=True)
    for folder in ("imagesTr", "labelsTr"):
        (unfinished / folder).mkdir(parents=True)
    for name, channel, image, label, numbers in (case for cases in sources.values() for case in cases):
        (unfinished / "imagesTr" / f"{name}_{channel:04d}.nii.gz").symlink_to(image.resolve())
        given = sitk.ReadImage(str(label))
        values = sitk.GetArrayFromImage(given)
        written = np.zeros(values.shape, np.uint8)
        for organ, value in numbers.items():
            written[values == value] = LABELS[organ]
        segmentation = sitk.GetImageFromArray(written)
        segmentation.CopyInformation(given)
        sitk.WriteImage(segmentation, str(unfinished / "labelsTr" / f"{name}.nii.gz"))
    counts = {source: len(cases) for source, cases in sources.items()}
    description = {
        "channel_names": {str(channel): name for channel, name in enumerate(CHANNELS)},
        "labels": {"background": 0, **LABELS},
        "label_sets": LABEL_SETS,
        "numTraining": sum(counts.values()),
        "file_ending": ".nii.gz",
    }
    (unfinished / "dataset.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    unfinished.rename(raw)
    return counts


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for source, holds in (("flare", "images and labels"), ("amos", "imagesTr and labelsTr"), ("atlas", "imagesTr")):
        parser.add_argument(f"-{source}", type=Path, required=True, help=f"the folder that holds {holds}")
    parser.add_argument("-o", type=Path, required=True, help="write nnUNet_raw/Dataset540_M4oEAbdomen to this folder")
    options = parser.parse_args()
    counts = collect(options.flare, options.amos, options.atlas, options.o)
    print("\n".join(f"{source}: {number} cases" for source, number in counts.items()))
    print(f"Wrote {sum(counts.values())} cases to {options.o}")
