"""The parts of nnU-Net's optimizer step, separate because some methods call `backward` more than once in a step."""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn


def autocast(device: torch.device) -> AbstractContextManager:
    """Return nnU-Net's context for mixed precision; it has an effect only on CUDA devices."""
    return torch.autocast("cuda", enabled=True) if device.type == "cuda" else nullcontext()


def backward(loss: Tensor, grad_scaler: Any) -> None:
    """Compute the gradients of a scalar loss.

    Args:
        loss: a scalar.
        grad_scaler: scales the loss for mixed precision; None if it is not used.
    """
    (loss if grad_scaler is None else grad_scaler.scale(loss)).backward()


def clip_and_step(
    parameters: Iterable[nn.Parameter], optimizer: torch.optim.Optimizer, grad_scaler: Any, max_norm: float
) -> None:
    """Clip the gradients to a norm, then make a step of the optimizer.

    Args:
        parameters: the parameters whose gradients are clipped.
        optimizer: makes the step.
        grad_scaler: the scaler that `backward` used, or None.
        max_norm: the largest L2 norm of all gradients together.
    """
    if grad_scaler is not None:
        grad_scaler.unscale_(optimizer)
    torch.nn.utils.clip_grad_norm_(parameters, max_norm)
    if grad_scaler is None:
        optimizer.step()
    else:
        grad_scaler.step(optimizer)
        grad_scaler.update()
