"""Which windows of an image a masked autoencoder hides."""

import torch
from torch import Tensor


def draw_hidden(batch_size: int, rows: int, columns: int, ratio: float, generator: torch.Generator) -> Tensor:
    """Hide the same number of windows in each item, drawn without replacement.

    Args:
        rows, columns: of windows.
        ratio: 0 to 1; the number is rounded to whole windows.
        generator: a CPU generator; the draw depends on it alone.

    Returns:
        `(B, rows, columns)` bool.
    """
    number = round(ratio * rows * columns)
    order = torch.rand(batch_size, rows * columns, generator=generator).argsort(dim=1)
    return (order < number).unflatten(1, (rows, columns))
