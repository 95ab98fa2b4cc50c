"""Which patches of an image a masked autoencoder does not show."""

import torch
from torch import Tensor


def draw_masked_patches(batch_size: int, rows: int, columns: int, ratio: float, generator: torch.Generator) -> Tensor:
    """Mask the same number of patches in each item, drawn without replacement.

    Args:
        rows, columns: of patches.
        ratio: 0 to 1; the number is rounded to whole patches.
        generator: a CPU generator; the draw depends on it alone.

    Returns:
        `(B, rows, columns)` bool.
    """
    number = round(ratio * rows * columns)
    order = torch.rand(batch_size, rows * columns, generator=generator).argsort(dim=1)
    return (order < number).unflatten(1, (rows, columns))
