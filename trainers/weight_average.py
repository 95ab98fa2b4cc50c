"""The exponential moving average of the weights, which is the model that is validated and saved."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class WeightAverage:
    """The exponential moving average of the weights: w_avg <- d w_avg + (1 - d) w after each iteration.

    In iteration t, d is at most (1 + t) / (10 + t), so that the average does not remember the initial weights. The
    other weights are kept here: the average while the network is trained, and the trained weights while the network has
    the average.

    Args:
        parameters: the parameters of the network.
        decay: d, 0 to 1.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], decay: float) -> None:
        self._parameters: list[Any] = list(parameters)
        self._decay = decay
        self._other: list[Tensor] = []
        self._num_updates = 0
        self._is_in_network = False

    def begin(self) -> None:
        """Begin or go on with the training of the weights: they are in the network from now on."""
        if not self._other:
            self._other = [parameter.detach().clone() for parameter in self._parameters]
        if self._is_in_network:
            self._swap()

    def update(self) -> None:
        """Add the current weights to the average."""
        decay = min(self._decay, (1 + self._num_updates) / (10 + self._num_updates))
        self._num_updates += 1
        get_ema_multi_avg_fn(decay)(self._other, self._parameters, self._num_updates)  # without gradient

    def show(self) -> None:
        """Put the average into the network, to be validated and saved."""
        if self._other and not self._is_in_network:
            self._swap()

    @contextmanager
    def in_network(self) -> Iterator[None]:
        """Put the average into the network for a while."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint needs in addition to the network's weights."""
        return {"other": self._other, "num_updates": self._num_updates, "is_in_network": self._is_in_network}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from the state of a checkpoint, whose weights the network already has."""
        self._other = [other.to(own) for other, own in zip(state["other"], self._parameters, strict=True)]
        self._num_updates, self._is_in_network = state["num_updates"], state["is_in_network"]

    def _swap(self) -> None:
        """Exchange the weights of the network and those that are kept, one tensor after the other to save memory."""
        with torch.no_grad():
            for parameter, other in zip(self._parameters, self._other, strict=True):
                kept = parameter.clone()
                parameter.copy_(other)
                other.copy_(kept)
        self._is_in_network = not self._is_in_network
