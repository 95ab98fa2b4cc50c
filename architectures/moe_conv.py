"""A convolution that is a gated sum of experts.

Source: Novosad et al., MICCAI 2024, eq. 3: E(x, m) = sum_n phi(m)_n E_n(x) with phi(m) = softmax(A m + b). Convolution
is linear, so the kernels and biases can be mixed first.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from nnunet_moe.architectures.code_conv import CodeConv
from nnunet_moe.settings.two_views import ItemKernels


class MoEConv(CodeConv):
    """A mixture of convolutions of the same shape, gated by the modality code.

    The weights have an additional first axis for the experts: `weight` is `(E, C_out, C_in, *kernel)` and `bias` is
    `(E, C_out)` or None.

    Args:
        experts: E convolutions (2D or 3D, ungrouped, zero padding); their weights are copied.
        num_modalities: K.
        item_kernels: see the base class.

    Raises:
        ValueError: there are no experts, they differ in shape or settings, or convolutions of this type cannot be
            mixed.
    """

    def __init__(self, experts: Sequence[_ConvNd], *, num_modalities: int, item_kernels: ItemKernels = "auto") -> None:
        first = _require_same_convolutions(experts)
        super().__init__(first, item_kernels=item_kernels)
        self.weight = nn.Parameter(torch.stack([expert.weight.detach() for expert in experts]))
        biases = [expert.bias.detach() for expert in experts if expert.bias is not None]
        self.bias = nn.Parameter(torch.stack(biases)) if biases else None
        self.gate = nn.Linear(num_modalities, len(experts), device=first.weight.device, dtype=first.weight.dtype)

    @property
    def num_experts(self) -> int:
        """E, the number of experts."""
        return self.weight.shape[0]

    @property
    def num_terms(self) -> int:
        """E; each expert is a term."""
        return self.num_experts

    def gates(self, code: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Compute phi, the weights of the experts.

        Args:
            code: `(B, K)`.
            dtype: precision of the softmax; the layer's by default.

        Returns:
            `(B, E)`, rows summing to 1 up to rounding.
        """
        return self.gate(code.to(self.gate.weight.dtype)).softmax(dim=1, dtype=dtype)

    def kernels(self, code: Tensor) -> tuple[Tensor, Tensor | None]:
        """Compute the mixed kernels and biases; see the base class.

        In evaluation mode they are summed in double precision, except on MPS devices, which do not support it. So
        identical experts give exactly their own kernel. Other kernels differ between devices at most by rounding.
        """
        dtype = self.weight.dtype if self.training or self.weight.device.type == "mps" else torch.float64
        gates = self.gates(code, dtype)
        weight = torch.einsum("be,e...->b...", gates, self.weight.to(dtype)).to(self.weight.dtype)
        bias = None if self.bias is None else (gates @ self.bias.to(dtype)).to(self.bias.dtype)
        return weight, bias

    def summed(self, x: Tensor, code: Tensor) -> Tensor:
        """Compute the outputs of all experts, and their sums weighted by the gates; see the base class."""
        bias = None if self.bias is None else self.bias.flatten()
        terms = self._convolve(x, self.weight.flatten(0, 1), bias).unflatten(1, self.weight.shape[:2])
        with torch.autocast(x.device.type, enabled=False):  # a gate's gradient is a sum over all voxels
            gates = self.gates(code)
            return torch.einsum("be,be...->b...", gates, terms.to(gates.dtype)).to(terms.dtype)

    def code_parameters(self) -> list[Tensor]:
        """List the weights of the gate; see the base class. The experts are shared by all codes."""
        return list(self.gate.parameters())

    def extra_repr(self) -> str:
        """Describe the layer for `print(network)`."""
        shape = ", ".join(str(size) for size in self.weight.shape)
        return f"experts x out x in x kernel: {shape}, stride={self.stride}, padding={self.padding}"


def _require_same_convolutions(experts: Sequence[_ConvNd]) -> _ConvNd:
    if not experts:
        raise ValueError("A mixture needs at least one expert.")
    for expert in experts[1:]:
        if str(expert) != str(experts[0]):
            raise ValueError(f"{expert} does not match {experts[0]}. All experts must have the same settings.")
    return experts[0]
