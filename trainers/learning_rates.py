"""Learning rates that nnU-Net has not: a polynomial in two phases, and a cosine after a warm-up."""

import math

from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from torch.optim import Optimizer


class TwoPhasePolyLR:
    """nnU-Net's polynomial over the first phase, and again over the second, from where one over all epochs would be.

    With E epochs, W of them in the first phase, and the exponent 0.9 of nnU-Net's polynomial, epoch t has the rate
    `lr (1 - t / W)^0.9` up to W, and `lr (1 - W / E)^0.9 (1 - (t - W) / (E - W))^0.9` from there. LCKD's published code
    does so with its 80,000 of 115,000 iterations: it restarts at 3.4e-3 of 1e-2.

    Args:
        optimizer: its rates are set.
        initial_lr: lr.
        num_epochs: E.
        first_phase: W, 0 to E; with 0 or E there is one phase.
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


class WarmUpCosineLR:
    """A rate that rises in a line and falls as half a cosine, as transformers are trained.

    Epoch t of E, W of them for the rise, has the rate `lr (t + 1) / W` up to W, and
    `lr (1 + cos(pi (t - W) / (E - W))) / 2` from there.

    Args:
        optimizer: its rates are set.
        initial_lr: lr, the highest.
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
