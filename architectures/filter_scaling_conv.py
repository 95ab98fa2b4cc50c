"""Convolution whose filters are scaled by a small network of the modality code.

Liu et al.: "ModDrop++: a dynamic filter network with intra-subject co-training for multiple sclerosis lesion
segmentation with missing modalities", MICCAI 2022. Every filter, the slice of a kernel between one input and one output
channel, has a factor of its own, and so has every bias.
"""

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from nnunet_moe.architectures.code_conv import CodeConv

HIDDEN_FEATURES = 16


class FilterScalingConv(CodeConv):
    """A convolution whose filters are scaled by a multilayer perceptron of the modality code.

    Its `weight` and `bias` have the names and shapes of the convolution's. All factors start at 1: the network
    starts as it was planned.

    Args:
        conv: 2D or 3D, ungrouped, zero padding; its weights are copied.
        num_modalities: K.

    Raises:
        ValueError: a convolution of another kind.
    """

    def __init__(self, conv: _ConvNd, *, num_modalities: int) -> None:
        super().__init__(conv)
        self.weight = nn.Parameter(conv.weight.detach().clone())
        self.bias = None if conv.bias is None else nn.Parameter(conv.bias.detach().clone())
        num_factors = conv.out_channels * (conv.in_channels + (conv.bias is not None))
        last = nn.Linear(HIDDEN_FEATURES, num_factors)
        nn.init.zeros_(last.weight)
        nn.init.ones_(last.bias)
        self.scaling = nn.Sequential(nn.Linear(num_modalities, HIDDEN_FEATURES), nn.ReLU(), last).to(self.weight)

    def factors(self, code: Tensor) -> Tensor:
        """`(B, K)` codes to `(B, C_out, C_in)`, or to `(B, C_out, C_in + 1)` with the bias's factor last."""
        return self.scaling(code.to(self.weight.dtype)).unflatten(1, (self.weight.shape[0], -1))

    def kernels(self, code: Tensor) -> tuple[Tensor, Tensor | None]:
        """The scaled kernels and biases."""
        factors, num_filters = self.factors(code), self.weight.shape[1]
        weight = factors[:, :, :num_filters].reshape(*factors.shape[:2], num_filters, *[1] * (self.weight.ndim - 2))
        return self.weight * weight, None if self.bias is None else self.bias * factors[:, :, -1]
