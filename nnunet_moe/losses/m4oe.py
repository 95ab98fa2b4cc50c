"""The loss of M4oE's first phase, the pre-training of a masked autoencoder. Decisions: docs/explanation/m4oe.md."""

import torch
from torch import Tensor

from nnunet_moe.losses.precision import at_least_float32


def reconstruction_loss(reconstructed: Tensor, image: Tensor, counted: Tensor) -> Tensor:
    """Compute the mean squared error of a masked autoencoder over the voxels that count.

    Args:
        reconstructed: `(B, C, *space)`.
        image: `(B, C, *space)`.
        counted: `(B, 1, *space)` bool, true at voxels that count, which are the masked ones.

    Returns:
        A scalar in float32 or float64, at least 0; it is 0 if no voxel counts.
    """
    square = (at_least_float32(reconstructed) - image).square()
    return torch.where(counted, square, 0).sum() / (counted.sum() * image.shape[1]).clamp_min(1)
