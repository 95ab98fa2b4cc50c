"""Learning-rate schedules that nnU-Net does not have."""

import math
from typing import Any

from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from torch.optim import Optimizer

LAST_PHASE_FACTOR = 0.01
"""The factor of the rate of shared weights in the last phase for the codes."""


class TwoPhasePolyLR:
    """nnU-Net's polynomial decay in two phases.

    The second phase starts with the rate that one polynomial over all epochs would have at this point. With E epochs, W
    of them in the first phase, and nnU-Net's exponent 0.9, epoch t has the rate

    - `lr (1 - t / W)^0.9` before epoch W,
    - `lr (1 - W / E)^0.9 (1 - (t - W) / (E - W))^0.9` from epoch W on.

    LCKD's published code does the same: its first phase is 80,000 of 115,000 iterations, so its rate restarts at 3.4e-3
    after an initial 1e-2.

    Args:
        optimizer: the optimizer whose rates are set.
        initial_lr: lr, the rate of epoch 0.
        num_epochs: E.
        first_phase: W, 0 to E; with 0 or E there is only one phase.
    """

    def __init__(self, optimizer: Optimizer, initial_lr: float, num_epochs: int, first_phase: int) -> None:
        self._first_phase = first_phase
        self._first = PolyLRScheduler(optimizer, initial_lr, max(1, first_phase))
        restart = initial_lr * (1 - first_phase / num_epochs) ** self._first.exponent
        self._second = PolyLRScheduler(optimizer, restart, max(1, num_epochs - first_phase))
        self.step(0)

    def step(self, epoch: int) -> None:
        """Set the rate of an epoch, as nnU-Net's trainer does when one begins."""
        if epoch < self._first_phase:
            self._first.step(epoch)
        else:
            self._second.step(epoch - self._first_phase)


class LastPhaseLR:
    """nnU-Net's polynomial decay, with a last phase in which one group of weights has a hundredth of the rate.

    Args:
        scheduler: nnU-Net's, which sets the same rate for all groups.
        group: the group of the optimizer whose rate is reduced.
        first_epoch: the first epoch of the last phase.
    """

    def __init__(self, scheduler: PolyLRScheduler, group: dict[str, Any], *, first_epoch: int) -> None:
        self._scheduler, self._group, self._first_epoch = scheduler, group, first_epoch

    def step(self, epoch: int) -> None:
        """Set the rates of an epoch, as nnU-Net's trainer does when one begins."""
        self._scheduler.step(epoch)
        if epoch >= self._first_epoch:
            self._group["lr"] *= LAST_PHASE_FACTOR


class WarmUpCosineLR:
    """A linear warm-up followed by half a cosine, as is usual for transformers.

    With E epochs, W of them in the warm-up, epoch t has the rate

    - `lr (t + 1) / W` before epoch W,
    - `lr (1 + cos(pi (t - W) / (E - W))) / 2` from epoch W on.

    Args:
        optimizer: the optimizer whose rates are set.
        initial_lr: lr, the highest rate.
        num_epochs: E.
        warm_up: W, 1 to E.
    """

    def __init__(self, optimizer: Optimizer, initial_lr: float, num_epochs: int, warm_up: int) -> None:
        self._optimizer, self._highest, self._num_epochs, self._warm_up = optimizer, initial_lr, num_epochs, warm_up
        self.step(0)

    def step(self, epoch: int) -> None:
        """Set the rate of an epoch, as nnU-Net's trainer does when one begins."""
        if epoch < self._warm_up:
            share = (epoch + 1) / self._warm_up
        else:
            share = (1 + math.cos(math.pi * (epoch - self._warm_up) / (self._num_epochs - self._warm_up))) / 2
        for group in self._optimizer.param_groups:
            group["lr"] = self._highest * share
