"""Convolutions whose kernel is a function of the modality code.

First the kernel is computed from the code, then one convolution runs, so the cost is that of a plain convolution. Each
item of a batch has its own code and therefore its own kernel; `item_kernels` says how such a batch is convolved.
"""

from abc import abstractmethod
from collections.abc import Iterable

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from nnunet_moe.architectures.code_layer import CodeInput, CodeLayer, full_precision
from nnunet_moe.architectures.item_kernels import Way, way_for
from nnunet_moe.settings.two_views import ItemKernels

_CONVOLUTION = {nn.Conv2d: F.conv2d, nn.Conv3d: F.conv3d}


class CodeConv(CodeLayer):
    """The base class of convolutions whose kernel depends on the modality code.

    A subclass implements `kernels` and `code_parameters`, and `summed` to compute the same without kernels.

    Args:
        conv: a 2D or 3D convolution, ungrouped and with zero padding; its stride, padding and dilation are used.
        item_kernels: the way to convolve a batch whose items have their own kernels; `auto` follows
            `item_kernels.way_for`.

    Raises:
        ValueError: the convolution is of another type.
    """

    def __init__(self, conv: _ConvNd, *, item_kernels: ItemKernels = "auto") -> None:
        super().__init__()
        if type(conv) not in _CONVOLUTION or conv.groups != 1 or conv.padding_mode != "zeros":
            raise ValueError(
                f"{conv} cannot depend on a modality code. Use a Conv2d or Conv3d with groups=1 and zero padding."
            )
        self._convolution = _CONVOLUTION[type(conv)]
        self.stride, self.padding, self.dilation = conv.stride, conv.padding, conv.dilation
        self.item_kernels: ItemKernels = item_kernels
        self._kept: tuple[object, tuple[Tensor, Tensor | None]] | None = None

    @abstractmethod
    def kernels(self, code: Tensor) -> tuple[Tensor, Tensor | None]:
        """Compute the kernels and biases of codes.

        Args:
            code: `(B, K)`.

        Returns:
            Kernels `(B, C_out, C_in, *kernel)`, and biases `(B, C_out)` or None.
        """

    @property
    @abstractmethod
    def num_terms(self) -> int:
        """The number of terms that `summed` adds up for an output channel."""

    @abstractmethod
    def summed(self, x: Tensor, code: Tensor) -> Tensor:
        """Convolve each item with the kernel of its own code, as a weighted sum of terms that do not depend on it.

        Args:
            x: `(B, C_in, *space)`.
            code: `(B, K)`.

        Returns:
            `(B, C_out, *space')`.
        """

    def forward(self, x: Tensor) -> Tensor:
        """Convolve each item with the kernel of its own code.

        Args:
            x: `(B, C_in, *space)`.

        Returns:
            `(B, C_out, *space')`.

        Raises:
            RuntimeError: no network has set `code_input`.
        """
        code_input = self.require_code()
        if len(code_input.code) > 1:
            return self._convolve_items(x, code_input.code)
        weight, bias = self._kept_or_made(code_input)
        return self._convolve(x, weight[0], None if bias is None else bias[0])

    def fixed_state(self, code: Tensor) -> dict[str, Tensor]:
        """Compute the kernel and the bias of one code; see the base class."""
        weight, bias = self.kernels(code)
        return {"weight": weight[0]} if bias is None else {"weight": weight[0], "bias": bias[0]}

    def train(self, mode: bool = True) -> "CodeConv":
        """Set training or evaluation mode, and delete the cached kernel."""
        self._kept = None
        return super().train(mode)

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None, groups: int = 1) -> Tensor:
        return self._convolution(x, weight, bias, self.stride, self.padding, self.dilation, groups)

    def _convolve_items(self, x: Tensor, code: Tensor) -> Tensor:
        """Convolve each item `(C_in, *space)` of a batch with the kernel of its own code."""
        way = self._way(x)
        if way == "sum":
            return self.summed(x, code)
        weight, bias = self._made(code)
        return self._looped(x, weight, bias) if way == "loop" else self._grouped(x, weight, bias)

    def _way(self, x: Tensor) -> Way:
        if self.item_kernels != "auto":
            return self.item_kernels
        device = x.device.type
        autocast = torch.is_autocast_enabled(device)
        return way_for(
            device=device, dimensions=x.ndim - 2, batch_size=len(x), num_terms=self.num_terms, autocast=autocast
        )

    def _looped(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        # split and unbind instead of indices: the gradient of an index is a full-size tensor, mostly zeros
        biases = [None] * len(weight) if bias is None else bias.unbind()
        items = zip(x.split(1), weight.unbind(), biases, strict=True)
        return torch.cat([self._convolve(*item) for item in items])

    def _grouped(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        joined = x.reshape(1, -1, *x.shape[2:])
        y = self._convolve(joined, weight.flatten(0, 1), None if bias is None else bias.flatten(), groups=len(weight))
        return y.reshape(*weight.shape[:2], *y.shape[2:])

    def _kept_or_made(self, code_input: CodeInput) -> tuple[Tensor, Tensor | None]:
        """Return the kernel of the last call if code, weights and device are the same, else compute it."""
        if code_input.key is None or torch.is_grad_enabled():
            return self._made(code_input.code)
        state = (code_input.key, state_of(self.parameters()))
        if self._kept is None or self._kept[0] != state:
            self._kept = (state, self._made(code_input.code))
        return self._kept[1]

    def _made(self, code: Tensor) -> tuple[Tensor, Tensor | None]:
        """Compute `kernels`, never in half precision."""
        with full_precision(code):
            return self.kernels(code)


def state_of(parameters: Iterable[nn.Parameter]) -> object:
    """Return a value that changes with the weights, also in place, as when nnU-Net loads the folds of an ensemble."""
    return tuple((weight._version, weight.data_ptr(), weight.device, weight.dtype) for weight in parameters)
