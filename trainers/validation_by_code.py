"""Validation in the epochs of a training, one code after the other."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from nnunet_moe.modalities.codes import Code

OF_NO_CODE = -1
"""Stands for the number of a code where a validation batch has several; nnU-Net collates numbers alone."""


def number_of_code(available: Tensor, codes: Sequence[Code]) -> int:
    """Which of the codes all items of a batch, `(B, K)` bool, have; `OF_NO_CODE` if they differ."""
    found = {tuple(code) for code in available.tolist()}
    return codes.index(found.pop()) if len(found) == 1 else OF_NO_CODE


def in_place_of_others(batch: dict, chosen: Tensor) -> dict:
    """A batch, as nnU-Net's loader gives it, in which the items that `chosen` `(B,)` names are repeated in turn."""
    items = chosen.nonzero().flatten()
    items = items[torch.arange(len(chosen)) % len(items)]
    target = batch["target"]
    target = [level[items] for level in target] if isinstance(target, list) else target[items]
    keys = [batch["keys"][item] for item in items.tolist()] if "keys" in batch else []
    return {"data": batch["data"][items], "target": target, "keys": keys}


def dice_by_code(outputs: Sequence[dict], codes: Sequence[Code]) -> dict[Code, list[float]]:
    """The pseudo Dice of each label or region under each code that was validated, NaN where undefined.

    Args:
        outputs: of the validation's steps in all processes, with nnU-Net's counts of voxels and the `code`'s number.
        codes: those that have their turn.
    """
    found = {}
    for number, code in enumerate(codes):
        of_code = [output for output in outputs if output["code"] == number]
        if of_code:
            tp, fp, fn = (
                np.sum([output[key] for output in of_code], axis=0, dtype=np.float64)
                for key in ("tp_hard", "fp_hard", "fn_hard")
            )
            with np.errstate(invalid="ignore"):  # no such label in these patches and none predicted: undefined
                found[code] = np.asarray(2 * tp / (2 * tp + fp + fn)).tolist()
    return found
