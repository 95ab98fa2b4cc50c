"""Estimate the memory that reading and preprocessing need, and how many processes the machine has memory for."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import SimpleITK as sitk

from nnunet_moe.images.headers import is_nifti, stored_image

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


def bytes_to_read(cases: Sequence[Sequence[str]], num_channels: int) -> float:
    """Estimate the memory that one process needs at most to read a case and compute its part of the fingerprint.

    This is `bytes_per_process` without resampling, for the numbers of voxels in the headers. So it is rather too much.

    Args:
        cases: the images of each case. The first one is looked at; a case whose header cannot be read does not count.
        num_channels: number of channels.
    """
    voxels = [number for images in cases if (number := _stored_voxels(images[0])) is not None]
    found = {
        "shapes_after_crop": [[number] for number in voxels] or [[0]],
        "spacings": [[1.0]] * (len(voxels) or 1),
        "median_relative_size_after_cropping": 1,
    }
    return bytes_per_process(found, num_channels, [1.0], [0])


def _stored_voxels(file: str) -> int | None:
    """Return the number of voxels in the header of an image; None if it cannot be read, which planning will say."""
    try:
        if is_nifti(file):
            return math.prod(stored_image(file).header.get_data_shape())
        header = sitk.ImageFileReader()
        header.SetFileName(file)
        header.ReadImageInformation()
        return math.prod(header.GetSize())
    except Exception:  # libraries raise errors of any class
        return None


def choose_processes(
    needed: float,
    wanted: int,
    available: int | None,
    *,
    is_default: bool,
    what: str = "Preprocessing needs",
    flag: str = "-np",
) -> tuple[int, str]:
    """Choose the number of processes.

    Args:
        needed: bytes that one process needs at most.
        wanted: the number of processes that the user or the default asks for.
        available: bytes that are available; None if this is not known.
        is_default: whether the number may be lowered. What the user asks for is done, with a warning.
        what: what needs the memory, in words.
        flag: the option for the number.

    Returns:
        The number of processes, and a line for the user.
    """
    needs = f"{what} up to {_gb(needed)} of memory per process, {_gb(wanted * needed)} for {wanted}."
    if available is None:
        return wanted, f"{needs} If this machine has less, use fewer processes with {flag}."
    fitting = int(USED * available // needed)
    if fitting >= wanted:
        return wanted, f"{needs} Available are {_gb(available)}."
    if fitting < 1:
        text = f"WARNING: {needs} Available are only {_gb(available)}. Memory may run out even with {flag} 1."
        return (1 if is_default else wanted), text
    if is_default:
        return (
            fitting,
            f"{needs} Available are only {_gb(available)}, so {fitting} are used. {flag} sets another number.",
        )
    return wanted, f"WARNING: {needs} Available are only {_gb(available)}. Use {flag} {fitting}."


def _gb(number: float) -> str:
    return f"{number / 1e9:.1f} GB"
