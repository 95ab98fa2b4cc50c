"""Check that images lie on the same grid.

All distances are in voxels: how far the same voxel of two images lies apart, at the corner where this is the most. So
one tolerance serves images of millimeters and of micrometers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import permutations, product
from typing import Any

import nibabel
import numpy as np
from nibabel.orientations import inv_ornt_aff, io_orientation

from nnunet_moe.errors import ModalityError
from nnunet_moe.images.headers import QFORM, SFORM, stored_forms

TOLERANCE = 0.03
"""Voxels by which files may be shifted without a message. Headers of images on the same grid differ by rounding."""
ROUNDED = 0.1
"""Voxels by which images of a case may be shifted. A large image reaches 0.07 if its header has four decimals."""
HALF_A_VOXEL = 0.5
"""The largest shift, in voxels, at which the voxels of two files still overlap most with their partners. It is allowed
between a segmentation and its images, with a note, because nnU-Net pairs their voxels by index."""
RESAMPLE = (
    "Resample them first, or let `nnunet_moe import` and `predict` (see --align) or a container (see align in its "
    "mapping.json) do it."
)
FARTHEST = 1e9
"""Sizes and positions must be below it, in mm. Above it, shifts of a voxel are lost in rounding."""
CLOSE = np.cos(np.deg2rad(55))
"""The cosine of the largest angle at which an axis of an oblique image may count as an axis of the body."""
_TO_RAS = np.diag([-1.0, -1.0, 1.0])  # ITK's axes point to the left, posterior and superior


@dataclass(frozen=True)
class ReadFile:
    """A file that nnU-Net's reader has read."""

    file: str
    shape: tuple[int, ...]
    """`(*space)`, in the order of the array."""
    properties: dict[str, Any]
    """The properties that the reader returned."""

    @cached_property
    def form_grids(self) -> "dict[str, Grid]":
        """The grids by sform and qform of a NIfTI file, in the order of axes of the array that was read."""
        by_itk = bool({"sitk_stuff", "sent"} & self.properties.keys())
        nibabel_stuff, size = self.properties.get("nibabel_stuff", {}), self.shape[::-1]
        grids = {}
        for name, affine in stored_forms(self.file, in_mm=by_itk).items():
            if not np.isfinite(affine).all() or np.linalg.det(affine[:3, :3]) == 0:
                return {}
            if "reoriented_affine" in nibabel_stuff:
                orientation = io_orientation(nibabel_stuff["original_affine"])
                stored_size = np.array(size)[orientation[:, 0].astype(int)]
                affine = affine @ inv_ornt_aff(orientation, tuple(stored_size))
            grids[name] = Grid(size, affine[:3, :3], affine[:3, 3], np.linalg.norm(affine[:3, :3], axis=0))
        return grids


