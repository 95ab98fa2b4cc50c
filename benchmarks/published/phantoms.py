"""Write phantoms with the names, folders and label values of public data sets, to try recipes without data.

By default they have the size of the real images (`REAL`), or else a tiny one (`SMALL`) for quick tests.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk


class Grid(NamedTuple):
    """The voxels of an image, in the order z, y, x."""

    shape: tuple[int, int, int]
    head: tuple[int, int, int]
    """The size of what is not zero, in the middle."""
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """In mm."""


TINY = Grid((20, 24, 24), (18, 22, 22))
_BRAIN = Grid((155, 240, 240), (138, 169, 138))
REAL = {
    "brats": [_BRAIN],
    "msseg2016": [
        Grid((144, 512, 512), (136, 360, 280), (1.1, 0.5, 0.5)),
        Grid((128, 224, 256), (120, 175, 136), (1.25, 1.03, 1.03)),
        Grid((224, 512, 512), (166, 383, 298), (0.9, 0.47, 0.47)),
    ],
    "isles2022": [Grid((73, 112, 112), (71, 110, 110), (2.0, 2.0, 2.0))],
    "ct": [Grid((100, 512, 512), (98, 510, 510), (2.5, 0.8, 0.8))],
    "mri": [Grid((72, 260, 320), (70, 258, 318), (3.0, 1.2, 1.2))],
}
"""Typical sizes, as the data sets are described; those of MSSEG-2016 are of three of its scanners. They were not
compared with the files. Cases take turns."""
SMALL = {
    **{name: [TINY] for name in ("brats", "msseg2016", "ct", "mri")},
    "isles2022": [TINY._replace(spacing=(2.0, 2.0, 2.0))],
}
Grids = Mapping[str, Sequence[Grid]]


def write_image(file: Path, voxels: np.ndarray, spacing: Sequence[float] = (1.0, 1.0, 1.0)) -> None:
    """Write an image with its folders; the spacing is in the order z, y, x."""
    file.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing(spacing[::-1])
    sitk.WriteImage(image, str(file), True)


def draw(number: int, values: Sequence[int], images: int, grid: Grid = TINY) -> tuple[np.ndarray, ...]:
    """Draw a segmentation of nested cubes, one for each value, and images in which they are bright.

    Returns:
        The segmentation (uint8), then the images (float32), all of the same shape.
    """
    rng = np.random.default_rng(number)
    segmentation = np.zeros(grid.shape, np.uint8)
    border = (np.array(grid.shape) - grid.head) // 2
    start = border + rng.integers(1, 4, 3)
    for depth, value in enumerate(values):
        low, high = start + depth, start + 13 - depth
        segmentation[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = value
    bright = np.zeros(grid.shape, np.float32)
    for place, value in enumerate(values, 1):
        bright[segmentation == value] = place
    inside = tuple(slice(a, a + size) for a, size in zip(border, grid.head, strict=True))
    drawn = []
    for image in range(images):
        voxels = np.zeros(grid.shape, np.float32)
        voxels[inside] = 5 + (1 + image) * bright[inside] + rng.normal(0, 0.3, grid.head)
        drawn.append(voxels)
    return segmentation, *drawn


def brats2018(folder: Path, cases: Sequence[str], grids: Grids = REAL) -> None:
    """Write `HGG/CASE/CASE_flair.nii.gz` and so on, with the label values 1, 2 and 4; every second case in LGG."""
    for number, case in enumerate(cases):
        _brats(folder / ("HGG", "LGG")[number % 2] / case, number, "_{}.nii.gz", (2, 4, 1), grids)


def brats2020(folder: Path, cases: Sequence[str], grids: Grids = REAL) -> None:
    """Write `CASE/CASE_flair.nii.gz` and so on, with the label values 1, 2 and 4."""
    for number, case in enumerate(cases):
        _brats(folder / case, number, "_{}.nii.gz", (2, 4, 1), grids)


def brats2023(folder: Path, cases: Sequence[str], grids: Grids = REAL) -> None:
    """Write `CASE/CASE-t2f.nii.gz` and so on, with the label values 1, 2 and 3."""
    for number, case in enumerate(cases):
        _brats(folder / case, number, "-{}.nii.gz", (2, 3, 1), grids)


def msseg2016(folder: Path, grids: Grids = REAL) -> None:
    """Write three patients as MSSEG-2016 does, of which the first of each center has the same name.

    The images that the recipe does not use are there, too.
    """
    for number, place in enumerate(("Training/Center_01", "Training/Center_07", "Testing/Center_03")):
        patient, grid = folder / place / "Patient_01", _of(grids, "msseg2016", number)
        segmentation, *images = draw(number, (1,), 5, grid)
        for name, image in zip(("FLAIR", "T1", "T2", "DP", "GADO"), images, strict=True):
            write_image(patient / "Preprocessed_Data" / f"{name}_preprocessed.nii.gz", image, grid.spacing)
        write_image(patient / "Masks" / "Consensus.nii.gz", segmentation, grid.spacing)
        write_image(patient / "Masks" / "ManualSegmentation_1.nii.gz", segmentation, grid.spacing)


def isles2022(folder: Path, grids: Grids = REAL) -> None:
    """Write three patients as ISLES 2022 does, in BIDS folders, with FLAIR on a finer grid."""
    for number in range(3):
        case, grid = f"sub-strokecase{number + 1:04d}", _of(grids, "isles2022", number)
        segmentation, dwi, adc, flair = draw(number, (1,), 3, grid)
        session = folder / case / "ses-0001"
        write_image(session / "dwi" / f"{case}_ses-0001_dwi.nii.gz", dwi, grid.spacing)
        write_image(session / "dwi" / f"{case}_ses-0001_adc.nii.gz", adc, grid.spacing)
        finer = flair.repeat(2, axis=1).repeat(2, axis=2)
        z, y, x = grid.spacing
        write_image(session / "anat" / f"{case}_ses-0001_FLAIR.nii.gz", finer, (z, y / 2, x / 2))
        mask = folder / "derivatives" / case / "ses-0001" / f"{case}_ses-0001_msk.nii.gz"
        write_image(mask, segmentation, grid.spacing)


def m4oe_abdomen(folder: Path, grids: Grids = REAL) -> None:
    """Write two cases of each image type: FLARE22 and AMOS22 (CT), AMOS22 (MRI) and ATLAS23 (CE-MRI)."""
    of_flare, of_amos = (1, 2, 3, 4, 9, 11, 13), (1, 2, 3, 4, 6, 7, 10)
    flare, amos, atlas = (folder / name for name in ("FLARE22Train", "amos22", "atlas-train-dataset-1.0.1/train"))
    for number in range(2):
        ct, mri = _of(grids, "ct", number), _of(grids, "mri", number)
        segmentation, image = draw(number, of_flare, 1, ct)
        write_image(flare / "images" / f"FLARE22_Tr_{number + 1:04d}_0000.nii.gz", 40 * image - 200, ct.spacing)
        write_image(flare / "labels" / f"FLARE22_Tr_{number + 1:04d}.nii.gz", segmentation, ct.spacing)
        for first, part, scale, grid in ((1, "Tr", 40, ct), (507, ("Tr", "Va")[number], 1, mri)):
            segmentation, image = draw(10 + number + first, of_amos, 1, grid)
            name = f"amos_{first + number:04d}.nii.gz"
            write_image(amos / f"images{part}" / name, scale * image, grid.spacing)
            write_image(amos / f"labels{part}" / name, segmentation, grid.spacing)
        segmentation, image = draw(30 + number, (1, 2), 1, mri)
        write_image(atlas / "imagesTr" / f"im{number}.nii.gz", image, mri.spacing)
        write_image(atlas / "labelsTr" / f"lb{number}.nii.gz", segmentation, mri.spacing)


def _brats(folder: Path, number: int, ending: str, values: Sequence[int], grids: Grids) -> None:
    names = ("flair", "t1", "t1ce", "t2", "seg") if "_" in ending else ("t2f", "t1n", "t1c", "t2w", "seg")
    grid = _of(grids, "brats", number)
    segmentation, *images = draw(number, values, 4, grid)
    for name, voxels in zip(names, (*images, segmentation), strict=True):
        write_image(folder / f"{folder.name}{ending.format(name)}", voxels, grid.spacing)


def _of(grids: Grids, name: str, number: int) -> Grid:
    return grids[name][number % len(grids[name])]
