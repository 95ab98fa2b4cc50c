"""What a checkpoint holds in addition to nnU-Net's entries.

nnU-Net's trainer writes fixed entries, and reads them again in one method. What belongs to the optimization travels in
the state of the optimizer, for which torch has hooks.
"""

from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer

from nnunet_moe.models.checkpoints import EXTRAS


def keep_in_checkpoints(
    optimizer: Optimizer, state: Callable[[], dict[str, Any]], restore: Callable[[dict[str, Any]], None]
) -> None:
    """Write further values into each checkpoint, and read them when a training is resumed.

    It may be called several times, with other names of the values.

    Args:
        optimizer: the optimizer whose state nnU-Net saves.
        state: returns the values: tensors, lists, dictionaries and numbers.
        restore: takes all further values of a checkpoint. It is not called for checkpoints without any.
    """

    def add(_: Optimizer, saved: dict[str, Any]) -> dict[str, Any]:
        return {**saved, EXTRAS: {**saved.get(EXTRAS, {}), **state()}}

    def take(_: Optimizer, saved: dict[str, Any]) -> dict[str, Any]:
        if EXTRAS in saved:
            restore(saved[EXTRAS])
        return saved  # torch ignores other entries, and further functions may read them

    optimizer.register_state_dict_post_hook(add)
    optimizer.register_load_state_dict_pre_hook(take)
