"""Random modality codes: subsets and supersets for each item of a batch.

All draws come from a CPU generator, so they are the same on every device, and the host does not wait for the device.
"""

import torch
from torch import Tensor


def draw_subsets(available: Tensor, generator: torch.Generator) -> Tensor:
    """Draw a code for each item, uniformly from the non-empty subsets of its modalities (MoE-SD paper, section 2.3).

    Args:
        available: `(B, K)` bool on any device. An item without modalities gets an empty code.
        generator: a CPU generator; it is the only source of randomness.

    Returns:
        `(B, K)` bool on the device of `available`.
    """
    has = _with_float64(available)
    num_subsets = 2 ** has.sum(dim=1) - 1
    number = 1 + (_uniform(has, generator) * num_subsets).long()
    digit = has.long().cumsum(dim=1) - 1  # the n-th modality that the case has is kept if bit n of the number is set
    subset = has & (number[:, None] >> digit.clamp_min(0)).bitwise_and(1).bool()
    return subset.to(available.device)


def draw_weighted_subsets(available: Tensor, codes: Tensor, weights: Tensor, generator: torch.Generator) -> Tensor:
    """Draw a code for each item from the non-empty subsets of its modalities, in proportion to weights.

    Args:
        available: `(B, K)` bool on any device, at least one true in each row.
        codes: `(M, K)` bool, all codes, on the same device.
        weights: `(M,)` float64 on the CPU, above 0; they need not sum to 1.
        generator: a CPU generator; it is the only source of randomness.

    Returns:
        `(B, K)` bool on the device of `available`.
    """
    has = _with_float64(available)
    codes = codes.to(has.device)
    allowed = (codes[None] <= has[:, None]).all(dim=2)
    limits = torch.where(allowed, weights.to(has.device, non_blocking=True), 0).cumsum(dim=1)
    # the first code whose limit is above the drawn point; rounding must not move the point to the last limit
    total = limits[:, -1:]
    point = torch.minimum(_uniform(has, generator)[:, None] * total, total.nextafter(torch.zeros_like(total)))
    number = torch.searchsorted(limits, point, right=True)[:, 0]
    return codes[number].to(available.device)


def draw_supersets(subset: Tensor, available: Tensor, complete_share: float, generator: torch.Generator) -> Tensor:
    """Draw a code for each item from the proper supersets of a code, within the modalities of the item.

    With the probability `complete_share`, it is the code of all modalities of the item. Otherwise it is uniform over
    the proper supersets, which include this code. An item whose `subset` is complete keeps it.

    Args:
        subset: `(B, K)` bool on any device.
        available: `(B, K)` bool on the same device; it contains `subset`.
        complete_share: s, 0 to 1.
        generator: a CPU generator; it is the only source of randomness.

    Returns:
        `(B, K)` bool on the device of `subset`.
    """
    is_complete = _uniform(_with_float64(available), generator)[:, None] < complete_share
    superset = subset | draw_subsets(available & ~subset, generator)
    return torch.where(is_complete.to(subset.device), available, superset)


def _with_float64(codes: Tensor) -> Tensor:
    return codes.cpu() if codes.device.type == "mps" else codes  # MPS has no float64


def _uniform(codes: Tensor, generator: torch.Generator) -> Tensor:
    """Draw a number from 0 to 1 for each item, on the device of the codes."""
    draws = torch.rand(len(codes), generator=generator, dtype=torch.float64)
    return draws.to(codes.device, non_blocking=True)
