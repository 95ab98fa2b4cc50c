"""The precision in which losses are summed."""

import torch
from torch import Tensor


def at_least_float32(logits: Tensor) -> Tensor:
    """The same values in float32, or in float64 if they have it already."""
    return logits if logits.dtype == torch.float64 else logits.float()