@dataclass(frozen=True)
class Grid:
    """The positions of an image's voxels. All arrays are in the order of the file: x, y and, in 3D, z."""

    size: tuple[int, ...]
    """Number of voxels `(axes)`."""
    matrix: np.ndarray
    """`(axes, axes)`; column i is the step along axis i, in mm and in RAS."""
    origin: np.ndarray | None
    """Position of the first voxel `(axes)` in mm, or None if the format stores no position."""
    spacing: np.ndarray
    """`(axes)`, in mm, as the reader returned it."""

    @classmethod
    def of(cls, read: ReadFile) -> "Grid":
        """Return the grid that nnU-Net's reader found.

        Raises:
            ModalityError: the header says that voxels have no size, or it holds values above `FARTHEST` or NaN.
        """
        size, properties = read.shape[::-1], read.properties
        spacing = np.array(properties["spacing"][::-1], dtype=float)
        nibabel_stuff = properties.get("nibabel_stuff", {})
        itk_stuff = properties.get("sent") or properties.get("sitk_stuff")
        affine = nibabel_stuff.get("reoriented_affine", nibabel_stuff.get("original_affine"))
        if affine is not None:
            grid = cls(size, affine[:3, :3], affine[:3, 3], spacing)
        elif itk_stuff is not None:
            axes = min(len(itk_stuff["origin"]), 3)
            to_ras = _TO_RAS[:axes, :axes]
            direction = np.reshape(itk_stuff["direction"], [len(itk_stuff["origin"])] * 2)[:axes, :axes]
            matrix = to_ras @ direction * np.array(itk_stuff["spacing"][:axes])
            grid = cls(size[:axes], matrix, to_ras @ itk_stuff["origin"][:axes], spacing[:axes])
        else:
            grid = cls(size, np.diag(spacing), None, spacing)
        numbers = np.hstack([grid.matrix.flat, grid.spacing, () if grid.origin is None else grid.origin])
        if not (np.abs(numbers) < FARTHEST).all() or np.linalg.det(grid.matrix) == 0 or grid.spacing.min() <= 0:
            place = "" if grid.origin is None else f", the first voxel is at {_numbers(grid.origin)} mm"
            raise ModalityError(
                f"The header of {read.file} gives its voxels no usable size or position: the spacing is "
                f"{_numbers(grid.spacing)} mm{place}. Correct the header."
            )
        return grid

    @property
    def axis_codes(self) -> tuple[str, ...]:
        """The directions of the axes of the file, such as `LPS`; empty if the format or its header has none.

        The first one is nibabel's. For an oblique image, all others follow whose axes lie almost as close to those of
        the image. Near 45 degrees, a small turn changes which one is closest.
        """
        if self.origin is None or len(self.size) != 3:
            return ()
        affine = np.eye(4)
        affine[:3, :3] = self.matrix
        codes = nibabel.aff2axcodes(affine)
        if None in codes:
            return ()
        cosines = self.matrix / np.linalg.norm(self.matrix, axis=0)
        close = [
            "".join("LPIRAS"[axis + 3 * int(cosines[axis, place] > 0)] for place, axis in enumerate(order))
            for order in permutations(range(3))
            if all(abs(cosines[axis, place]) > CLOSE for place, axis in enumerate(order))
        ]
        return tuple(dict.fromkeys(("".join(codes), *close)))

    def shift(self, other: "Grid") -> tuple[float, float]:
        """Return the largest distance between the same voxel in both grids, in voxels and in mm.

        It is the same in both orders: if the voxels of the grids have other sizes, the smaller ones count. It is
        infinite if the grids have other numbers of voxels. Positions that a format does not store count as equal.
        """
        if self.size != other.size:
            return np.inf, np.inf
        corners = np.array(list(product(*[(0, number - 1) for number in self.size]))).T
        apart = (other.matrix - self.matrix) @ corners
        if self.origin is None or other.origin is None:
            apart = np.diag(other.spacing - self.spacing) @ corners
        else:
            apart += (other.origin - self.origin)[:, None]
        smaller = np.minimum(self.spacing, other.spacing)
        stretch = np.abs(other.spacing - self.spacing) / smaller * (np.array(self.size) - 1)  # NIfTI stores it twice
        moved = [np.abs(np.linalg.solve(grid.matrix, apart)).max() for grid in (self, other)]
        in_voxels = float(max(*moved, stretch.max()))
        return in_voxels, float(np.linalg.norm(apart, axis=0).max())

    def differences(self, other: "Grid") -> str:
        """Return which properties differ, and by how much."""
        if self.size != other.size:
            return f"shape: {self.size} and {other.size}"
        found = []
        if not np.allclose(self.spacing, other.spacing, rtol=1e-5, atol=0):
            found.append(f"spacing: {_numbers(self.spacing)} and {_numbers(other.spacing)} mm")
        if self.origin is not None and other.origin is not None:
            apart = float(np.linalg.norm(self.origin - other.origin))
            if apart > TOLERANCE * self.spacing.min():
                found.append(f"origin: by {apart:.3g} mm")
            steps = [grid.matrix / np.linalg.norm(grid.matrix, axis=0) for grid in (self, other)]
            turned = np.degrees(2 * np.arcsin(np.clip(np.linalg.norm(steps[0] - steps[1], axis=0) / 2, 0, 1))).max()
            if turned > 1e-3:
                found.append(f"direction: by {turned:.2g} degrees")
        return " and ".join(found)


