"""nnU-Net's loss for cases that were annotated with different labels.

Source: Jiang, Shen, "M4oE: A foundation model for medical multimodal image segmentation with mixture of experts",
MICCAI 2024 (dynamic selection). Decisions: docs/how_to/label_sets.md.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

Levels = Any
"""A tensor, or a list with one for each resolution under deep supervision; results have the same form as arguments."""


@dataclass(frozen=True)
class LabelSetGroup:
    """The items of a batch that share one label set, and this set."""

    items: list[int]
    """The positions of the items in the batch."""
    outputs: list[int]
    """The positions of the set's outputs among the network's outputs."""
    batch_size: int
    """B, the number of items in the whole batch."""
    num_outputs: int
    """C, the number of all outputs of the network."""
    _indices: dict[Any, Tensor] = field(default_factory=dict, init=False, compare=False, repr=False)
    """What was copied to a device: to index by a list, the host waits for the device each time."""

    @property
    def share(self) -> float:
        """The fraction of the batch's items that are in this group, 0 to 1."""
        return len(self.items) / self.batch_size

    def logits(self, logits: Levels) -> Levels:
        """Select the logits of the group's items and outputs.

        Args:
            logits: `(B, C, *space)`, or a list of resolutions, as in the other methods.

        Returns:
            `(items, outputs, *space)`.
        """
        return _of_levels(
            lambda level: self._of_items(level)[:, self._index("outputs", self.outputs, level.device)], logits
        )

    def target(self, target: Levels) -> Levels:
        """Select the target of the group's items, reduced to the set's labels or regions.

        Labels are renumbered, and labels outside the set become background. nnU-Net's ignore label, which follows the
        outputs, is kept.

        Args:
            target: labels `(B, 1, *space)`, or regions `(B, C or C + 1, *space)`.
        """
        return _of_levels(self._target, target)

    def voxels(self, voxels: Levels) -> Levels:
        """Select the group's items of a mask `(B, 1, *space)`; None stays None."""
        return _of_levels(self._of_items, voxels)

    def _of_items(self, level: Any) -> Any:
        if level is None or len(self.items) == self.batch_size:
            return level
        return level[self._index("items", self.items, level.device)]

    def _target(self, target: Tensor) -> Tensor:
        target = self._of_items(target)
        if target.shape[1] > 1 or target.dtype == torch.bool:
            kept = [*self.outputs, *range(self.num_outputs, target.shape[1])]
            return target[:, self._index("regions", kept, target.device)]
        new_numbers = [self.outputs.index(label) if label in self.outputs else 0 for label in range(self.num_outputs)]
        numbers = self._index("numbers", new_numbers, target.device).to(target.dtype)
        return torch.where(target < self.num_outputs, numbers[target.long().clamp(0, self.num_outputs - 1)], target)

    def _index(self, name: str, values: list[int], device: torch.device) -> Tensor:
        """Return whole numbers as a tensor on a device, to which they are copied once."""
        if (name, device) not in self._indices:
            self._indices[name, device] = torch.tensor(values).to(device, non_blocking=True)
        return self._indices[name, device]


class LabelSetLoss(nn.Module):
    """nnU-Net's loss, computed for each item only with the labels of its own label set.

    Labels outside the set take no part in softmax, Dice or background. Items with the same set form a smaller batch;
    nnU-Net's batch Dice sums over this batch. The result is the mean over all items.

    Args:
        loss: a function of logits and target, as nnU-Net's trainer builds it.
    """

    groups: tuple[LabelSetGroup, ...] = ()
    """The groups of the current batch; `use` sets them."""
    sets: Tensor
    """`(B, C)` bool, the label sets of the current batch; `use` sets them."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def use(self, sets: Tensor) -> None:
        """Set the label sets of the items of the next batches.

        Args:
            sets: `(B, C)` bool.
        """
        self.sets = sets
        self.groups = tuple(
            LabelSetGroup(
                (sets == chosen).all(dim=1).nonzero().flatten().tolist(),
                chosen.nonzero().flatten().tolist(),
                *sets.shape,
            )
            for chosen in sets.unique(dim=0)
        )

    def forward(self, logits: Levels, target: Levels) -> Tensor:
        """Compute the loss of a batch; the arguments are those of nnU-Net's loss."""
        return self.mean(lambda group: self.loss(group.logits(logits), group.target(target)))

    def mean(self, loss_of: Callable[[LabelSetGroup], Tensor]) -> Tensor:
        """Compute the mean over items of a loss that is a function of a group."""
        return torch.stack([group.share * loss_of(group) for group in self.groups]).sum()


def _of_levels(function: Callable[[Tensor], Tensor], levels: Levels) -> Levels:
    return [function(level) for level in levels] if isinstance(levels, list) else function(levels)
