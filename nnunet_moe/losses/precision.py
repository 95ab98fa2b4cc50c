"""The precision in which losses are computed."""

import torch
from torch import Tensor


def at_least_float32(logits: Tensor) -> Tensor:
    """Convert to float32, except float64, which is kept."""
    return logits if logits.dtype == torch.float64 else logits.float()
