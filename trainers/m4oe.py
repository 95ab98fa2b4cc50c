"""M4oE: experts for image types in the blocks of a Swin U-Net (Jiang and Shen, MICCAI 2024), and its ablations."""

from typing import Any, ClassVar

from nnunet_moe.trainers.swin_unet import nnUNetTrainerSwinUNet


class nnUNetTrainerM4oE(nnUNetTrainerSwinUNet):
    """Trains M4oE: a 2D Swin U-Net with one expert for each image type in each block, weighted by a gate.

    The experts replace the perceptrons of encoder and decoder. The gate weights them for each token. A training case
    has one image type. The rest is as in `nnUNetTrainerSwinUNet`.

    Source: Jiang, Shen, "M4oE: A foundation model for medical multimodal image segmentation with mixture of experts",
    MICCAI 2024, eqs. 2 and 3. Settings: `M4oESettings`.
    """

    forced_settings: ClassVar[dict[str, Any]] = {"placement": ("encoder", "decoder")}


class nnUNetTrainerM4oEEncoder(nnUNetTrainerSwinUNet):
    """Trains M4oE with experts only in the encoder."""

    forced_settings: ClassVar[dict[str, Any]] = {"placement": ("encoder",)}


class nnUNetTrainerM4oEDecoder(nnUNetTrainerSwinUNet):
    """Trains M4oE with experts only in the decoder."""

    forced_settings: ClassVar[dict[str, Any]] = {"placement": ("decoder",)}


class nnUNetTrainerM4oENoGate(nnUNetTrainerSwinUNet):
    """Trains M4oE without a gate: each image uses the experts of its image type."""

    forced_settings: ClassVar[dict[str, Any]] = {**nnUNetTrainerM4oE.forced_settings, "routing": "image_type"}


class nnUNetTrainerM4oEChannelGate(nnUNetTrainerSwinUNet):
    """Trains M4oE with the gate of the authors' published code.

    All experts are summed. The gate weights the channels of the sum, so it does not choose between experts.
    """

    forced_settings: ClassVar[dict[str, Any]] = {**nnUNetTrainerM4oE.forced_settings, "routing": "channel_gate"}
