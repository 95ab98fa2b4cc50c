"""Find images that stand in for a missing modality: a single value everywhere, or a copy of another modality.

Many datasets were completed with such files, because other programs need all of them.
"""

from collections.abc import Mapping, Sequence

import numpy as np

ROUNDING = 1e-6
"""Relative range of values that still counts as one value: resampling a constant in single precision leaves this."""
FLAT = 1e-3
"""Relative range of values below which an image is suspect."""
MOSTLY = 0.999
"""The part of the voxels with the same value above which an image is suspect."""
SAMPLE, PARTS = 100_000, 32
"""Two images are compared in at most so many parts of so many voxels."""
SAME = 0.99
"""The part of the differences between voxels that must have the same sign in both images of a copy, both between
neighbors and between voxels far apart. Any change of the gray values that keeps their order keeps the signs: scaling,
rounding, clipping, a power or a logarithm. Two measurements do not reach it, as neighbors differ mostly by noise."""
FEWEST = 30
"""The fewest differences that can show a copy: in tiny images, signs agree by chance."""
LEVELS = 16
"""An image with at most so many values, such as a mask, counts as a copy only if it is equal in every voxel."""


def single_value(channel: np.ndarray) -> float | None:
    """Return the value that a channel has everywhere, or None if it has several.

    Args:
        channel: its voxels, finite.
    """
    lowest, highest = float(channel.min()), float(channel.max())
    return lowest if highest - lowest <= ROUNDING * max(abs(lowest), abs(highest)) else None


def constant_text(value: float) -> str:
    """Return how a message describes a channel with a single value."""
    return "zero everywhere" if value == 0 else f"{value:g} everywhere"


def constant_note(value: float, name: str) -> str:
    """Return the message on a channel that counts as missing, because it has a single value."""
    return f"{name} is {constant_text(value)}: treated as missing"


def suspicion(channel: np.ndarray) -> str | None:
    """Return why a channel may be a placeholder, although it has several values; None if nothing is odd about it.

    Args:
        channel: its voxels, finite.
    """
    lowest, highest = float(channel.min()), float(channel.max())
    if highest - lowest <= FLAT * max(abs(lowest), abs(highest)):
        return f"has only values from {lowest:.7g} to {highest:.7g}"
    values = channel.reshape(-1)
    common = np.median(values[:: max(1, values.size // SAMPLE)])
    if (part := float((values == common).mean())) > MOSTLY:
        return f"is {common:g} in {part:.3%} of its voxels"
    return None


def two_values_note(channel: np.ndarray, name: str) -> str | None:
    """Return a message on a channel that has only two values, as a mask has; None if it has more.

    Args:
        channel: its voxels, finite, with more than a single value.
        name: the name of its file.
    """
    lowest, values = float(channel.min()), channel.reshape(-1)
    if single_value(rest := values[values != lowest]) is None:
        return None
    return (
        f"{name} has only the values {lowest:g} and {rest[0]:g}. This is right for a mask. In an image, it is perhaps "
        "a placeholder for a missing modality"
    )


def copies(image: np.ndarray, order: Sequence[int]) -> Mapping[int, tuple[int, bool]]:
    """Find channels that are copies of others, also with other gray values in the same or the opposite order.

    Args:
        image: `(K, *space)`, NaN in missing channels.
        order: the available channels. Of equal channels, the first one in this order counts as the original.

    Returns:
        Channel -> the original, and whether both are equal in every voxel.
    """
    voxels = image.reshape(len(image), -1)
    found: dict[int, tuple[int, bool]] = {}
    for channel in order:
        for original in (other for other in order[: order.index(channel)] if other not in found):
            one, other = voxels[channel], voxels[original]
            is_equal = np.array_equal(one, other)
            if is_equal or _is_same_everywhere(one, other):
                found[channel] = original, is_equal
                break
    return found


def copy_text(original: str, *, is_equal: bool) -> str:
    """Return how a message describes a copy."""
    return f"equal to {original} in every voxel" if is_equal else f"a copy of {original} with other gray values"


def _is_same_everywhere(one: np.ndarray, other: np.ndarray) -> bool:
    """Compare two images in parts of `SAMPLE` voxels, at most `PARTS` of them, those first in which one varies most."""
    starts = np.linspace(0, max(0, one.size - SAMPLE), num=max(1, min(PARTS, -(-one.size // SAMPLE))), dtype=int)
    parts = [(one[start : start + SAMPLE], other[start : start + SAMPLE]) for start in starts]
    parts.sort(key=lambda part: np.count_nonzero(np.diff(part[0])), reverse=True)
    found = set()
    for part in parts:
        found.add(same := _is_same(np.stack(part).astype(np.float64)))
        if same is False:
            return False
    return True in found


def _is_same(pair: np.ndarray) -> bool | None:
    """Return whether the voxels of two images have the same order, or None if too few of them differ.

    The order may be inverted, but not in two images between 0 and 1: these may be probabilities with the sum 1.

    Args:
        pair: `(2, voxels)`.
    """
    near = _direction(np.diff(pair))
    if near == 0 or (near == -1 and pair.min() >= 0 and pair.max() <= 1):
        return False
    far = _direction(pair[:, np.random.default_rng(0).permutation(pair.shape[1])] - pair)
    if near is None or far is None:
        return None
    if near != far:
        return False
    return True if min(len(np.unique(image)) for image in pair) > LEVELS else None


def _direction(steps: np.ndarray) -> int | None:
    """Return whether differences in two images have the same sign (1), opposite ones (-1), or both (0).

    Args:
        steps: `(2, differences)`. If fewer than `FEWEST` are not zero in both images, the result is None.
    """
    signs = np.prod(np.sign(steps), axis=0)
    same, opposite = int((signs > 0).sum()), int((signs < 0).sum())
    if same + opposite < FEWEST:
        return None
    needed = SAME * (same + opposite)
    return int(same >= needed) - int(opposite >= needed)
