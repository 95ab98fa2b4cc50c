"""One step of an optimizer as nnU-Net's trainer makes it, in parts: methods differentiate more than one loss."""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn


def autocast(device: torch.device) -> AbstractContextManager:
    """nnU-Net's mixed precision: on CUDA devices only."""
    return torch.autocast("cuda", enabled=True) if device.type == "cuda" else nullcontext()


def backward(loss: Tensor, grad_scaler: Any) -> None:
    """Differentiate a scalar, scaled where there is a scaler."""
    (loss if grad_scaler is None else grad_scaler.scale(loss)).backward()


def clip_and_step(
    parameters: Iterable[nn.Parameter], optimizer: torch.optim.Optimizer, grad_scaler: Any, max_norm: float
) -> None:
    """Clip the gradients to a norm, and let the optimizer step."""
    if grad_scaler is not None:
        grad_scaler.unscale_(optimizer)
    torch.nn.utils.clip_grad_norm_(parameters, max_norm)
    if grad_scaler is None:
        optimizer.step()
    else:
        grad_scaler.step(optimizer)
        grad_scaler.update()
