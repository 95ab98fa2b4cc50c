"""Check that a 3D network gets volumes."""

from collections.abc import Sequence

from nnunet_moe.errors import ModalityError
from nnunet_moe.labels.volumes import axes_in_space


def require_volume(
    shape: Sequence[int], spacing: Sequence[float], patch_size: Sequence[int], name: str, *, for_training: bool = False
) -> None:
    """Refuse a slice for a 3D network.

    nnU-Net's readers give a 2D image a first axis with a spacing of 999, so nnU-Net would stretch it to hundreds of
    slices. A volume with one slice keeps its thickness. nnU-Net trains on such cases, but a network that was trained on
    volumes cannot segment them well.

    Args:
        shape: `(*space)` of the images, as nnU-Net's readers give it.
        spacing: spacing of the axes, as nnU-Net's reader gives it.
        patch_size: of the configuration; it has two or three numbers.
        name: the file or case, for the error.
        for_training: whether a volume with one slice is allowed.

    Raises:
        ModalityError: the images are a slice, and the network is 3D.
    """
    if len(patch_size) < 3:
        return
    is_flat = len(axes_in_space(shape, spacing)) < len(shape)
    if is_flat or (min(shape) == 1 and not for_training):
        raise ModalityError(
            f"{name} is a slice ({' x '.join(map(str, shape))} voxels), but the configuration is for volumes. Give a "
            "volume, or use a 2D configuration."
        )
