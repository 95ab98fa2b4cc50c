"""Modality codes: which modalities of a case are available.

A code is a tuple of K bools (one case) or a `(B, K)` bool tensor (a batch), true where the modality is available. In
images an absent channel is NaN; *any* NaN counts, because nnU-Net's augmentation may write zeros outside the brain.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations

import torch
from torch import Tensor

from nnunet_moe.errors import ModalityError

Code = tuple[bool, ...]

MAX_MODALITIES = 12  # 4095 codes: the largest set over which the gate regularisation is still exact and cheap


def all_codes(num_modalities: int) -> list[Code]:
    """All non-empty codes of K modalities, fewest modalities first; 2^K - 1 of them.

    Args:
        num_modalities: K, from 1 to 12.

    Raises:
        ModalityError: K is out of range.
    """
    if not 1 <= num_modalities <= MAX_MODALITIES:
        raise ModalityError(
            f"{num_modalities} modalities; from 1 to {MAX_MODALITIES} are supported, because a model is trained for "
            "and scored on every subset of them. Leave channels out of dataset.json."
        )
    return [
        tuple(modality in kept for modality in range(num_modalities))
        for size in range(1, num_modalities + 1)
        for kept in combinations(range(num_modalities), size)
    ]


def available_modalities(image: Tensor) -> Tensor:
    """Read the code of each item of a batch from its NaNs.

    Args:
        image: `(B, K, *space)`; a channel with any NaN is absent.

    Returns:
        `(B, K)` bool.
    """
    return ~torch.isnan(image).flatten(2).any(dim=2)


def zero_absent(image: Tensor, available: Tensor) -> Tensor:
    """Replace absent channels by zeros, whatever stood in them.

    Args:
        image: `(B, C, *space)` with C >= K; channels from K on pass unchanged (a cascade's previous segmentation).
        available: `(B, K)` bool.
    """
    return torch.where(_over_space(available, image), image, 0)


def drop_modalities(image: Tensor, code: Tensor) -> Tensor:
    """Write NaN into the channels that a code leaves out.

    Args:
        image: `(B, C, *space)` with C >= K; it is not changed.
        code: `(B, K)` bool, the modalities to keep. An item that has none of them keeps all it has: a case without
            any image is not a case.

    Returns:
        A copy of the image.
    """
    available = available_modalities(image[:, : code.shape[1]])
    kept = available & code
    kept = torch.where(kept.any(dim=1, keepdim=True), kept, available)
    return torch.where(_over_space(kept, image), image, torch.nan)


def draw_subsets(available: Tensor, generator: torch.Generator) -> Tensor:
    """Draw for each item a code uniformly from the non-empty subsets of what it has (paper, section 2.3).

    Args:
        available: `(B, K)` bool on any device, at least one true per row.
        generator: a CPU generator; the draw depends on it alone.

    Returns:
        `(B, K)` bool on the device of `available`.
    """
    has = available.cpu()
    num_subsets = 2 ** has.sum(dim=1) - 1
    number = 1 + (torch.rand(len(has), generator=generator, dtype=torch.float64) * num_subsets).long()
    digit = has.long().cumsum(dim=1) - 1  # the n-th modality that the case has is kept if bit n of the number is set
    subset = has & (number[:, None] >> digit.clamp_min(0)).bitwise_and(1).bool()
    return subset.to(available.device)


def is_within(code: Sequence[bool], other: Sequence[bool]) -> bool:
    """Whether all modalities of a code are in another one, too."""
    return all(b for a, b in zip(code, other, strict=True) if a)


def present_channels(num_channels: int, code: Code) -> list[int]:
    """The channels that stay: those of the code's modalities, and those beyond the modalities (of a cascade)."""
    return [channel for channel in range(num_channels) if channel >= len(code) or code[channel]]


def code_digits(code: Sequence[bool]) -> str:
    """A code as digits: `(True, False, True)` is `101`."""
    return "".join("1" if available else "0" for available in code)


def code_of_digits(digits: str) -> Code:
    """The code that `code_digits` wrote."""
    return tuple(digit == "1" for digit in digits)


def code_text(code: Sequence[bool], names: Sequence[str]) -> str:
    """A code by the names of its modalities: `T1w+FLAIR`.

    Args:
        code: K bools.
        names: the K modality names in channel order.
    """
    return "+".join(name for name, available in zip(names, code, strict=True) if available)


def parse_code(text: str, names: Sequence[str]) -> Code:
    """The code that a text means: names joined by `+` in any order (a name may itself hold a `+`), or K digits.

    Raises:
        ModalityError: an unknown name, a name given twice, names that can be read in two ways, or no modality at all.
    """
    if text not in names and len(text) == len(names) and set(text) <= {"0", "1"}:
        code = code_of_digits(text)
    else:
        found = {frozenset(split) for split in _splits(text.split("+"), names) if len(set(split)) == len(split)}
        if not found:
            raise ModalityError(
                f"{text!r} names no subset of the modalities {', '.join(names)}. Join their names by '+', each once "
                f"and spelt as in dataset.json, or give {len(names)} digits of 0 and 1."
            )
        if len(found) > 1:
            raise ModalityError(
                f"{text!r} may mean more than one subset of the modalities {', '.join(names)}. Give {len(names)} "
                "digits of 0 and 1."
            )
        (subset,) = found
        code = tuple(name in subset for name in names)
    if not any(code):
        raise ModalityError(f"{text!r} leaves no modality. At least one of {', '.join(names)} must be available.")
    return code


def channel_names(dataset_json: dict) -> tuple[str, ...]:
    """The K modality names in channel order, from an nnU-Net dataset.json (`modality` is its old key).

    nnU-Net allows equal names, since they choose the normalisation; those get their channel's number: `MRI:0`.

    Raises:
        ModalityError: dataset.json names no channels.
    """
    by_channel = dataset_json.get("channel_names", dataset_json.get("modality"))
    if by_channel is None:
        raise ModalityError('dataset.json has no \'channel_names\'. List the modalities: {"0": "T1w", ...}.')
    names = [by_channel[channel] for channel in sorted(by_channel, key=int)]
    return tuple(name if names.count(name) == 1 else f"{name}:{channel}" for channel, name in enumerate(names))


def _over_space(code: Tensor, image: Tensor) -> Tensor:
    """`(B, K)` to `(B, C, 1, ...)`, true in the channels from K on."""
    beyond = code.new_ones(code.shape[0], image.shape[1] - code.shape[1])
    return torch.cat((code, beyond), dim=1).reshape(*image.shape[:2], *[1] * (image.ndim - 2))


def _splits(pieces: list[str], names: Sequence[str]) -> Iterator[list[str]]:
    """All ways to join pieces to names."""
    if not pieces:
        yield []
    for end in range(1, len(pieces) + 1):
        if (name := "+".join(pieces[:end])) in names:
            for rest in _splits(pieces[end:], names):
                yield [name, *rest]
