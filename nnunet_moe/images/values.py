"""Check that nnU-Net can normalize the values of an image."""

import numpy as np

from nnunet_moe.errors import ModalityError
from nnunet_moe.images.placeholders import single_value

LARGEST = 1e14
"""The largest magnitude of a voxel. Above it, sums of squares over an image overflow in single precision, and nnU-Net's
normalization gives NaN."""
SMALLEST_RANGE = 1e-7
"""The smallest difference between the largest and the smallest voxel. nnU-Net's normalization divides by at least 1e-8,
so it does not scale such an image."""


def require_usable_values(channel: np.ndarray, name: str) -> None:
    """Refuse values that nnU-Net's normalization turns into NaN or into almost nothing.

    Args:
        channel: its voxels, finite.
        name: name of its file or modality, for errors.

    Raises:
        ModalityError: values are too large, or differ too little.
    """
    lowest, highest = float(channel.min()), float(channel.max())
    if (largest := max(abs(lowest), abs(highest))) > LARGEST:
        raise ModalityError(
            f"{name} has voxels up to {largest:.2g}. nnU-Net's normalization needs voxels below {LARGEST:.0e}. "
            "Repair the image, or remove the file, because a modality may be missing."
        )
    if highest - lowest < SMALLEST_RANGE and single_value(channel) is None:
        raise ModalityError(
            f"{name} has voxels from {lowest:.3g} to {highest:.3g}. nnU-Net's normalization needs a range above "
            f"{SMALLEST_RANGE:.0e}. Multiply all images of this modality by the same number, or remove the file, "
            "because a modality may be missing."
        )


def is_available(channel: np.ndarray, name: str) -> bool:
    """Return whether a channel is available: it is neither NaN in all voxels nor has it a single value.

    Args:
        channel: its voxels.
        name: name of its file or modality, for errors.

    Raises:
        ModalityError: some voxels are NaN or infinite, but not all are NaN.
    """
    if np.isnan(channel).all():
        return False
    if not np.isfinite(channel).all():
        raise ModalityError(
            f"{name} is NaN or infinite in some voxels. A missing channel must be NaN in every voxel, and an available "
            "one in none. Repair it."
        )
    require_usable_values(channel, name)
    return single_value(channel) is None
