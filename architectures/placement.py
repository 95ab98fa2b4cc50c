"""The places in nnU-Net's planned networks where convolutions depend on the modality code (paper, fig. 1)."""

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from dynamic_network_architectures.building_blocks.residual import BasicBlockD, BottleneckD
from dynamic_network_architectures.building_blocks.simple_conv_blocks import ConvDropoutNormReLU, StackedConvBlocks
from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm

from nnunet_moe.architectures.code_conv import CodeConv
from nnunet_moe.architectures.code_norm import CodeNorm
from nnunet_moe.architectures.filter_scaling_conv import FilterScalingConv
from nnunet_moe.architectures.low_rank_conv import LowRankConv
from nnunet_moe.architectures.moe_conv import MoEConv
from nnunet_moe.errors import ModelError
from nnunet_moe.settings.moesd import ExpertSettings
from nnunet_moe.settings.two_views import TwoViewsSettings


def place_code_convolutions(network: nn.Module, settings: TwoViewsSettings, *, num_modalities: int) -> list[CodeConv]:
    """Make convolutions of a planned network depend on the modality code, in place.

    The setting `placement` names the convolutions:

    - `stem`: the convolution that sees the image.
    - `encoder`: the second convolution of each stage of a plain encoder, or of each block of a residual encoder.
    - `decoder`: the last convolution of each stage.

    The experts' weights are drawn with nnU-Net's own initialization; weights of the replaced convolutions are not used.

    Args:
        network: a network that nnU-Net plans (PlainConvUNet, ResidualEncoderUNet).
        settings: `placement`, as above. With `rank` above 0, low-rank products depend on the code. Otherwise
            `conditioning` says how the convolutions depend on it, `num_experts` is the number of experts, and
            `expert_spread` is how different their initial weights are. Settings without experts and without `rank`
            place nothing. `item_kernels` says how a batch is convolved.
        num_modalities: K.

    Returns:
        The new layers; for each place in the order of the network.

    Raises:
        ModelError: the network has no such convolution.
    """
    layers = []
    if not (settings.rank or isinstance(settings, ExpertSettings)):
        return layers
    for place in settings.placement:
        blocks = list(_BLOCKS[place](network))
        if not blocks:
            raise ModelError(
                f"{type(network).__name__} has no convolution in the place {place!r} that can depend on the code. "
                "Networks that nnU-Net plans have it (PlainConvUNet, ResidualEncoderUNet). Change 'architecture' or "
                "'placement' in the plans."
            )
        for block in blocks:
            layer = _layer_for(block.conv, network, settings, num_modalities)
            _replace_convolution(block, layer)
            layers.append(layer)
    return layers


def place_code_norms(network: nn.Module, *, num_modalities: int) -> list[CodeNorm]:
    """Make scale and shift of all instance norms of a planned network depend on the modality code, in place.

    Args:
        network: a network that nnU-Net plans (PlainConvUNet, ResidualEncoderUNet).
        num_modalities: K.

    Returns:
        The new layers in the order of the network.

    Raises:
        ModelError: the network has no instance norm with scale and shift.
    """
    norms = [module for module in network.modules() if isinstance(module, _InstanceNorm) and module.affine]
    if not norms:
        raise ModelError(
            f"{type(network).__name__} has no instance norm with scale and shift that could depend on the code. "
            "Networks that nnU-Net plans have them. Change 'architecture' in the plans, or remove 'norm_by_code'."
        )
    layers: dict[nn.Module, CodeNorm] = {norm: CodeNorm(norm, num_modalities=num_modalities) for norm in norms}
    for parent in list(network.modules()):  # a norm has several names in nnU-Net's network
        for name, child in parent.named_children():
            if child in layers:
                parent.add_module(name, layers[child])
    return list(layers.values())


def _stem_blocks(network: nn.Module) -> Iterator[ConvDropoutNormReLU]:
    """Yield the block that sees the image, which is the first one in the order of modules."""
    for module in network.modules():
        if isinstance(module, ConvDropoutNormReLU):
            yield module
            return


def _encoder_blocks(network: nn.Module) -> Iterator[ConvDropoutNormReLU]:
    encoder = getattr(network, "encoder", nn.Module())
    for module in encoder.modules():
        if isinstance(module, (BasicBlockD, BottleneckD)):
            yield module.conv2
        elif isinstance(module, StackedConvBlocks) and len(module.convs) > 1:
            yield _block(module, 1)


def _decoder_blocks(network: nn.Module) -> Iterator[ConvDropoutNormReLU]:
    for stage in getattr(getattr(network, "decoder", None), "stages", ()):
        if isinstance(stage, StackedConvBlocks):
            yield _block(stage, -1)


_BLOCKS: dict[str, Callable[[nn.Module], Iterator[ConvDropoutNormReLU]]] = {
    "stem": _stem_blocks,
    "encoder": _encoder_blocks,
    "decoder": _decoder_blocks,
}


def _block(stack: StackedConvBlocks, position: int) -> ConvDropoutNormReLU:
    block = stack.convs[position]
    assert isinstance(block, ConvDropoutNormReLU)
    return block


def _layer_for(conv: _ConvNd, network: nn.Module, settings: TwoViewsSettings, num_modalities: int) -> CodeConv:
    if settings.rank:
        return LowRankConv(conv, rank=settings.rank, num_modalities=num_modalities, item_kernels=settings.item_kernels)
    assert isinstance(settings, ExpertSettings)
    if settings.conditioning == "filter_scaling":
        return FilterScalingConv(conv, num_modalities=num_modalities, item_kernels=settings.item_kernels)
    experts = [_initialised_like(conv, network) for _ in range(settings.num_experts)]
    if settings.expert_spread < 1:
        _draw_together(experts, _initialised_like(conv, network), settings.expert_spread)
    return MoEConv(experts, num_modalities=num_modalities, item_kernels=settings.item_kernels)


def _draw_together(experts: list[_ConvNd], shared: _ConvNd, spread: float) -> None:
    """Mix the experts' initial weights with shared ones, in place: w = sqrt(1 - spread^2) shared + spread own.

    Each expert keeps the distribution of its initialization. The weights of two experts have correlation 1 - spread^2.
    """
    with torch.no_grad():
        for expert in experts:
            for own, common in zip(expert.parameters(), shared.parameters(), strict=True):
                own.mul_(spread).add_(common, alpha=math.sqrt(1 - spread**2))


def _initialised_like(conv: _ConvNd, network: nn.Module) -> _ConvNd:
    expert = copy.deepcopy(conv)
    expert.reset_parameters()
    initialize: Any = getattr(network, "initialize", None)
    if initialize is not None:
        expert.apply(initialize)
    return expert


def _replace_convolution(block: ConvDropoutNormReLU, layer: CodeConv) -> None:
    """Replace a block's convolution under both names that it has in nnU-Net's network."""
    position = [module is block.conv for module in block.all_modules].index(True)
    block.add_module("conv", layer)
    block.all_modules[position] = layer
