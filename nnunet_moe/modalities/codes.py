"""Modality codes: they say which modalities of a case are available.

A code is a tuple of K bools for one case, or a `(B, K)` bool tensor for a batch; true means available. In images, a
missing channel is NaN. A channel with *any* NaN counts as missing, because nnU-Net's augmentation can write zeros
outside the brain.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations

import torch
from torch import Tensor

from nnunet_moe.errors import ModalityError

Code = tuple[bool, ...]

MAX_MODALITIES = 12
"""The largest number of modalities; it has 4095 codes, for which exact gate regularization is still cheap."""


def all_codes(num_modalities: int) -> list[Code]:
    """List all 2^K - 1 non-empty codes of K modalities, those with the fewest modalities first.

    Args:
        num_modalities: K, from 1 to 12.

    Returns:
        Codes of K bools each.

    Raises:
        ModalityError: K is out of range.
    """
    if not 1 <= num_modalities <= MAX_MODALITIES:
        raise ModalityError(
            f"The dataset has {num_modalities} modalities, but only 1 to {MAX_MODALITIES} are supported, because a "
            "model is trained for all their subsets. Remove channels from dataset.json."
        )
    return [
        tuple(modality in kept for modality in range(num_modalities))
        for size in range(1, num_modalities + 1)
        for kept in combinations(range(num_modalities), size)
    ]


def available_modalities(image: Tensor) -> Tensor:
    """Read the code of each item of a batch from its NaNs.

    Args:
        image: `(B, K, *space)`; a channel with any NaN is missing. Other values are finite.

    Returns:
        `(B, K)` bool.
    """
    return ~image.flatten(2).sum(dim=2).isnan()  # a sum with NaN is NaN; several times faster than looking for NaN


def zero_absent(image: Tensor, available: Tensor) -> Tensor:
    """Replace all values of missing channels by zeros.

    Args:
        image: `(B, C, *space)` with C >= K; channels from K on (a cascade's previous segmentation) are unchanged.
        available: `(B, K)` bool.

    Returns:
        A copy of the image.
    """
    return torch.where(_over_space(available, image), image, 0)


def drop_modalities(image: Tensor, code: Tensor) -> Tensor:
    """Drop the modalities that are not in a code: write NaN into their channels.

    Args:
        image: `(B, C, *space)` with C >= K; it is not changed.
        code: `(B, K)` bool, the modalities to keep. An item that has none of them keeps all of its modalities, because
            a case needs at least one image.

    Returns:
        A copy of the image.
    """
    available = available_modalities(image[:, : code.shape[1]])
    kept = available & code
    kept = torch.where(kept.any(dim=1, keepdim=True), kept, available)
    return torch.where(_over_space(kept, image), image, torch.nan)


def is_within(code: Sequence[bool], other: Sequence[bool]) -> bool:
    """Return whether a code is a subset of another one."""
    return all(b for a, b in zip(code, other, strict=True) if a)


def present_channels(num_channels: int, code: Code) -> list[int]:
    """List the channels of the code's modalities, and the channels after all modalities (of a cascade)."""
    return [channel for channel in range(num_channels) if channel >= len(code) or code[channel]]


def code_digits(code: Sequence[bool]) -> str:
    """Return a code as digits: `(True, False, True)` is `101`."""
    return "".join("1" if available else "0" for available in code)


def code_of_digits(digits: str) -> Code:
    """Return the code of a text that `code_digits` made."""
    return tuple(digit == "1" for digit in digits)


def code_text(code: Sequence[bool], names: Sequence[str]) -> str:
    """Return a code as the names of its modalities, such as `T1w+FLAIR`.

    Args:
        code: K bools.
        names: the K modality names in channel order.
    """
    return "+".join(name for name, available in zip(names, code, strict=True) if available)


def parse_code(text: str, names: Sequence[str]) -> Code:
    """Parse a code from names or digits.

    Args:
        text: names joined by `+` in any order (a name can itself contain a `+`), or K digits of 0 and 1.
        names: the K modality names in channel order.

    Raises:
        ModalityError: a name is unknown or given twice, the text is ambiguous, or it contains no modality.
    """
    if text not in names and len(text) == len(names) and set(text) <= {"0", "1"}:
        code = code_of_digits(text)
    else:
        found = _subsets(text.split("+"), names)
        if not found:
            raise ModalityError(
                f"{text!r} is not a subset of the modalities {', '.join(names)}. Join their names with '+', each once "
                f"and spelled as in dataset.json, or write {len(names)} digits of 0 and 1."
            )
        if len(found) > 1:
            raise ModalityError(
                f"{text!r} is ambiguous: it can mean several subsets of the modalities {', '.join(names)}. Write "
                f"{len(names)} digits of 0 and 1 instead."
            )
        (subset,) = found
        code = tuple(name in subset for name in names)
    if not any(code):
        raise ModalityError(f"{text!r} contains no modality. Name at least one of {', '.join(names)}.")
    return code


def channel_names(dataset_json: dict) -> tuple[str, ...]:
    """Return the K modality names in channel order from the content of nnU-Net's dataset.json.

    The key is `channel_names`, or `modality` in old files. The order is that in the file, as nnU-Net's planner takes it
    for the normalization. So numbers as keys must be 0, 1, 2 and so on. Words as keys are allowed, as in nnU-Net.

    nnU-Net allows equal names, because names choose the normalization. Equal names get the number of their channel,
    such as `MRI:0`. If another channel has this name too, both get their numbers.

    Raises:
        ModalityError: dataset.json has neither key, the keys have another order, or a name is not a text.
    """
    key = "channel_names" if "channel_names" in dataset_json else "modality"
    by_channel = dataset_json.get(key)
    if not isinstance(by_channel, Mapping) or not by_channel:
        found = "has no 'channel_names'" if by_channel is None else f"has {key!r} = {by_channel!r}"
        raise ModalityError(f'dataset.json {found}. It must name the modalities: {{"0": "T1w", "1": "T2w", ...}}.')
    channels = list(by_channel)
    numbers = [_number(channel) for channel in channels]
    if set(numbers) != {None} and numbers != list(range(len(channels))):
        raise ModalityError(
            f"{key!r} in dataset.json has the keys {', '.join(map(repr, channels))}. They must be '0', '1' and so on, "
            "in this order, because nnU-Net's planner takes the order in the file. Reorder or renumber them."
        )
    for channel, name in by_channel.items():
        if not isinstance(name, str):
            raise ModalityError(
                f"{key!r} in dataset.json has {name!r} for channel {channel!r}. It must be the name of the modality, "
                'for example "T1w". Correct it.'
            )
    names = list(by_channel.values())
    while len(set(names)) < len(names):
        names = [name if names.count(name) == 1 else f"{name}:{channel}" for channel, name in enumerate(names)]
    return tuple(names)


def _number(channel: str) -> int | None:
    """Return the number that a key of `channel_names` means; None if it is a word."""
    try:
        return int(channel)
    except ValueError:
        return None


def _over_space(code: Tensor, image: Tensor) -> Tensor:
    """Expand a code `(B, K)` to `(B, C, 1, ...)`, true in the channels from K on."""
    beyond = code.new_ones(code.shape[0], image.shape[1] - code.shape[1])
    return torch.cat((code, beyond), dim=1).reshape(*image.shape[:2], *[1] * (image.ndim - 2))


def _subsets(pieces: list[str], names: Sequence[str]) -> set[frozenset[str]]:
    """Return all sets of names that give these pieces when they are joined in some order, each name once."""
    longest = max(name.count("+") for name in names) + 1
    subsets: list[set[frozenset[str]]] = [{frozenset()}]  # those that give the first 0, 1, ... pieces
    for end in range(1, len(pieces) + 1):
        subsets.append(set())
        for start in range(max(0, end - longest), end):
            if (name := "+".join(pieces[start:end])) in names:
                subsets[end] |= {subset | {name} for subset in subsets[start] if name not in subset}
    return subsets[-1]
