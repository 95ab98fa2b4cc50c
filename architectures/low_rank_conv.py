"""A convolution with a low-rank change of its kernel for each modality code.

The change is a sum of R products, each of a vector over the outputs, a vector over the inputs and a small kernel. So it
needs far fewer weights than R whole kernels. LARGO (arXiv 2605.06086) decomposes the kernels themselves, with a factor
for each code; here the amounts are linear in the code, and the products are added to a full kernel.
"""

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from nnunet_moe.architectures.code_conv import CodeConv
from nnunet_moe.architectures.code_layer import full_precision
from nnunet_moe.settings.two_views import ItemKernels


class LowRankConv(CodeConv):
    """A convolution with the kernel W(m) = W + sum_r a_r(m) u_r x v_r x k_r for the code m.

    u is `outputs`, v is `inputs`, k is `space`, and a(m) = A m with A = `scaling.weight`. A starts at zero, so the
    network starts as it was planned. `weight` and `bias` have the same names and shapes as those of the convolution.
    The bias does not depend on the code.

    Args:
        conv: a 2D or 3D convolution, ungrouped and with zero padding; its weights are copied.
        rank: R, the number of products.
        num_modalities: K.
        item_kernels: how to convolve a batch whose items have their own kernels; see the setting of the same name.

    Raises:
        ValueError: the convolution is of another type.
    """

    def __init__(self, conv: _ConvNd, *, rank: int, num_modalities: int, item_kernels: ItemKernels = "auto") -> None:
        super().__init__(conv, item_kernels=item_kernels)
        self.weight = nn.Parameter(conv.weight.detach().clone())
        self.bias = None if conv.bias is None else nn.Parameter(conv.bias.detach().clone())
        self.outputs = nn.Parameter(torch.randn(rank, conv.out_channels).to(self.weight))
        self.inputs = nn.Parameter(torch.randn(rank, conv.in_channels).to(self.weight))
        # with a_r = 1, a product is as large as the kernel
        spread = self.weight.detach().std(correction=0)
        self.space = nn.Parameter(spread * torch.randn(rank, *conv.kernel_size).to(self.weight))
        self.scaling = nn.Linear(num_modalities, rank, bias=False).to(self.weight)
        nn.init.zeros_(self.scaling.weight)

    def kernels(self, code: Tensor) -> tuple[Tensor, Tensor | None]:
        """Compute the kernels and biases of codes; see the base class."""
        left = self._left(code)
        weight = self.weight + (left @ self._right().flatten(1)).reshape(len(left), *self.weight.shape)
        return weight, None if self.bias is None else self.bias.expand(len(left), -1)

    @property
    def num_terms(self) -> int:
        """1, because R more filters hardly add to the arithmetic of the shared kernel; see the base class."""
        return 1

    def summed(self, x: Tensor, code: Tensor) -> Tensor:
        """Convolve with the shared kernel and R filters, then mix the filters' outputs; see the base class."""
        y = self._convolve(x, torch.cat((self.weight, self._right().to(self.weight.dtype))), self._padded_bias())
        shared, filtered = y.split([len(self.weight), len(self.inputs)], dim=1)
        with full_precision(code):  # the gradient of an amount is a sum over all voxels
            left = self._left(code)
            return (shared + torch.einsum("bor,br...->bo...", left, filtered.to(left.dtype))).to(y.dtype)

    def _left(self, code: Tensor) -> Tensor:
        """Compute a_r(m) u_r, `(B, C_out, R)`."""
        return self.outputs.T * self.scaling(code.to(self.weight.dtype))[:, None]

    def _right(self) -> Tensor:
        """Compute v_r x k_r, `(R, C_in, *kernel)`."""
        over_space = (slice(None), slice(None), *[None] * (self.space.ndim - 1))
        return self.inputs[over_space] * self.space[:, None]

    def _padded_bias(self) -> Tensor | None:
        """Return the bias with zeros for the R filters."""
        return None if self.bias is None else torch.cat((self.bias, self.bias.new_zeros(len(self.inputs))))

    def code_parameters(self) -> list[Tensor]:
        """List the products and their amounts; see the base class."""
        return [self.outputs, self.inputs, self.space, self.scaling.weight]

    def extra_repr(self) -> str:
        """Describe the layer for `print(network)`."""
        shape = ", ".join(str(size) for size in self.weight.shape)
        return f"out x in x kernel: {shape}, rank={len(self.outputs)}, stride={self.stride}, padding={self.padding}"
