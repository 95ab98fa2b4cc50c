"""M4oE: experts for image types in the blocks of a Swin U-Net (Jiang and Shen, MICCAI 2024), and its ablations."""

from typing import Any, ClassVar

from nnunet_moe.trainers.swin_unet import nnUNetTrainerSwinUNet


class nnUNetTrainerM4oE(nnUNetTrainerSwinUNet):
    """Experts in encoder and decoder; a gate weighs them for each token."""

    forced_settings: ClassVar[dict[str, Any]] = {"placement": ("encoder", "decoder")}


class nnUNetTrainerM4oEEncoder(nnUNetTrainerSwinUNet):
    """Experts in the encoder alone."""

    forced_settings: ClassVar[dict[str, Any]] = {"placement": ("encoder",)}


class nnUNetTrainerM4oEDecoder(nnUNetTrainerSwinUNet):
    """Experts in the decoder alone."""

    forced_settings: ClassVar[dict[str, Any]] = {"placement": ("decoder",)}


class nnUNetTrainerM4oENoGate(nnUNetTrainerSwinUNet):
    """Each image passes through the experts of its image type; no gate."""

    forced_settings: ClassVar[dict[str, Any]] = {**nnUNetTrainerM4oE.forced_settings, "routing": "image_type"}


class nnUNetTrainerM4oEChannelGate(nnUNetTrainerSwinUNet):
    """As the authors' published code has it: a gate over channels, the same for all experts, which are summed."""

    forced_settings: ClassVar[dict[str, Any]] = {**nnUNetTrainerM4oE.forced_settings, "routing": "channel_gate"}
