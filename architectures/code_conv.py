"""Convolutions whose kernel is a function of the modality code.

The kernel is made first and one convolution runs: the cost of a plain one. Items of a batch have their own codes, and
so their own kernels.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from nnunet_moe.modalities.codes import Code

_CONVOLUTION = {nn.Conv2d: F.conv2d, nn.Conv3d: F.conv3d}


@dataclass(frozen=True)
class CodeInput:
    """What all code-dependent layers of a network see in one forward pass."""

    code: Tensor
    """`(B, K)`, or `(1, K)` for one code that holds for the whole batch; noise included."""
    key: Code | None = None
    """That one code without noise, under which kernels may be kept; None if they may not."""


class CodeConv(nn.Module, ABC):
    """A convolution that asks its subclass for the kernel of each code.

    Before each forward pass the network sets `code_input`.

    Args:
        conv: gives stride, padding and dilation (2D or 3D, ungrouped, zero padding).

    Raises:
        ValueError: a convolution of another kind.
    """

    code_input: CodeInput | None

    def __init__(self, conv: _ConvNd) -> None:
        super().__init__()
        if type(conv) not in _CONVOLUTION or conv.groups != 1 or conv.padding_mode != "zeros":
            raise ValueError(
                f"{conv} cannot depend on a code; that takes a Conv2d or Conv3d with groups=1 and zero padding."
            )
        self._convolution = _CONVOLUTION[type(conv)]
        self.stride, self.padding, self.dilation = conv.stride, conv.padding, conv.dilation
        self.code_input = None
        self._kept: tuple[object, tuple[Tensor, Tensor | None]] | None = None

    @abstractmethod
    def kernels(self, code: Tensor) -> tuple[Tensor, Tensor | None]:
        """Kernels `(B, C_out, C_in, *kernel)` and biases `(B, C_out)`, or None, of `(B, K)` codes."""

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C_in, *space)` to `(B, C_out, *space')`, each item by the kernel of its own code.

        Raises:
            RuntimeError: no network has set `code_input`.
        """
        if self.code_input is None:
            raise RuntimeError(f"{type(self).__name__} needs the modality code; it runs inside a ModalityNetwork only.")
        weight, bias = self._kept_or_made(self.code_input)
        if len(weight) == 1:
            return self._convolve(x, weight[0], None if bias is None else bias[0])
        return self._convolve_items(x, weight, bias)

    def train(self, mode: bool = True) -> "CodeConv":
        self._kept = None
        return super().train(mode)

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None, groups: int = 1) -> Tensor:
        return self._convolution(x, weight, bias, self.stride, self.padding, self.dilation, groups)

    def _convolve_items(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """One kernel an item; which way is faster was measured (`benchmarks/cost.py`)."""
        if torch.is_autocast_enabled(x.device.type):
            # split and unbind, not indices: the gradient of an index is a tensor of the whole size, mostly zeros
            biases = [None] * len(weight) if bias is None else bias.unbind()
            items = zip(x.split(1), weight.unbind(), biases, strict=True)
            return torch.cat([self._convolve(*item) for item in items])
        # items become groups of one convolution, so that each meets its own kernel in a single call
        joined = x.reshape(1, -1, *x.shape[2:])
        y = self._convolve(joined, weight.flatten(0, 1), None if bias is None else bias.flatten(), groups=len(weight))
        return y.reshape(*weight.shape[:2], *y.shape[2:])

    def _kept_or_made(self, code_input: CodeInput) -> tuple[Tensor, Tensor | None]:
        """The kernel, kept from the last call if code, weights and device are still the same."""
        if code_input.key is None or torch.is_grad_enabled():
            return self._made(code_input.code)
        state = (code_input.key, state_of(self.parameters()))
        if self._kept is None or self._kept[0] != state:
            self._kept = (state, self._made(code_input.code))
        return self._kept[1]

    def _made(self, code: Tensor) -> tuple[Tensor, Tensor | None]:
        """`kernels`, never in half precision."""
        with torch.autocast(code.device.type, enabled=False):
            return self.kernels(code)


def state_of(parameters: Iterable[nn.Parameter]) -> object:
    """What changes whenever weights do; also in place, as when nnU-Net loads the folds of an ensemble."""
    return tuple((weight._version, weight.data_ptr(), weight.device, weight.dtype) for weight in parameters)
