"""DICOM series of a made-up patient, written by GDCM through SimpleITK."""

import locale
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import SimpleITK as sitk

PATIENT = ("Doe^Jane", "ID-4711")
SHAPE = (5, 10, 12)


def voxels(seed: int = 0, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """Gray values `(z, y, x)`, a body in the middle of them."""
    noise = np.random.default_rng(seed).integers(0, 40, shape).astype(np.int16)
    noise[1:-1, 2:-2, 2:-2] += 200
    return noise


def write_series(
    folder: Path,
    array: np.ndarray | None = None,
    *,
    spacing: tuple[float, float, float] = (1.5, 1.2, 3.0),
    origin: tuple[float, float, float] = (-4.0, 7.0, 20.0),
    orientation: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
    shear: float = 0.0,
    series: str = "1.2.826.1",
    frame: str = "1.2.826.9",
    prefix: str = "im",
    tags: Mapping[str, str] = MappingProxyType({}),
) -> Path:
    """Write one file per slice; the names are in an order that is not that of the slices.

    Args:
        folder: is created.
        array: gray values `(z, y, x)`.
        spacing: of x, y and the slices, in mm.
        origin: position of the first voxel, in mm.
        orientation: directions of x and y.
        shear: by how much each slice is shifted along y, in mm, as by a gantry tilt.
        series, frame: identifiers of the series and of its frame of reference.
        prefix: how file names begin.
        tags: further tags, like `0008|0060`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    array = voxels() if array is None else array
    rows, columns = np.reshape(orientation, (2, 3))
    normal = np.cross(rows, columns)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    before = locale.setlocale(locale.LC_ALL)
    for number, plane in enumerate(array):
        position = np.array(origin) + number * (spacing[2] * normal + shear * columns)
        image = sitk.GetImageFromArray(plane)
        image.SetSpacing(spacing[:2])
        values = {
            "0008|0018": f"{series}.{number + 1}",
            "0008|0060": "CT",
            "0010|0010": PATIENT[0],
            "0010|0020": PATIENT[1],
            "0020|000d": "1.2.826",
            "0020|000e": series,
            "0020|0032": "\\".join(f"{value:.6g}" for value in position),
            "0020|0037": "\\".join(f"{value:.6g}" for value in orientation),
            "0020|0052": frame,
            **tags,
        }
        for tag, value in values.items():
            image.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{prefix}{(number * 7) % 101:03d}.dcm"))
        writer.Execute(image)
    locale.setlocale(locale.LC_ALL, before)  # which GDCM sets when it writes
    return folder
