"""The voxels of a segmentation: whole numbers, and only those that are labels in dataset.json."""

from typing import Any

import numpy as np

from nnunet_moe.errors import ModalityError
from nnunet_moe.labels.labels import voxel_values

ABSOLUTE, RELATIVE = 1e-4, 1e-5
"""By how much a voxel may differ from a whole number, so that only rounding explains it.

Files store labels as floating-point numbers, or as integers with a slope of about seven digits.
"""
NOISE = 1e-7
"""What computations leave of 0 in single precision. A segmentation without labels may have such voxels."""
MOST_EXAMPLES = 5


def whole_numbers(segmentation: np.ndarray, file: str) -> np.ndarray:
    """Return a segmentation without the rounding errors of its file: 0.99999994 becomes 1.

    nnU-Net would cut off the fraction and so turn 0.99999994 into 0.

    Args:
        segmentation: `(*space)`, finite.
        file: its file, for errors.

    Raises:
        ModalityError: voxels differ from whole numbers by more than rounding errors, or rounding would leave only 0.
    """
    if segmentation.dtype.kind != "f":
        return segmentation
    rounded = np.rint(segmentation)
    if np.array_equal(rounded, segmentation):
        return segmentation
    is_whole = np.isclose(segmentation, rounded, rtol=RELATIVE, atol=ABSOLUTE)
    if not is_whole.all():
        odd = np.unique(segmentation[~is_whole])
        raise ModalityError(
            f"{file} has {np.count_nonzero(~is_whole)} voxels that are not whole numbers: {_examples(odd)}. The voxels "
            "of a segmentation must be labels. If it was resampled, use nearest-neighbor interpolation. If it was "
            "rescaled, store the labels themselves."
        )
    if not rounded.any() and np.abs(segmentation).max() > NOISE:
        raise ModalityError(
            f"{file} has only voxels that are almost 0: {_examples(np.unique(segmentation[segmentation != 0]))}. The "
            "voxels of a segmentation must be labels. If it was rescaled, store the labels themselves."
        )
    return rounded


def require_known(segmentation: np.ndarray, file: str, dataset_json: dict[str, Any]) -> None:
    """Make sure that a segmentation has no other values than the labels in dataset.json.

    Args:
        segmentation: `(*space)`, whole numbers.
        file: its file, for errors.
        dataset_json: the content of dataset.json.

    Raises:
        ModalityError: it has others.
    """
    allowed, values = voxel_values(dataset_json), np.unique(segmentation)
    if len(unknown := values[~np.isin(values, allowed)]):
        raise ModalityError(
            f"{file} has voxels with {_examples(unknown)}, but the labels in dataset.json are "
            f"{', '.join(map(str, allowed))}. Correct one of the files."
        )


def _examples(values: np.ndarray) -> str:
    """Return values with all their digits, whole numbers without a decimal point."""
    shown = ", ".join(str(value).removesuffix(".0") for value in values[:MOST_EXAMPLES])
    return shown + (f" and {len(values) - MOST_EXAMPLES} other values" if len(values) > MOST_EXAMPLES else "")
