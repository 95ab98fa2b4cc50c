"""Validation during training, with one modality code after the other."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from nnunet_moe.modalities.codes import Code

OF_NO_CODE = -1
"""The code number of a validation batch whose items differ in their codes; nnU-Net can only collate numbers."""


def number_of_code(available: Tensor, codes: Sequence[Code]) -> int:
    """Return the number of the code that all items of a batch have.

    Args:
        available: `(B, K)` bool.
        codes: the codes that are validated.

    Returns:
        The position in `codes`; `OF_NO_CODE` if the items differ.
    """
    found = {tuple(code) for code in available.tolist()}
    return codes.index(found.pop()) if len(found) == 1 else OF_NO_CODE


def in_place_of_others(batch: dict, chosen: Tensor) -> dict:
    """Return a batch of the same size that contains only the chosen items, repeated in turn.

    Args:
        batch: as nnU-Net's data loader gives it, on any device.
        chosen: `(B,)` bool on the CPU, at least one true.
    """
    items = chosen.nonzero().flatten()
    items = items[torch.arange(len(chosen)) % len(items)]
    keys = [batch["keys"][item] for item in items.tolist()] if "keys" in batch else []
    items = items.to(batch["data"].device, non_blocking=True)
    target = batch["target"]
    target = [level[items] for level in target] if isinstance(target, list) else target[items]
    return {"data": batch["data"][items], "target": target, "keys": keys}


def dice_by_code(outputs: Sequence[dict], codes: Sequence[Code]) -> dict[Code, list[float]]:
    """Compute the pseudo Dice of each label or region for each validated code.

    Args:
        outputs: results of the validation steps of all processes: nnU-Net's counts of voxels, and `code`, the number of
            the code.
        codes: the codes that are validated in turn.

    Returns:
        Code -> one value for each label or region, 0 to 1; NaN where undefined.
    """
    found = {}
    for number, code in enumerate(codes):
        of_code = [output for output in outputs if output["code"] == number]
        if of_code:
            tp, fp, fn = (
                np.sum([output[key] for output in of_code], axis=0, dtype=np.float64)
                for key in ("tp_hard", "fp_hard", "fn_hard")
            )
            with np.errstate(invalid="ignore"):  # 0 / 0 if a label is neither in these patches nor predicted
                found[code] = np.asarray(2 * tp / (2 * tp + fp + fn)).tolist()
    return found
