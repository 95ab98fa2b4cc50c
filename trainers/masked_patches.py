"""The random choice of the patches that a masked autoencoder hides."""

import torch
from torch import Tensor


def draw_masked_patches(batch_size: int, rows: int, columns: int, ratio: float, generator: torch.Generator) -> Tensor:
    """Draw the patches to mask: the same number in each item, without replacement.

    Args:
        batch_size: B.
        rows: number of rows of patches.
        columns: number of columns of patches.
        ratio: the fraction to mask, 0 to 1; it is rounded to whole patches.
        generator: a CPU generator; the draw depends only on it.

    Returns:
        `(B, rows, columns)` bool, true where a patch is masked.
    """
    number = round(ratio * rows * columns)
    order = torch.rand(batch_size, rows * columns, generator=generator).argsort(dim=1)
    return (order < number).unflatten(1, (rows, columns))
