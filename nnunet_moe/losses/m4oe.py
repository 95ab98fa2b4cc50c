"""The loss of M4oE's phase one, a masked autoencoder: docs/explanation/m4oe.md."""

import torch
from torch import Tensor

from nnunet_moe.losses.precision import at_least_float32


def reconstruction_loss(reconstructed: Tensor, image: Tensor, counted: Tensor) -> Tensor:
    """The mean squared error where it counts, of a masked autoencoder.

    Args:
        reconstructed: `(B, C, *space)`.
        image: of the same shape.
        counted: `(B, 1, *space)` bool.

    Returns:
        A scalar in float32 or wider; 0 where nothing counts.
    """
    square = (at_least_float32(reconstructed) - image).square()
    return torch.where(counted, square, 0).sum() / (counted.sum() * image.shape[1]).clamp_min(1)
