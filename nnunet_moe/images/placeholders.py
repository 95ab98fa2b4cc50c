"""Find images that stand in for a missing modality: a single value everywhere, or a copy of another modality.

Many datasets were completed with such files, because other programs need all of them.
"""

from collections.abc import Mapping, Sequence

import numpy as np

ROUNDING = 1e-6
"""Relative range of values that still counts as one value: resampling a constant in single precision leaves this."""
SAMPLE = 100_000
"""Number of voxels in which two images are compared before all voxels are compared."""
SAME = 0.9999
"""The correlation from which an image counts as a copy. Copies that were scaled or stored in whole numbers reach it;
two measurements do not, because of their noise."""


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


def copies(image: np.ndarray, order: Sequence[int]) -> Mapping[int, tuple[int, bool]]:
    """Find channels that are copies of others, also with other rounding or scale.

    Args:
        image: `(K, *space)`, NaN in missing channels.
        order: the available channels. Of equal channels, the first one in this order counts as the original.

    Returns:
        Channel -> the original, and whether both are equal in every voxel.
    """
    voxels = image.reshape(len(image), -1)
    step = max(1, voxels.shape[1] // SAMPLE)
    found: dict[int, tuple[int, bool]] = {}
    for channel in order:
        for original in (other for other in order[: order.index(channel)] if other not in found):
            if _is_same(voxels[channel, ::step], voxels[original, ::step]) and _is_same(
                voxels[channel], voxels[original]
            ):
                found[channel] = original, np.array_equal(voxels[channel], voxels[original])
                break
    return found


def copy_text(original: str, *, is_equal: bool) -> str:
    """Return how a message describes a copy."""
    return f"equal to {original} in every voxel" if is_equal else f"a copy of {original} with other rounding or scale"


def _is_same(one: np.ndarray, other: np.ndarray) -> bool:
    centered = [values - values.mean(dtype=np.float64) for values in (one, other)]
    size = np.sqrt((centered[0] ** 2).sum() * (centered[1] ** 2).sum())
    return bool(size == 0 or abs((centered[0] * centered[1]).sum()) >= SAME * size)
