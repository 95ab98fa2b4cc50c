"""The volumes of labels, and the axes of an image that are spatial."""

from collections.abc import Mapping, Sequence

import numpy as np

NO_AXIS = 900
"""The smallest ratio of slice thickness to pixel width that marks a 2D image.

nnU-Net's readers give 2D images a first axis with one slice, which is 999 times as thick as a pixel is wide.
"""


def volumes_of(
    segmentation: np.ndarray, spacing: Sequence[float], labels: Mapping[str, int | tuple[int, ...]]
) -> dict[str, float]:
    """Compute the volume of each label or region.

    Args:
        segmentation: labels, `(*space)`.
        spacing: spacing of the axes in mm, as nnU-Net's reader gives it.
        labels: name -> label or region.

    Returns:
        Name -> volume in mm3, or area in mm2 for a 2D image.
    """
    voxel = float(np.prod(axes_in_space(segmentation.shape, spacing)))
    return {name: float(np.isin(segmentation, label).sum()) * voxel for name, label in labels.items()}


def axes_in_space(shape: Sequence[int], spacing: Sequence[float]) -> tuple[float, ...]:
    """Return the spacing of the spatial axes in mm: of all axes, or of the last two for a 2D image.

    Args:
        shape: `(*space)`, as nnU-Net's readers give it; a 2D image has a first axis with one slice.
        spacing: spacing of the axes in mm, as nnU-Net's reader gives it.
    """
    is_flat = shape[0] == 1 and spacing[0] >= NO_AXIS * max(spacing[1:])
    return tuple(spacing[1:] if is_flat else spacing)
