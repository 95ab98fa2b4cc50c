"""One encoder for all modalities, their features joined stage by stage, nnU-Net's decoder behind.

Wang et al., "Learnable cross-modal knowledge distillation for multi-modal learning with missing modality", MICCAI 2023,
on the network that nnU-Net plans. Where paper, published code and this network differ: docs/explanation/lckd.md.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from dynamic_network_architectures.building_blocks.simple_conv_blocks import ConvDropoutNormReLU
from torch import Tensor, nn

from nnunet_moe.architectures.code_conv import state_of
from nnunet_moe.architectures.missing_modality_network import Logits, MissingModalityNetwork
from nnunet_moe.modalities.codes import Code, zero_absent
from nnunet_moe.runtime.precision import cpu_autocast
from nnunet_moe.settings.lckd import LCKDSettings


class SharedEncoderOutput(NamedTuple):
    """What a training step needs of a forward pass."""

    logits: Logits
    features: Tensor
    """`(B, K, C, *space)`, each available modality's own bottleneck feature; of absent ones it means nothing."""
    available: Tensor
    """`(B, K)` bool."""


class SharedEncoderNetwork(MissingModalityNetwork):
    """An encoder that sees one modality at a time, with absent channels as NaN in the input.

    At every stage the K feature maps are put side by side in the order of the channels and reduced to the planned width
    (convolution with kernel 1, norm, nonlinearity). At the bottleneck an absent modality's feature is the mean of those
    there are. At the other stages it is what a zero image gives, or the mean as well.

    Args:
        network: what nnU-Net built from the plans for one image channel (and those after the images, if any).
        num_modalities: K, the image channels; further input channels are shown to the encoder beside every modality.
        settings: `fill_skips` is used.

    Raises:
        ModelError: the network is none of those that nnU-Net plans.
        ModalityError: K is out of range.
    """

    teachers: Tensor
    """`(K,)` bool, the modalities that were elected last; part of the checkpoint."""

    def __init__(self, network: nn.Module, *, num_modalities: int, settings: LCKDSettings) -> None:
        super().__init__(network, num_modalities=num_modalities, settings=settings)
        self.fill_skips = settings.fill_skips
        self.register_buffer("teachers", torch.zeros(num_modalities, dtype=torch.bool))
        self.keep_buffers_from_ddp()
        encoder: Any = self.encoder
        self.reducers = nn.ModuleList(
            ConvDropoutNormReLU(
                encoder.conv_op,
                num_modalities * width,
                width,
                kernel_size=1,
                stride=1,
                conv_bias=encoder.conv_bias,
                norm_op=encoder.norm_op,
                norm_op_kwargs=encoder.norm_op_kwargs,
                nonlin=encoder.nonlin,
                nonlin_kwargs=encoder.nonlin_kwargs,
            )
            for width in encoder.output_channels
        )
        initialize: Any = getattr(network, "initialize", None)
        if initialize is not None:
            self.reducers.apply(initialize)
        self._kept: tuple[object, list[Tensor]] | None = None

    @staticmethod
    def encoder_channels(num_input_channels: int, num_modalities: int) -> int:
        return 1 + num_input_channels - num_modalities

    def forward(self, x: Tensor, *, with_features: bool = False) -> Any:
        """Logits of a batch whose absent channels are NaN.

        Args:
            x: `(B, C, *space)`, the K image channels first. The items may have different codes.
            with_features: give a `SharedEncoderOutput`.

        Returns:
            `(B, classes or regions, *space)`, or a list from full to lowest resolution under deep supervision.
        """
        available = self.available(x)
        with cpu_autocast(x.device):
            maps = self._feature_maps(zero_absent(x, available), available)
            logits = self.decode(self._joined(maps, available), x, available)
        return SharedEncoderOutput(logits, maps[-1], available) if with_features else logits

    def of_code(self, x: Tensor, code: Code) -> Logits:
        """Logits of a batch that has the modalities of a code and nothing else, in the precision of the input.

        Args:
            x: `(B, C', *space)`, the channels of these modalities, then those beyond the modalities.
            code: K bools, at least one true.
        """
        present = [modality for modality, is_there in enumerate(code) if is_there]
        zero = torch.zeros_like(x[:, :1])
        images = [x[:, [present.index(modality)]] if modality in present else zero for modality in range(len(code))]
        image = torch.cat((*images, x[:, len(present) :]), dim=1)
        available = torch.tensor([code], device=x.device).expand(x.shape[0], -1)  # len(x) would be fixed in an export
        return self.decode(self._joined(self._maps_of_code(image, present), available), x, available)

    def train(self, mode: bool = True) -> "SharedEncoderNetwork":
        if mode:
            self._kept = None
        return super().train(mode)

    def _feature_maps(self, images: Tensor, available: Tensor) -> list[Tensor]:
        """The encoder's maps `(B, K, C_stage, *space_stage)` of every modality, of a zero image where it is absent.

        Where the batch has one code, what is absent does not pass through the encoder.
        """
        if torch.compiler.is_compiling() or not (available == available[0]).all() or not available.any():
            return self._encoded(images, range(self.num_modalities))
        return self._maps_of_code(images, available[0].nonzero().flatten().tolist())

    def _maps_of_code(self, images: Tensor, present: Sequence[int]) -> list[Tensor]:
        found = self._encoded(images, present)
        if len(present) == self.num_modalities:
            return found
        blank = [stage.new_zeros(()) for stage in found] if self.fill_skips else self._of_zero_image(images)
        return [
            torch.stack(
                [
                    stage[:, present.index(modality)] if modality in present else empty.expand_as(stage[:, 0])
                    for modality in range(self.num_modalities)
                ],
                dim=1,
            )
            for stage, empty in zip(found, blank, strict=True)
        ]

    def _joined(self, maps: Sequence[Tensor], available: Tensor) -> list[Tensor]:
        """What the decoder takes of the maps of all modalities: filled where that is wanted, and reduced."""
        bottleneck = len(maps) - 1
        filled = [
            _filled(stage, available) if self.fill_skips or number == bottleneck else stage
            for number, stage in enumerate(maps)
        ]
        return [reduce(stage.flatten(1, 2)) for reduce, stage in zip(self.reducers, filled, strict=True)]

    def _encoded(self, images: Tensor, modalities: Sequence[int]) -> list[Tensor]:
        """The encoder's maps `(B, len(modalities), C_stage, *space_stage)`."""
        others = images[:, self.num_modalities :]
        rows = torch.cat([torch.cat((images[:, [modality]], others), dim=1) for modality in modalities])
        return [stage.unflatten(0, (len(modalities), -1)).transpose(0, 1) for stage in self.encoder(rows)]

    def _of_zero_image(self, images: Tensor) -> list[Tensor]:
        """The encoder's maps `(B or 1, C_stage, *space_stage)` of an image that is zero.

        One that does not depend on the input is kept until the weights or the patch's shape change.
        """
        if images.shape[1] > self.num_modalities:
            return self.encoder(torch.cat((torch.zeros_like(images[:, :1]), images[:, self.num_modalities :]), dim=1))
        zero = torch.zeros_like(images[:1, :1])
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return self.encoder(zero)
        autocast = torch.is_autocast_enabled(zero.device.type)
        state = (zero.shape, zero.dtype, zero.device, autocast, state_of(self.encoder.parameters()))
        if self._kept is None or self._kept[0] != state:
            self._kept = (state, self.encoder(zero))
        return self._kept[1]


def _filled(features: Tensor, available: Tensor) -> Tensor:
    """`(B, K, C, *space)` with the mean of the available modalities' features in the place of absent ones."""
    is_there = available[(..., *[None] * (features.ndim - 2))]
    count = is_there.sum(dim=1, keepdim=True).clamp_min(1)
    mean = torch.where(is_there, features, 0).sum(dim=1, keepdim=True) / count
    return torch.where(is_there, features, mean)
