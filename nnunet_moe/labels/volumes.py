"""The volumes of labels, and the space that they lie in."""

from collections.abc import Mapping, Sequence

import numpy as np

NO_AXIS = 900  # nnU-Net's readers give 2D images a first axis of one slice, 999 times as thick as a pixel is wide


def volumes_of(
    segmentation: np.ndarray, spacing: Sequence[float], labels: Mapping[str, int | tuple[int, ...]]
) -> dict[str, float]:
    """The volume of each label or region.

    Args:
        segmentation: labels, `(*space)`.
        spacing: mm, as the reader gave it.
        labels: name -> label or region.

    Returns:
        Name -> mm3, or mm2 in 2D.
    """
    voxel = float(np.prod(axes_in_space(segmentation.shape, spacing)))
    return {name: float(np.isin(segmentation, label).sum()) * voxel for name, label in labels.items()}


def axes_in_space(shape: Sequence[int], spacing: Sequence[float]) -> tuple[float, ...]:
    """The spacing of the axes that lie in space, in mm: all of them, or the last two of a 2D image.

    Args:
        shape: `(*space)` as nnU-Net's readers give it; a 2D image has a first axis of one slice.
        spacing: mm, as the reader gave it.
    """
    is_flat = shape[0] == 1 and spacing[0] >= NO_AXIS * max(spacing[1:])
    return tuple(spacing[1:] if is_flat else spacing)
