"""The way to convolve a batch whose items have their own kernels.

Three ways compute the same up to rounding:

- `loop`: one convolution for each item. Its number of launches grows with the batch.
- `grouped`: the items become the groups of one convolution.
- `sum`: one ordinary convolution computes the terms of the kernels for the whole batch (for a mixture, the output of
  each expert), then each item gets its weighted sum. It needs memory for all terms in single precision, and a mixture
  needs E times the arithmetic.
"""

from typing import Literal

Way = Literal["loop", "grouped", "sum"]

LARGEST_LOOP = {2: 2, 3: 4}
"""Number of spatial dimensions -> the largest batch that is convolved item by item on a GPU under autocast.

An item in 3D keeps a GPU busy for longer, and grouped 3D convolutions were reported to be slow on GPUs (PyTorch issue
37406). These numbers bound the launches; they were not measured on a GPU.
"""


def way_for(*, device: str, dimensions: int, batch_size: int, num_terms: int, autocast: bool) -> Way:
    """Return the way that the setting `item_kernels` = `auto` stands for.

    Args:
        device: type of the device, such as `cpu` or `cuda`.
        dimensions: number of spatial dimensions, 2 or 3.
        batch_size: number of items, each with its own kernel.
        num_terms: number of terms of a kernel; for a mixture E, the number of experts.
        autocast: whether the convolution runs under autocast.
    """
    if device == "cpu":
        return "loop" if autocast else "grouped"  # as measured, see docs/lab_notes/cost.md
    if num_terms == 1:
        return "sum"  # an ordinary convolution
    return "loop" if autocast and batch_size <= LARGEST_LOOP[dimensions] else "grouped"
