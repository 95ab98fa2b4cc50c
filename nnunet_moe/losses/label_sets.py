"""nnU-Net's loss where cases were annotated with different labels.

Jiang, Shen, "M4oE: A foundation model for medical multimodal image segmentation with mixture of experts", MICCAI 2024
(dynamic selection); decisions: docs/how_to/label_sets.md.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Levels = Any
"""A tensor, or one per resolution under deep supervision; what comes in is what comes out."""


@dataclass(frozen=True)
class LabelSetGroup:
    """The items of a batch that have the same label set, and this set."""

    items: list[int]
    outputs: list[int]
    batch_size: int
    num_outputs: int

    @property
    def share(self) -> float:
        """The part of the batch."""
        return len(self.items) / self.batch_size

    def logits(self, logits: Levels) -> Levels:
        """Those of these items and outputs, of `(B, C, *space)`; as every argument below, also a list of levels."""
        return _of_levels(lambda level: self._of_items(level)[:, self.outputs], logits)

    def target(self, target: Levels) -> Levels:
        """Labels `(B, 1, *space)` with new numbers, where what the set does not have is background, or regions.

        What comes after the outputs, nnU-Net's ignore label, stays.
        """
        return _of_levels(self._target, target)

    def voxels(self, voxels: Levels) -> Levels:
        """What holds for these items, of `(B, 1, *space)`, or None."""
        return _of_levels(self._of_items, voxels)

    def _of_items(self, level: Any) -> Any:
        return level if level is None or len(self.items) == self.batch_size else level[self.items]

    def _target(self, target: Tensor) -> Tensor:
        target = self._of_items(target)
        if target.shape[1] > 1 or target.dtype == torch.bool:
            return target[:, [*self.outputs, *range(self.num_outputs, target.shape[1])]]
        numbers = torch.zeros(self.num_outputs, dtype=target.dtype, device=target.device)
        numbers[self.outputs] = torch.arange(len(self.outputs), dtype=target.dtype, device=target.device)
        return torch.where(target < self.num_outputs, numbers[target.long().clamp(0, self.num_outputs - 1)], target)


class LabelSetLoss(nn.Module):
    """nnU-Net's loss, of each item in its own label set: neither softmax nor Dice nor background know other labels.

    Items of the same set make up a batch of their own; the loss is the mean over items. Where nnU-Net's Dice sums over
    the batch, it sums over these.

    Args:
        loss: of logits and target, as nnU-Net's trainer builds it.
    """

    groups: tuple[LabelSetGroup, ...] = ()

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def use(self, sets: Tensor) -> None:
        """Set what the next batches' items are: `(B, C)` bool."""
        self.groups = tuple(
            LabelSetGroup(
                (sets == chosen).all(dim=1).nonzero().flatten().tolist(),
                chosen.nonzero().flatten().tolist(),
                *sets.shape,
            )
            for chosen in sets.unique(dim=0)
        )

    def forward(self, logits: Levels, target: Levels) -> Tensor:
        """The loss of a batch; its arguments are those of nnU-Net's."""
        return self.mean(lambda group: self.loss(group.logits(logits), group.target(target)))

    def mean(self, loss_of: Callable[[LabelSetGroup], Tensor]) -> Tensor:
        """The mean over items of a loss that is known for each group."""
        return torch.stack([group.share * loss_of(group) for group in self.groups]).sum()


def _of_levels(function: Callable[[Tensor], Tensor], levels: Levels) -> Levels:
    return [function(level) for level in levels] if isinstance(levels, list) else function(levels)
