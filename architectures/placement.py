"""Where mixtures of experts stand in a network that nnU-Net has planned (paper, fig. 1)."""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

from dynamic_network_architectures.building_blocks.residual import BasicBlockD, BottleneckD
from dynamic_network_architectures.building_blocks.simple_conv_blocks import ConvDropoutNormReLU, StackedConvBlocks
from torch import nn
from torch.nn.modules.conv import _ConvNd

from nnunet_moe.architectures.moe_conv import MoEConv
from nnunet_moe.errors import ModelError


def place_experts(
    network: nn.Module, placement: Sequence[str], *, num_experts: int, num_modalities: int
) -> list[MoEConv]:
    """Turn convolutions of a planned network into mixtures of experts, in place.

    Args:
        network: as nnU-Net plans it (PlainConvUNet, ResidualEncoderUNet).
        placement: any of `stem` (the convolution that sees the image) and `encoder` (the second convolution of every
            stage of a plain encoder, of every block of a residual one).
        num_experts: E; each gets nnU-Net's own initialisation, drawn anew.
        num_modalities: K.

    Returns:
        The mixtures, in the order of the network.

    Raises:
        ModelError: the network has no block to place a mixture in.
    """
    find = {"stem": _stem_blocks, "encoder": _encoder_blocks}
    mixtures = []
    for place in placement:
        blocks = list(find[place](network))
        if not blocks:
            raise ModelError(
                f"{type(network).__name__} has no convolution to mix in place {place!r}. Networks that nnU-Net plans "
                "(PlainConvUNet, ResidualEncoderUNet) do; change the architecture or the placement in the plans."
            )
        for block in blocks:
            experts = [_initialised_like(block.conv, network) for _ in range(num_experts)]
            mixture = MoEConv(experts, num_modalities=num_modalities)
            _replace_convolution(block, mixture)
            mixtures.append(mixture)
    return mixtures


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
            second = module.convs[1]
            assert isinstance(second, ConvDropoutNormReLU)
            yield second


def _initialised_like(conv: _ConvNd, network: nn.Module) -> _ConvNd:
    expert = copy.deepcopy(conv)
    expert.reset_parameters()
    initialize: Any = getattr(network, "initialize", None)
    if initialize is not None:
        expert.apply(initialize)
    return expert


def _replace_convolution(block: ConvDropoutNormReLU, mixture: MoEConv) -> None:
    """nnU-Net holds a block's convolution under two names; both must go on meaning the same module."""
    position = [module is block.conv for module in block.all_modules].index(True)
    block.add_module("conv", mixture)
    block.all_modules[position] = mixture