def require_same_geometry(first: ReadFile, other: ReadFile) -> str | None:
    """Compare the grids of two images of a case.

    Two NIfTI files must also lie on the same grid by both placements, if both headers hold both. Some programs that
    register images write only one of them.

    Returns:
        A message if the shift is above `TOLERANCE`.

    Raises:
        ModalityError: the shapes differ, or the shift is above `ROUNDED`.
    """
    grid, other_grid = Grid.of(first), Grid.of(other)
    in_voxels, in_mm = grid.shift(other_grid)
    forms, other_forms = first.form_grids, other.form_grids
    if in_voxels > TOLERANCE:
        text = f"{other.file} and {first.file} differ in {other_grid.differences(grid) or 'direction'}"
        if np.isinf(in_voxels):
            raise ModalityError(f"{text}. All files of a case must lie on the same grid. {RESAMPLE}")
        text += f", so voxels are shifted by up to {in_voxels:.3g} voxels ({in_mm:.3g} mm)"
        if in_voxels <= ROUNDED:
            return f"{text}. They are used as they are. If this is only rounding, copy the header of one to the other"
        hint = _same_by_another_form(forms, other_forms) or RESAMPLE
        if in_voxels <= HALF_A_VOXEL:
            hint = f"If this is only rounding, copy the header of one to the other. If not: {hint}"
        raise ModalityError(f"{text}. All files of a case must lie on the same grid. {hint}")
    for name in forms.keys() & other_forms.keys():
        if (in_voxels := forms[name].shift(other_forms[name])[0]) > HALF_A_VOXEL:
            equal = QFORM if name == SFORM else SFORM
            raise ModalityError(
                f"{other.file} and {first.file} lie on the same grid by the {equal} in their headers, but by the "
                f"{name} they are shifted by up to {in_voxels:.3g} voxels. Perhaps a registration wrote only one of "
                f"both. Find out which is right, and write it to both. If it is the {name}, then resample the files "
                "onto one grid."
            )
    return None


def _same_by_another_form(forms: Mapping[str, Grid], other_forms: Mapping[str, Grid]) -> str | None:
    """Return a remedy if two NIfTI files lie on one grid by placements that the reader did not choose."""
    for name, form in forms.items():
        for other_name, other in other_forms.items():
            if form.shift(other)[0] <= ROUNDED:
                return (
                    f"They do so by the {name} of the one and the {other_name} of the other. Find out which placement "
                    "is right, and write it to both the sform and the qform of each file."
                )
    return None


def label_note(image: ReadFile, label: ReadFile, *, largest_shift: float = HALF_A_VOXEL) -> str | None:
    """Compare the grids of an image and of its segmentation.

    nnU-Net pairs their voxels by index. So a small shift means that one header is not exact.

    Args:
        image: one of the images.
        label: the segmentation.
        largest_shift: the largest shift, in voxels, at which the files can be used.

    Returns:
        A message if the shift is above `TOLERANCE`, or the two placements in a NIfTI header differ.

    Raises:
        ModalityError: the shapes differ, or the shift is above `largest_shift`.
    """
    grid, label_grid = Grid.of(image), Grid.of(label)
    in_voxels, in_mm = grid.shift(label_grid)
    if in_voxels <= TOLERANCE:
        return conflict_note(label)
    text = f"{label.file} and {image.file} differ in {label_grid.differences(grid) or 'direction'}"
    if np.isinf(in_voxels):
        remedy = "Resample one of them."
        if min(image.shape) > min(label.shape) == 1:
            remedy = "One is a volume, the other a slice. Use a segmentation of the whole volume."
        raise ModalityError(f"{text}. Both must lie on the same grid. {remedy}")
    text += f", so voxels are shifted by up to {in_voxels:.3g} voxels ({in_mm:.3g} mm)"
    remedy = (
        "If the segmentation was drawn on this image, copy the image's header to it (SimpleITK: "
        "segmentation.CopyInformation(image))"
    )
    if (hint := _same_by_another_form(image.form_grids, label.form_grids)) is not None:
        remedy = f"The headers agree in part. {hint} {remedy}"
    if in_voxels > largest_shift:
        raise ModalityError(f"{text}. Both must lie on the same grid. {remedy}. If not, resample the segmentation.")
    return f"{text}. The voxels are used as they are, in pairs. {remedy}"


def conflict_note(read: ReadFile) -> str | None:
    """Return a message if the two placements in a NIfTI header differ by more than half a voxel."""
    forms = read.form_grids
    if len(forms) < 2 or (in_voxels := forms[SFORM].shift(forms[QFORM])[0]) <= HALF_A_VOXEL:
        return None
    grid = Grid.of(read)
    used = min(forms, key=lambda name: grid.shift(forms[name])[0])
    return (
        f"{read.file}: the sform and the qform in its header differ by up to {in_voxels:.3g} voxels. The {used} is used"
    )


def _numbers(values: Sequence[float] | np.ndarray) -> str:
    return " x ".join(f"{value:.6g}" for value in values)
