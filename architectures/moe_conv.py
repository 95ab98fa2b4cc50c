"""Convolution as a gated sum of experts.

Novosad et al., MICCAI 2024, eq. 3: E(x, m) = sum_n phi(m)_n E_n(x) with phi(m) = softmax(A m + b). Convolution is
linear, so the kernels and biases are mixed first and one convolution runs: the cost of a plain one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from nnunet_moe.codes import Code

_CONVOLUTION = {nn.Conv2d: F.conv2d, nn.Conv3d: F.conv3d}


@dataclass(frozen=True)
class GateInput:
    """What the gates of all layers see in one forward pass."""

    code: Tensor
    """`(B, K)`, or `(1, K)` for one code that holds for the whole batch; noise included."""
    key: Code | None = None
    """That one code without noise, under which mixed kernels may be kept; None if they may not."""


class MoEConv(nn.Module):
    """A mixture of convolutions of the same shape, gated by the modality code.

    The weights have one more leading axis than a convolution's: `weight` `(E, C_out, C_in / 1, *kernel)` and `bias`
    `(E, C_out)` or None. Before each forward pass the network sets `gate_input`.

    Args:
        experts: E convolutions (2D or 3D, ungrouped, zero padding); their weights are copied.
        num_modalities: K.

    Raises:
        ValueError: no experts, experts of different shape or settings, or a kind of convolution that cannot be mixed.
    """

    gate_input: GateInput | None

    def __init__(self, experts: Sequence[_ConvNd], *, num_modalities: int) -> None:
        super().__init__()
        first = _require_same_convolutions(experts)
        self._convolution = _CONVOLUTION[type(first)]
        self.stride, self.padding, self.dilation = first.stride, first.padding, first.dilation
        self.weight = nn.Parameter(torch.stack([expert.weight.detach() for expert in experts]))
        biases = [expert.bias.detach() for expert in experts if expert.bias is not None]
        self.bias = nn.Parameter(torch.stack(biases)) if biases else None
        self.gate = nn.Linear(num_modalities, len(experts), device=first.weight.device, dtype=first.weight.dtype)
        self.gate_input = None
        self._kept: tuple[object, tuple[Tensor, Tensor | None]] | None = None

    @property
    def num_experts(self) -> int:
        return self.weight.shape[0]

    def gates(self, code: Tensor) -> Tensor:
        """phi: `(B, K)` codes to `(B, E)` weights that sum to 1."""
        return self.gate(code.to(self.gate.weight.dtype)).softmax(dim=1)

    def mixed(self, code: Tensor) -> tuple[Tensor, Tensor | None]:
        """Kernels `(B, C_out, C_in, *kernel)` and biases `(B, C_out)` of `(B, K)` codes, never in half precision."""
        with torch.autocast(self.weight.device.type, enabled=False):
            gates = self.gates(code)
            weight = torch.einsum("be,e...->b...", gates, self.weight)
            bias = None if self.bias is None else torch.einsum("be,eo->bo", gates, self.bias)
        return weight, bias

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C_in, *space)` to `(B, C_out, *space')`, each item by the kernel of its own code.

        Raises:
            RuntimeError: no network has set `gate_input`.
        """
        if self.gate_input is None:
            raise RuntimeError("MoEConv needs the modality code; it runs inside a ModalityNetwork only.")
        weight, bias = self._kept_or_mixed(self.gate_input)
        num_kernels, out_channels = weight.shape[:2]
        if num_kernels == 1:
            return self._convolve(x, weight[0], None if bias is None else bias[0], groups=1)
        # items become groups of one convolution, so that each meets its own kernel in a single call
        joined = x.reshape(1, -1, *x.shape[2:])
        y = self._convolve(joined, weight.flatten(0, 1), None if bias is None else bias.flatten(), groups=num_kernels)
        return y.reshape(num_kernels, out_channels, *y.shape[2:])

    def train(self, mode: bool = True) -> "MoEConv":
        self._kept = None
        return super().train(mode)

    def extra_repr(self) -> str:
        shape = ", ".join(str(size) for size in self.weight.shape)
        return f"experts x out x in x kernel: {shape}, stride={self.stride}, padding={self.padding}"

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None, *, groups: int) -> Tensor:
        return self._convolution(x, weight, bias, self.stride, self.padding, self.dilation, groups)

    def _kept_or_mixed(self, gate_input: GateInput) -> tuple[Tensor, Tensor | None]:
        """The mixed kernel, kept from the last call if code, weights and device are still the same."""
        if gate_input.key is None or torch.is_grad_enabled():
            return self.mixed(gate_input.code)
        # in-place changes (nnU-Net loads the folds of an ensemble so) count up a tensor's version
        state = (gate_input.key, *[(p._version, p.data_ptr(), p.device, p.dtype) for p in self.parameters()])
        if self._kept is None or self._kept[0] != state:
            self._kept = (state, self.mixed(gate_input.code))
        return self._kept[1]


def _require_same_convolutions(experts: Sequence[_ConvNd]) -> _ConvNd:
    if not experts:
        raise ValueError("A mixture needs at least one expert.")
    first = experts[0]
    if type(first) not in _CONVOLUTION or first.groups != 1 or first.padding_mode != "zeros":
        raise ValueError(f"{first} cannot be mixed; an expert is a Conv2d or Conv3d with groups=1 and zero padding.")
    for expert in experts[1:]:
        if str(expert) != str(first):
            raise ValueError(f"Experts must be alike: {expert} does not match {first}.")
    return first
