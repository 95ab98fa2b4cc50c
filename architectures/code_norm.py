"""An instance norm whose scale and shift depend on the modality code.

Conditional normalization is known from style transfer (Dumoulin et al., ICLR 2017) and FiLM (Perez et al., AAAI 2018).
"""

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.nn.modules.instancenorm import _InstanceNorm

from nnunet_moe.architectures.code_layer import CodeLayer, full_precision


class CodeNorm(CodeLayer):
    """An instance norm whose scale and shift are those of the planned norm plus a linear function of the code.

    `weight` and `bias` have the same names and shapes as those of the planned norm. The linear function starts at zero,
    so the network starts as it was planned.

    Args:
        norm: an instance norm (2D or 3D) with scale and shift and without running statistics; its weights are copied.
        num_modalities: K.

    Raises:
        ValueError: the norm is of another type.
    """

    def __init__(self, norm: nn.Module, *, num_modalities: int) -> None:
        super().__init__()
        if not (isinstance(norm, _InstanceNorm) and norm.affine and not norm.track_running_stats):
            raise ValueError(
                f"{norm} cannot depend on a modality code. Use an InstanceNorm2d or InstanceNorm3d with affine=True "
                "and track_running_stats=False, as nnU-Net plans it."
            )
        self.eps = norm.eps
        self.weight = nn.Parameter(norm.weight.detach().clone())
        self.bias = nn.Parameter(norm.bias.detach().clone())
        self.scaling = nn.Linear(num_modalities, 2 * norm.num_features, bias=False).to(self.weight)
        nn.init.zeros_(self.scaling.weight)

    def scale_and_shift(self, code: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the scales and shifts of codes.

        Args:
            code: `(B, K)`.

        Returns:
            Two tensors `(B, C)`.
        """
        scale, shift = self.scaling(code.to(self.weight.dtype)).chunk(2, dim=1)
        return self.weight + scale, self.bias + shift

    def forward(self, x: Tensor) -> Tensor:
        """Normalize each channel of each item, then scale and shift it by the item's code.

        Args:
            x: `(B, C, *space)`.

        Returns:
            A tensor of the same shape.

        Raises:
            RuntimeError: no network has set `code_input`.
        """
        code = self.require_code().code
        with full_precision(code):
            scale, shift = self.scale_and_shift(code)
        if len(scale) == 1:
            return F.instance_norm(x, weight=scale[0], bias=shift[0], eps=self.eps)
        # items become channels of one item, as instance norm does it anyway
        joined = x.reshape(1, -1, *x.shape[2:])
        return F.instance_norm(joined, weight=scale.flatten(), bias=shift.flatten(), eps=self.eps).reshape(x.shape)

    def fixed_state(self, code: Tensor) -> dict[str, Tensor]:
        """Compute the scale and shift of one code; see the base class."""
        scale, shift = self.scale_and_shift(code)
        return {"weight": scale[0], "bias": shift[0]}

    def code_parameters(self) -> list[Tensor]:
        """List the weights of the linear function; see the base class."""
        return [self.scaling.weight]

    def extra_repr(self) -> str:
        """Describe the layer for `print(network)`."""
        return f"{len(self.weight)}, eps={self.eps}"
