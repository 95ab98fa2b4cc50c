"""Write tiny phantoms with the names, folders and label values of public data sets, to try recipes without data."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

SHAPE = (20, 24, 24)


def write_image(file: Path, voxels: np.ndarray, spacing: Sequence[float] = (1.0, 1.0, 1.0)) -> None:
    """Write an image with its folders."""
    file.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing(spacing)
    sitk.WriteImage(image, str(file))


def draw(number: int, values: Sequence[int], images: int, shape: Sequence[int] = SHAPE) -> tuple[np.ndarray, ...]:
    """Draw a segmentation of nested cubes, one for each value, and images in which they are bright.

    Returns:
        The segmentation (uint8), then the images (float32), all of the same shape.
    """
    rng = np.random.default_rng(number)
    segmentation = np.zeros(shape, np.uint8)
    start = rng.integers(2, 5, 3)
    for depth, value in enumerate(values):
        low, high = start + depth, start + 13 - depth
        segmentation[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = value
    bright = np.zeros(shape, np.float32)
    for place, value in enumerate(values, 1):
        bright[segmentation == value] = place
    head = np.zeros(shape, bool)
    head[1:-1, 1:-1, 1:-1] = True
    noisy = [np.where(head, 5 + (1 + n) * bright + rng.normal(0, 0.3, shape), 0) for n in range(images)]
    return segmentation, *(image.astype(np.float32) for image in noisy)


def brats2018(folder: Path, cases: Sequence[str]) -> None:
    """Write `HGG/CASE/CASE_flair.nii.gz` and so on, with the label values 1, 2 and 4; every second case in LGG."""
    for number, case in enumerate(cases):
        _brats(folder / ("HGG", "LGG")[number % 2] / case, case, number, "_{}.nii.gz", (2, 4, 1))


def brats2020(folder: Path, cases: Sequence[str]) -> None:
    """Write `CASE/CASE_flair.nii.gz` and so on, with the label values 1, 2 and 4."""
    for number, case in enumerate(cases):
        _brats(folder / case, case, number, "_{}.nii.gz", (2, 4, 1))


def brats2023(folder: Path, cases: Sequence[str]) -> None:
    """Write `CASE/CASE-t2f.nii.gz` and so on, with the label values 1, 2 and 3."""
    for number, case in enumerate(cases):
        _brats(folder / case, case, number, "-{}.nii.gz", (2, 3, 1))


def msseg2016(folder: Path) -> None:
    """Write three patients as MSSEG-2016 does, of which the first of each center has the same name.

    The images that the recipe does not use are there, too.
    """
    for number, place in enumerate(("Training/Center_01", "Training/Center_07", "Testing/Center_03")):
        patient = folder / place / "Patient_01"
        segmentation, *images = draw(number, (1,), 5)
        for name, image in zip(("FLAIR", "T1", "T2", "DP", "GADO"), images, strict=True):
            write_image(patient / "Preprocessed_Data" / f"{name}_preprocessed.nii.gz", image)
        write_image(patient / "Masks" / "Consensus.nii.gz", segmentation)
        write_image(patient / "Masks" / "ManualSegmentation_1.nii.gz", segmentation)


def isles2022(folder: Path) -> None:
    """Write three patients as ISLES 2022 does, in BIDS folders, with FLAIR on a finer grid."""
    for number in range(3):
        case = f"sub-strokecase{number + 1:04d}"
        segmentation, dwi, adc, flair = draw(number, (1,), 3)
        session = folder / case / "ses-0001"
        write_image(session / "dwi" / f"{case}_ses-0001_dwi.nii.gz", dwi, (2, 2, 2))
        write_image(session / "dwi" / f"{case}_ses-0001_adc.nii.gz", adc, (2, 2, 2))
        finer = flair.repeat(2, axis=1).repeat(2, axis=2)
        write_image(session / "anat" / f"{case}_ses-0001_FLAIR.nii.gz", finer, (1, 1, 2))
        mask = folder / "derivatives" / case / "ses-0001" / f"{case}_ses-0001_msk.nii.gz"
        write_image(mask, segmentation, (2, 2, 2))


def m4oe_abdomen(folder: Path) -> None:
    """Write two cases of each image type: FLARE22 and AMOS22 (CT), AMOS22 (MRI) and ATLAS23 (CE-MRI)."""
    of_flare, of_amos = (1, 2, 3, 4, 9, 11, 13), (1, 2, 3, 4, 6, 7, 10)
    flare, amos, atlas = (folder / name for name in ("FLARE22Train", "amos22", "atlas-train-dataset-1.0.1/train"))
    for number in range(2):
        segmentation, image = draw(number, of_flare, 1)
        write_image(flare / "images" / f"FLARE22_Tr_{number + 1:04d}_0000.nii.gz", 40 * image - 200)
        write_image(flare / "labels" / f"FLARE22_Tr_{number + 1:04d}.nii.gz", segmentation)
        for first, part, scale in ((1, "Tr", 40), (507, ("Tr", "Va")[number], 1)):
            segmentation, image = draw(10 + number + first, of_amos, 1)
            name = f"amos_{first + number:04d}.nii.gz"
            write_image(amos / f"images{part}" / name, scale * image)
            write_image(amos / f"labels{part}" / name, segmentation)
        segmentation, image = draw(30 + number, (1, 2), 1)
        write_image(atlas / "imagesTr" / f"im{number}.nii.gz", image)
        write_image(atlas / "labelsTr" / f"lb{number}.nii.gz", segmentation)


def _brats(folder: Path, case: str, number: int, ending: str, values: Sequence[int]) -> None:
    names = ("flair", "t1", "t1ce", "t2", "seg") if "_" in ending else ("t2f", "t1n", "t1c", "t2w", "seg")
    segmentation, *images = draw(number, values, 4)
    for name, voxels in zip(names, (*images, segmentation), strict=True):
        write_image(folder / f"{case}{ending.format(name)}", voxels)
