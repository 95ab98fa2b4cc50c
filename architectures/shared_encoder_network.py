"""LCKD's network: one encoder for all modalities, whose features are joined at each stage, and nnU-Net's decoder.

Source: Wang et al., "Learnable cross-modal knowledge distillation for multi-modal learning with missing modality",
MICCAI 2023, here with the network that nnU-Net plans. docs/explanation/lckd.md lists the differences between the paper,
the published code and this network.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from dynamic_network_architectures.building_blocks.simple_conv_blocks import ConvDropoutNormReLU
from torch import Tensor, nn

from nnunet_moe.architectures.code_conv import state_of
from nnunet_moe.architectures.missing_modality_network import Logits, MissingModalityNetwork
from nnunet_moe.modalities.codes import Code, zero_absent
from nnunet_moe.settings.lckd import LCKDSettings


class SharedEncoderOutput(NamedTuple):
    """The result of a forward pass in training."""

    logits: Logits
    """`(B, classes or regions, *space)`, or a list of them under deep supervision."""
    features: Tensor
    """`(B, K, C, *space)`, the bottleneck feature of each available modality; without meaning for missing ones."""
    available: Tensor
    """`(B, K)` bool."""


class SharedEncoderNetwork(MissingModalityNetwork):
    """The network of LCKD: one shared encoder sees one modality at a time; missing channels are NaN in the input.

    At each stage, the K feature maps are concatenated in the order of the channels and reduced to the planned width
    (convolution with kernel 1, norm, nonlinearity). The feature of a missing modality is

    - at the bottleneck the mean of the features of the available modalities;
    - at the other stages the feature of a zero image, or with `fill_skips` also the mean.

    Source: Wang et al., MICCAI 2023.

    Args:
        network: the network that nnU-Net built from the plans for one image channel and any channels after the images.
        num_modalities: K, the number of image channels, 1 to 12. The encoder sees further input channels together with
            each modality.
        settings: `fill_skips` is used, and the settings of the base class.

    Raises:
        ModelError: the network is not one that nnU-Net plans.
        ModalityError: K is out of range.
    """

    teachers: Tensor
    """`(K,)` bool, the modalities that teach, from the last election; part of the checkpoint."""

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
        """Return the number of the encoder's input channels: one image channel and any channels after the images."""
        return 1 + num_input_channels - num_modalities

    def forward(self, x: Tensor, *, with_features: bool = False) -> Any:
        """Compute the logits of a batch.

        Args:
            x: `(B, C, *space)`, the K image channels first; missing channels are NaN. Items may differ in their codes.
            with_features: whether to return a `SharedEncoderOutput`.

        Returns:
            `(B, classes or regions, *space)`, or a list from full to lowest resolution under deep supervision; or a
                `SharedEncoderOutput`.
        """
        available = self.available(x)

        def compute() -> SharedEncoderOutput:
            maps = self._feature_maps(zero_absent(x, available), available)
            return SharedEncoderOutput(self.decode(self._joined(maps, available), x, available), maps[-1], available)

        output = self.in_cpu_precision(compute, x, available)
        return output if with_features else output.logits

    def of_code(self, x: Tensor, code: Code) -> Logits:
        """Compute the logits of a batch that contains only the modalities of a code, in the precision of the input.

        Args:
            x: `(B, C', *space)`, the channels of these modalities, then any channels after the modalities.
            code: K bools, at least one true.

        Returns:
            `(B, classes or regions, *space)`, or a list from full to lowest resolution under deep supervision.
        """
        present = [modality for modality, is_there in enumerate(code) if is_there]
        zero = torch.zeros_like(x[:, :1])
        images = [x[:, [present.index(modality)]] if modality in present else zero for modality in range(len(code))]
        image = torch.cat((*images, x[:, len(present) :]), dim=1)
        available = torch.tensor([code], device=x.device).expand(x.shape[0], -1)  # len(x) would be fixed in an export
        return self.decode(self._joined(self._maps_of_code(image, present), available), x, available)

    def train(self, mode: bool = True) -> "SharedEncoderNetwork":
        """Set training or evaluation mode; training mode deletes the cached maps of a zero image."""
        if mode:
            self._kept = None
        return super().train(mode)

    def _feature_maps(self, images: Tensor, available: Tensor) -> list[Tensor]:
        """Compute the encoder's maps `(B, K, C_stage, *space_stage)` of each modality; missing ones get a zero image's.

        If all items have the same code, missing modalities do not pass through the encoder.
        """
        if not torch.compiler.is_compiling():
            codes = available.tolist()  # the only wait for a GPU
            if any(codes[0]) and all(each == codes[0] for each in codes):
                return self._maps_of_code(images, [number for number, is_there in enumerate(codes[0]) if is_there])
        everything = range(self.num_modalities)
        if not torch.is_grad_enabled():
            return self._encoded(images, everything)
        found = self._encoded(self._without_zero_images(images, available), everything)
        if self.fill_skips:  # the maps of missing modalities are replaced at every stage
            return found
        return [
            torch.where(_over(available, stage), stage, empty.unsqueeze(1).to(stage.dtype))
            for stage, empty in zip(found, self._of_zero_image(images), strict=True)
        ]

    def _without_zero_images(self, images: Tensor, available: Tensor) -> Tensor:
        """Replace the zero image of each missing modality by the first available image of the item.

        The maps of these rows are not used. A zero image must not pass through the encoder in half precision: its
        features are constant, so each norm multiplies the gradient by 1 / sqrt(eps) = 316, and a few norms overflow.
        """
        own = images[:, : self.num_modalities]
        first = own[torch.arange(len(own), device=own.device), available.int().argmax(dim=1)]
        own = torch.where(_over(available, own), own, first.unsqueeze(1))
        return torch.cat((own, images[:, self.num_modalities :]), dim=1)

    def _maps_of_code(self, images: Tensor, present: Sequence[int]) -> list[Tensor]:
        found = self._encoded(images, present)
        if len(present) == self.num_modalities:
            return found
        blank = [stage.new_zeros(()) for stage in found] if self.fill_skips else self._of_zero_image(images)
        return [
            torch.stack(
                [
                    stage[:, present.index(modality)]
                    if modality in present
                    else empty.to(stage.dtype).expand_as(stage[:, 0])
                    for modality in range(self.num_modalities)
                ],
                dim=1,
            )
            for stage, empty in zip(found, blank, strict=True)
        ]

    def _joined(self, maps: Sequence[Tensor], available: Tensor) -> list[Tensor]:
        """Fill the maps of missing modalities where needed, then join the maps of all modalities for the decoder."""
        bottleneck = len(maps) - 1
        filled = [
            _filled(stage, available) if self.fill_skips or number == bottleneck else stage
            for number, stage in enumerate(maps)
        ]
        return [reduce(stage.flatten(1, 2)) for reduce, stage in zip(self.reducers, filled, strict=True)]

    def _encoded(self, images: Tensor, modalities: Sequence[int]) -> list[Tensor]:
        """Compute the encoder's maps `(B, len(modalities), C_stage, *space_stage)`."""
        others = images[:, self.num_modalities :]
        rows = torch.cat([torch.cat((images[:, modality : modality + 1], others), dim=1) for modality in modalities])
        return [stage.unflatten(0, (len(modalities), -1)).transpose(0, 1) for stage in self.encoder(rows)]

    def _of_zero_image(self, images: Tensor) -> list[Tensor]:
        """Compute the encoder's maps `(B or 1, C_stage, *space_stage)` of a zero image.

        If they do not depend on the input, they are cached until the weights or the patch's shape change. If gradients
        are needed, they are computed in the precision of the weights, see `_without_zero_images`.
        """
        depends_on_input = images.shape[1] > self.num_modalities
        zero = torch.zeros_like(images[: None if depends_on_input else 1, :1])
        if depends_on_input:
            zero = torch.cat((zero, images[:, self.num_modalities :]), dim=1)
        if torch.is_grad_enabled():
            with torch.autocast(zero.device.type, enabled=False):
                return self.encoder(zero)
        if depends_on_input or torch.compiler.is_compiling():
            return self.encoder(zero)
        autocast = torch.is_autocast_enabled(zero.device.type)
        state = (zero.shape, zero.dtype, zero.device, autocast, state_of(self.encoder.parameters()))
        if self._kept is None or self._kept[0] != state:
            self._kept = (state, self.encoder(zero))
        return self._kept[1]


def _over(available: Tensor, features: Tensor) -> Tensor:
    """Return `(B, K)` in a shape that broadcasts with `(B, K, ...)`."""
    return available[(..., *[None] * (features.ndim - 2))]


def _filled(features: Tensor, available: Tensor) -> Tensor:
    """Replace the features of missing modalities in `(B, K, C, *space)` by the mean of the available ones."""
    is_there = _over(available, features)
    count = is_there.sum(dim=1, keepdim=True).clamp_min(1)
    mean = torch.where(is_there, features, 0).sum(dim=1, keepdim=True) / count
    return torch.where(is_there, features, mean)
