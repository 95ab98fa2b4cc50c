"""Estimate the memory that preprocessing needs, and how many processes the machine has memory for."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

BASE = 0.5e9
"""What a process needs without images, in bytes: mostly the libraries."""
USED = 0.8
"""The part of the available memory that the processes may use."""


def bytes_per_process(
    fingerprint: Mapping[str, Any], num_channels: int, spacing: Sequence[float], transpose: Sequence[int]
) -> float:
    """Estimate the memory that one process needs at most for a case, in bytes.

    At the peak, a process holds five copies of the images in single precision. If it resamples, it also holds a copy in
    double precision and the resampled images. In addition, it holds some arrays of one channel in double precision.

    Args:
        fingerprint: the dataset's fingerprint.
        num_channels: number of channels.
        spacing: the spacing of the configuration, in mm; 2D configurations have two numbers.
        transpose: order of the axes, as in the plans.
    """
    before_crop = 1 / float(fingerprint["median_relative_size_after_cropping"])
    needed = []
    for shape, original in zip(fingerprint["shapes_after_crop"], fingerprint["spacings"], strict=True):
        own = [original[axis] for axis in transpose]
        target = [*own[: len(own) - len(spacing)], *spacing]
        voxels = float(np.prod(shape))
        resampled = voxels * float(np.prod(np.divide(own, target)))
        images = 5 * voxels * before_crop
        if not np.allclose(own, target):
            images += 2 * voxels + resampled
        needed.append(4 * num_channels * images + 32 * (voxels * before_crop + resampled))
    return BASE + max(needed)


def choose_processes(needed: float, wanted: int, available: int | None, *, is_default: bool) -> tuple[int, str]:
    """Choose the number of processes for a configuration.

    Args:
        needed: bytes that one process needs at most.
        wanted: the number of processes that the user or the default asks for.
        available: bytes that are available; None if this is not known.
        is_default: whether the number may be lowered. What the user asks for is done, with a warning.

    Returns:
        The number of processes, and a line for the user.
    """
    needs = f"Preprocessing needs up to {_gb(needed)} of memory per process, {_gb(wanted * needed)} for {wanted}."
    if available is None:
        return wanted, f"{needs} If this machine has less, use fewer processes with -np."
    fitting = int(USED * available // needed)
    if fitting >= wanted:
        return wanted, f"{needs} Available are {_gb(available)}."
    if fitting < 1:
        text = f"WARNING: {needs} Available are only {_gb(available)}. Memory may run out even with -np 1."
        return (1 if is_default else wanted), text
    if is_default:
        return fitting, f"{needs} Available are only {_gb(available)}, so {fitting} are used. -np sets another number."
    return wanted, f"WARNING: {needs} Available are only {_gb(available)}. Use -np {fitting}."


def _gb(number: float) -> str:
    return f"{number / 1e9:.1f} GB"
