"""Put the slices of a DICOM series in order, and refuse those that are no regular grid."""

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from nnunet_moe.errors import ModalityError
from nnunet_moe.images.dicom_headers import Header

UNEVEN = 0.02
"""The largest difference between distances of slices, as a share of their median. Headers are rounded."""
TILTED = 0.5
"""The largest angle in degrees between the direction of the stack and the normal of its slices."""
TURNED = 1e-3
"""The largest difference between the directions of two slices. Headers are rounded."""

Value = TypeVar("Value", bound=Hashable)


def require_one_series(folder: Path, headers: Sequence[Header]) -> None:
    """Refuse folders with anything but one series of gray slices of one patient, each in a file of its own.

    Raises:
        ModalityError: the folder has something else.
    """
    patients = {header.path: header.patient for header in headers if header.patient}
    for what, texts in (
        ("DICOM series", {header.path: header.series for header in headers}),
        ("patients", patients),
    ):
        if len(groups := _groups(texts)) > 1:  # the texts may identify the patient
            raise ModalityError(
                f"{folder} has several {what}: {', '.join(groups.values())}. Put each into a folder of its own."
            )
    for header in headers:
        path = header.path
        if header.is_color:
            raise ModalityError(f"{path} is a color image. A modality needs gray values. Remove it from {folder}.")
        if header.is_mosaic:
            raise ModalityError(
                f"{path} is a mosaic: all slices of a volume beside each other in one image. Convert the series to "
                "NIfTI, for example with dcm2niix."
            )
        if header.num_frames != 1:
            raise ModalityError(
                f"{path} has {header.num_frames} slices in one file (enhanced DICOM), whose positions this reader does "
                "not take. Convert the series to NIfTI, for example with dcm2niix."
            )


def stack(
    folder: Path, headers: Sequence[Header]
) -> tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...], list[Header]]:
    """Order the slices.

    Returns:
        Spacing `(x, y, z)`, position of the first voxel, the 9 cosines of ITK's direction, and the headers in order.

    Raises:
        ModalityError: the slices are no regular grid, or a header does not say where its slice lies.
    """
    x_and_y = headers[0].directions
    turned = {header.path: bool(np.abs(header.directions - x_and_y).max() > TURNED) for header in headers}
    sizes = {header.path: _product(header.size) for header in headers}
    spacings = {header.path: f"{_product(header.spacing)} mm" for header in headers}
    _require_alike(folder, "orientation", [f"one in {files}" for files in _groups(turned).values()])
    _require_alike(folder, "size", [f"{size} in {files}" for size, files in _groups(sizes).items()])
    _require_alike(folder, "spacing", [f"{spacing} in {files}" for spacing, files in _groups(spacings).items()])
    normal = np.cross(*x_and_y)
    positions = np.array([header.position for header in headers])
    order = np.argsort(positions @ normal)
    positions, ordered = positions[order], [headers[index] for index in order]
    distance = _distance(folder, ordered, positions, normal)
    direction = np.stack([*x_and_y, normal], axis=1).ravel()
    return (*headers[0].spacing[:2], distance), (*positions[0].tolist(),), (*direction.tolist(),), ordered


def _groups(values: Mapping[Path, Value]) -> dict[Value, str]:
    """Return which files have each value, as in '5 files such as im000.dcm'."""
    files: dict[Value, list[Path]] = {}
    for path, value in values.items():
        files.setdefault(value, []).append(path)
    return {
        value: f"{len(paths)} files such as {paths[0].name}" if paths[1:] else paths[0].name
        for value, paths in files.items()
    }


def _product(numbers: Sequence[float]) -> str:
    return " x ".join(f"{number:g}" for number in numbers[:2])


def _require_alike(folder: Path, name: str, found: Sequence[str]) -> None:
    if len(found) > 1:
        raise ModalityError(
            f"The slices in {folder} differ in {name}: {', '.join(found)}. A series must have one. Perhaps it contains "
            "a localizer. Put each part into a folder of its own."
        )


def _distance(folder: Path, ordered: Sequence[Header], positions: np.ndarray, normal: np.ndarray) -> float:
    """Return the distance between slices in mm, and refuse stacks that are no regular grid."""
    if len(ordered) == 1:
        if (thickness := ordered[0].thickness) is None:
            raise ModalityError(f"{folder} has one slice of unknown thickness. Export the whole series.")
        return thickness
    steps = np.diff(positions, axis=0)
    gaps = steps @ normal
    typical = float(np.median(gaps))
    paths = [header.path for header in ordered]
    for before, after, gap in zip(paths, paths[1:], gaps, strict=False):
        if gap <= UNEVEN * typical:
            raise ModalityError(
                f"{before} and {after} lie at the same place. Each slice may be there only once. "
                "Remove the double ones."
            )
        if abs(gap - typical) > UNEVEN * typical:
            raise ModalityError(
                f"{before} and {after} are {gap:.4g} mm apart, most slices {typical:.4g} mm. "
                "Perhaps slices are missing. Export the whole series."
            )
    whole = positions[-1] - positions[0]
    angle = float(np.degrees(np.arccos(np.clip(whole @ normal / np.linalg.norm(whole), -1, 1))))
    if angle > TILTED:
        raise ModalityError(
            f"The slices in {folder} are shifted against each other by a gantry tilt of {angle:.3g} degrees, which no "
            "grid can store. Correct the tilt first, for example with dcm2niix."
        )
    return float(gaps.mean())
