"""A convolution whose filters are scaled by a small network that sees the modality code.

Source: Liu et al., "ModDrop++: a dynamic filter network with intra-subject co-training for multiple sclerosis lesion
segmentation with missing modalities", MICCAI 2022. A filter is the slice of a kernel between one input and one output
channel. Each filter and each bias has its own factor.
"""

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from nnunet_moe.architectures.code_conv import CodeConv
from nnunet_moe.settings.two_views import ItemKernels

HIDDEN_FEATURES = 16
"""The width of the hidden layer that computes the factors."""


class FilterScalingConv(CodeConv):
    """A convolution whose filters are scaled by a multilayer perceptron that sees the modality code.

    `weight` and `bias` have the same names and shapes as those of the convolution. All factors start at 1, so the
    network starts as it was planned.

    Args:
        conv: a 2D or 3D convolution, ungrouped and with zero padding; its weights are copied.
        num_modalities: K.
        item_kernels: see the base class.

    Raises:
        ValueError: the convolution is of another type.
    """

    def __init__(self, conv: _ConvNd, *, num_modalities: int, item_kernels: ItemKernels = "auto") -> None:
        super().__init__(conv, item_kernels=item_kernels)
        self.weight = nn.Parameter(conv.weight.detach().clone())
        self.bias = None if conv.bias is None else nn.Parameter(conv.bias.detach().clone())
        num_factors = conv.out_channels * (conv.in_channels + (conv.bias is not None))
        last = nn.Linear(HIDDEN_FEATURES, num_factors)
        nn.init.zeros_(last.weight)
        nn.init.ones_(last.bias)
        self.scaling = nn.Sequential(nn.Linear(num_modalities, HIDDEN_FEATURES), nn.ReLU(), last).to(self.weight)

    @property
    def num_terms(self) -> int:
        """C_in; each filter is a term."""
        return self.weight.shape[1]

    def factors(self, code: Tensor) -> Tensor:
        """Compute the factors of codes.

        Args:
            code: `(B, K)`.

        Returns:
            `(B, C_out, C_in)`; if there is a bias, `(B, C_out, C_in + 1)` with its factor last.
        """
        return self.scaling(code.to(self.weight.dtype)).unflatten(1, (self.weight.shape[0], -1))

    def kernels(self, code: Tensor) -> tuple[Tensor, Tensor | None]:
        """Compute the scaled kernels and biases; see the base class."""
        factors, num_filters = self.factors(code), self.weight.shape[1]
        weight = factors[:, :, :num_filters].reshape(*factors.shape[:2], num_filters, *[1] * (self.weight.ndim - 2))
        return self.weight * weight, None if self.bias is None else self.bias * factors[:, :, -1]

    def summed(self, x: Tensor, code: Tensor) -> Tensor:
        """Apply all filters without factors, each to its input channel, and add up their scaled outputs.

        The filters need no more arithmetic than an ordinary convolution; see the base class.
        """
        num_outputs, num_filters = self.weight.shape[:2]
        filters = self.weight.transpose(0, 1).flatten(0, 1).unsqueeze(1)  # by input channel, which is a group
        terms = self._convolve(x, filters, None, groups=num_filters).unflatten(1, (num_filters, num_outputs))
        with torch.autocast(x.device.type, enabled=False):  # a factor's gradient is a sum over all voxels
            factors = self.factors(code)
            y = torch.einsum("boi,bio...->bo...", factors[:, :, :num_filters], terms.to(factors.dtype))
            if self.bias is not None:
                y = y + (self.bias * factors[:, :, -1]).reshape(*y.shape[:2], *[1] * (y.ndim - 2))
            return y.to(terms.dtype)

    def code_parameters(self) -> list[Tensor]:
        """List the weights that compute the factors; see the base class."""
        return list(self.scaling.parameters())
