"""Where convolutions depend on the modality code in a network that nnU-Net has planned (paper, fig. 1)."""

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from dynamic_network_architectures.building_blocks.residual import BasicBlockD, BottleneckD
from dynamic_network_architectures.building_blocks.simple_conv_blocks import ConvDropoutNormReLU, StackedConvBlocks
from torch import nn
from torch.nn.modules.conv import _ConvNd

from nnunet_moe.architectures.code_conv import CodeConv
from nnunet_moe.architectures.filter_scaling_conv import FilterScalingConv
from nnunet_moe.architectures.moe_conv import MoEConv
from nnunet_moe.errors import ModelError
from nnunet_moe.settings.moesd import ExpertSettings


def place_code_convolutions(network: nn.Module, settings: ExpertSettings, *, num_modalities: int) -> list[CodeConv]:
    """Make convolutions of a planned network depend on the modality code, in place.

    Args:
        network: as nnU-Net plans it (PlainConvUNet, ResidualEncoderUNet).
        settings: `placement` names any of `stem` (the convolution that sees the image), `encoder` (the second
            convolution of every stage of a plain encoder, of every block of a residual one) and `decoder` (the last
            convolution of every stage); `conditioning` says what a convolution becomes, `num_experts` of how many
            experts, `expert_spread` how far these start apart. Weights are drawn anew, by nnU-Net's own initialisation.
        num_modalities: K.

    Returns:
        The new layers, in the order of the network.

    Raises:
        ModelError: the network has no such convolution.
    """
    layers = []
    for place in settings.placement:
        blocks = list(_BLOCKS[place](network))
        if not blocks:
            raise ModelError(
                f"{type(network).__name__} has no convolution in place {place!r} that can depend on the code. Networks "
                "that nnU-Net plans (PlainConvUNet, ResidualEncoderUNet) do; change the architecture or the placement "
                "in the plans."
            )
        for block in blocks:
            layer = _layer_for(block.conv, network, settings, num_modalities)
            _replace_convolution(block, layer)
            layers.append(layer)
    return layers


def _stem_blocks(network: nn.Module) -> Iterator[ConvDropoutNormReLU]:
    """The first block in the order of modules is the one that sees the image."""
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


def _layer_for(conv: _ConvNd, network: nn.Module, settings: ExpertSettings, num_modalities: int) -> CodeConv:
    if settings.conditioning == "filter_scaling":
        return FilterScalingConv(conv, num_modalities=num_modalities)
    experts = [_initialised_like(conv, network) for _ in range(settings.num_experts)]
    if settings.expert_spread < 1:
        _draw_together(experts, _initialised_like(conv, network), settings.expert_spread)
    return MoEConv(experts, num_modalities=num_modalities)


def _draw_together(experts: list[_ConvNd], shared: _ConvNd, spread: float) -> None:
    """Give the experts' initial weights, in place, a part that all share: w = sqrt(1 - spread^2) shared + spread own.

    Each expert keeps the distribution of its initialisation, two experts' weights have correlation 1 - spread^2.
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
    """nnU-Net holds a block's convolution under two names; both must go on meaning the same module."""
    position = [module is block.conv for module in block.all_modules].index(True)
    block.add_module("conv", layer)
    block.all_modules[position] = layer
