"""Check that an image can be resampled to the spacing of a model, before memory is taken for it."""

import math
from collections.abc import Sequence

import numpy as np
from nnunetv2.preprocessing.cropping.cropping import get_bbox_from_mask
from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape

from nnunet_moe.errors import ModalityError
from nnunet_moe.runtime.host_memory import available_bytes


def require_resampled_size(
    data: np.ndarray, spacing: Sequence[float], target: Sequence[float], transpose: Sequence[int]
) -> None:
    """Refuse images that would have no voxel left, or more voxels than the memory can hold.

    Mostly the header says a wrong spacing then, for example in another unit.

    Args:
        data: `(K, *space)`, zero in missing channels.
        spacing: of the axes of `data`, in mm.
        target: the spacing of the configuration, with two numbers in 2D.
        transpose: order of the axes in the configuration, as in the plans.

    Raises:
        ModalityError: the images are too small or too large.
    """
    box = get_bbox_from_mask((data != 0).any(0))  # to which nnU-Net crops
    shape = np.array([end - start for start, end in box])[list(transpose)]
    own = [float(spacing[axis]) for axis in transpose]
    wanted = [*own[: len(own) - len(target)], *target]  # in 2D, nnU-Net keeps the distance of the slices
    resampled = [int(length) for length in compute_new_shape(shape, own, wanted)]
    text = (
        f"The images have voxels of {_sizes(own)} mm. At the spacing of the model, {_sizes(wanted)} mm, they would "
        f"have {' x '.join(map(str, resampled))} voxels"
    )
    if min(resampled) < 1:
        raise ModalityError(f"{text}, so nothing would be left. Perhaps the header says a wrong spacing. Correct it.")
    needed, available = 4 * len(data) * math.prod(resampled), available_bytes()
    if available is not None and needed > available:
        raise ModalityError(
            f"{text}. These need {needed / 1e9:.0f} GB of memory, but {available / 1e9:.0f} GB are available. Perhaps "
            "the header says a wrong spacing. Correct it, or use a machine with more memory."
        )


def _sizes(spacing: Sequence[float]) -> str:
    return " x ".join(f"{length:.4g}" for length in spacing)
