"""Small networks as trainers make them, and inputs for them."""

import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from timm.layers import DropPath
from torch import nn

from nnunet_moe.architectures.modality_network import ModalityNetwork
from nnunet_moe.architectures.swin_network import SwinUNetwork, swin_unet
from nnunet_moe.settings.m4oe import M4oESettings
from nnunet_moe.settings.moesd import MoESDSettings

CONV = {2: nn.Conv2d, 3: nn.Conv3d}
NORM = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
QUIET = MoESDSettings(code_noise_sd=0.0)


def planned(kind="plain", dimensions=3, channels=3, deep_supervision=False, seed=0, **more):
    """A small network of the classes that nnU-Net plans, initialised as nnU-Net does, in float64."""
    torch.manual_seed(seed)
    plain = kind == "plain"
    network = (PlainConvUNet if plain else ResidualEncoderUNet)(
        input_channels=channels,
        n_stages=3,
        conv_op=CONV[dimensions],
        kernel_sizes=3,
        strides=[1, 2, 2],
        num_classes=2,
        conv_bias=True,
        norm_op=NORM[dimensions],
        norm_op_kwargs={"affine": True},
        nonlin=nn.LeakyReLU,
        deep_supervision=deep_supervision,
        **{
            "features_per_stage": [4, 6, 8],
            "n_conv_per_stage" if plain else "n_blocks_per_stage": [2, 2, 2],
            "n_conv_per_stage_decoder": 1,
            **more,
        },
    )
    network.apply(network.initialize)
    return network.double()


def modality_network(settings=QUIET, num_modalities=3, **more):
    return ModalityNetwork(planned(channels=num_modalities, **more), num_modalities=num_modalities, settings=settings)


def without_drop_path(network):
    """The network, which then keeps every residual branch in training: DropPath drops some of them at random."""
    for module in network.modules():
        if isinstance(module, DropPath):
            module.drop_prob = 0.0
    return network


def batch(items=2, channels=3, dimensions=3, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(items, channels, *[8] * dimensions, generator=generator, dtype=torch.float64)


def swin_network(
    routing="gate",
    *,
    placement=("encoder", "decoder"),
    num_modalities=3,
    patch_size=(50, 38),
    outputs=4,
    width=12,
    **settings,
):
    torch.manual_seed(0)
    chosen = M4oESettings(placement=placement, routing=routing, width=width, **settings)
    plain = swin_unet(outputs, patch_size, num_modalities, chosen)
    return SwinUNetwork(plain, num_modalities=num_modalities, settings=chosen).eval()


def of_image_types(kinds, size, num_modalities=3):
    x = torch.full((len(kinds), num_modalities, *size), torch.nan)
    for item, kind in enumerate(kinds):
        x[item, kind] = torch.randn(size)
    return x
