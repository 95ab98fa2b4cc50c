"""How well a training does with each modality code so far, and how often each code is drawn because of it."""

from collections.abc import Sequence

import torch
from torch import Tensor, distributed

from nnunet_moe.modalities.codes import Code

MEMORY = 0.7
"""The weight of earlier epochs in the running Dice."""


class CodeNeeds:
    """The running soft Dice of each code on the training batches, and the weights of the draws.

    The counts of an epoch become part of the running Dice when the epoch ends. So weights are constant within an epoch,
    and a training that is resumed draws the same codes.

    Args:
        codes: all 2^K - 1 codes.
        power: gamma; need is (1 - Dice)^gamma.
        floor: f, the part of the draws in which all codes are as likely.
        num_labels: number of labels or regions.
        device: where the counts are kept during an epoch.
    """

    def __init__(
        self, codes: Sequence[Code], *, power: float, floor: float, num_labels: int, device: torch.device
    ) -> None:
        self.codes = torch.tensor(codes, device=device)
        """`(M, K)` bool, all codes."""
        self.dice = torch.full((len(codes),), torch.nan, dtype=torch.float64)
        """`(M,)` the running soft Dice, mean over the labels; NaN for codes that were not seen yet."""
        self._power, self._floor = power, floor
        self._digits = 2 ** torch.arange(self.codes.shape[1], device=device)
        self._position = torch.zeros(2 ** self.codes.shape[1], dtype=torch.long, device=device)
        self._position[(self.codes * self._digits).sum(dim=1)] = torch.arange(len(codes), device=device)
        self._counts = torch.zeros(len(codes), num_labels, 2, device=device)

    @property
    def weights(self) -> Tensor:
        """`(M,)` float64, the probability of each code for an item that has all modalities.

        It is f / M + (1 - f) (1 - Dice)^gamma / (its sum over the codes). Codes that were not seen yet have a Dice of
        0.
        """
        need = (1 - self.dice.nan_to_num(0)).clamp_min(1e-6) ** self._power
        return self._floor / len(need) + (1 - self._floor) * need / need.sum()

    def count(self, available: Tensor, overlap: Tensor) -> None:
        """Count the items of a batch for their codes.

        Args:
            available: `(B, K)` bool, the modalities that the network saw.
            overlap: `(B, labels, 2)`, the result of `soft_overlap`.
        """
        numbers = self._position[(available * self._digits).sum(dim=1)]
        self._counts.index_add_(0, numbers, overlap)

    def end_epoch(self) -> None:
        """Update the running Dice with the counts of all processes, and start to count again."""
        if distributed.is_initialized():
            distributed.all_reduce(self._counts)
        both, sizes = self._counts.to("cpu", torch.float64).unbind(dim=2)
        of_epoch = (both / sizes).nanmean(dim=1)  # 0 / 0 for labels that are neither annotated nor predicted
        running = torch.where(self.dice.isnan(), of_epoch, MEMORY * self.dice + (1 - MEMORY) * of_epoch)
        self.dice = torch.where(of_epoch.isnan(), self.dice, running)
        self._counts.zero_()
