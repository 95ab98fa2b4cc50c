"""Pre-training of M4oE's encoder: patches of an image are masked and reconstructed from the others.

Source: He et al., "Masked autoencoders are scalable vision learners", CVPR 2022. For windowed attention, masked patches
keep their places and are replaced by a learned token, as in Dai et al., "Swin MAE: Masked autoencoders for small
datasets", 2023.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nnunet_moe.architectures.missing_modality_network import Logits
from nnunet_moe.architectures.swin_network import SwinUNetwork
from nnunet_moe.architectures.swin_unet import PATCH, PatchExpanding, SwinUNet, blocks, initialize
from nnunet_moe.errors import ModelError
from nnunet_moe.modalities.codes import zero_absent
from nnunet_moe.settings.m4oe import M4oESettings

MASKED_PATCH = 16
"""Side of a patch that is masked or shown as a whole, in pixels."""


class MaskedAutoencoder(SwinUNetwork):
    """M4oE's network whose encoder is trained with a separate decoder that reconstructs the image.

    The separate decoder is not used after pre-training. M4oE's own decoder and gates keep their initial weights. They
    are in the checkpoint because nnU-Net expects them in pretrained weights.

    Args:
        network: the result of `swin_unet`.
        num_modalities: K, the number of image types.
        settings: as for every network.
    """

    def __init__(self, network: SwinUNet, *, num_modalities: int, settings: M4oESettings) -> None:
        super().__init__(network, num_modalities=num_modalities, settings=settings)
        self.decoder.requires_grad_(False)
        widths, maps = network.encoder.widths, network.encoder.maps
        self.hidden_token = nn.Parameter(torch.empty(widths[0]))
        nn.init.trunc_normal_(self.hidden_token, std=0.02)
        self.reconstruction = Reconstruction(widths[:-1], maps[:-1])
        self.keep_buffers_from_ddp(recurse=True)

    def forward(self, x: Tensor, masked: Tensor | None = None) -> Logits:
        """Reconstruct images from those of their patches that are not masked.

        Args:
            x: `(B, K, H, W)`; each item has exactly one channel that is not NaN.
            masked: `(B, ceil(H / 32) * 2, ceil(W / 32) * 2)` bool, one entry for each patch of 16 x 16 pixels.

        Returns:
            Images `(B, 1, H, W)`, the reconstruction of each item's channel.

        Raises:
            ModelError: `masked` is None, as in an attempt to segment.
        """
        if masked is None:
            return super().forward(x)
        available = self.available(x)
        self.use_image_types(available)
        encoder: Any = self.encoder
        image = zero_absent(x, available).sum(dim=1, keepdim=True)
        of_tokens = enlarged(masked, MASKED_PATCH // PATCH)[..., None]

        def reconstruct() -> Tensor:
            tokens = encoder.embed(self.padded(image))
            tokens = torch.where(of_tokens, self.hidden_token.to(tokens.dtype), tokens)
            return self.reconstruction(encoder.encode(tokens)[-1])

        return self.in_cpu_precision(reconstruct, x, available)[..., : x.shape[2], : x.shape[3]]

    def _logits(self, image: Tensor, available: Tensor) -> Logits:
        self.require_segmentation()
        return super()._logits(image, available)

    def require_segmentation(self) -> None:
        """Refuse to segment.

        Raises:
            ModelError: always.
        """
        raise ModelError(
            "This model is only a pre-training and cannot segment, because its decoder is not trained. Train "
            "nnUNetTrainerM4oE with this checkpoint as -pretrained_weights."
        )


class Reconstruction(nn.Module):
    """The decoder of the masked autoencoder: Swin U-Net's decoder without skip connections, with pixels as output.

    Without skip connections, the bottleneck has to contain all information on the image.

    Args:
        widths: channels of the stages, the finest first.
        maps: height and width of the stages' maps in tokens, the finest first.
    """

    def __init__(self, widths: Sequence[int], maps: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        self.expanding = nn.ModuleList(PatchExpanding(2 * width, width, 2) for width in widths)
        self.stages = nn.ModuleList(
            blocks(width, size, number, [0.0, 0.0], lambda _: None)
            for number, (width, size) in enumerate(zip(widths, maps, strict=True))
        )
        self.norm = nn.LayerNorm(widths[0])
        self.to_pixels = nn.Linear(widths[0], PATCH**2)
        self.apply(initialize)

    def forward(self, tokens: Tensor) -> Tensor:
        """Decode tokens `(B, H / 32, W / 32, 8 C)` to images `(B, 1, H, W)`."""
        for stage in reversed(range(len(self.stages))):
            tokens = self.stages[stage](self.expanding[stage](tokens))
        squares = self.to_pixels(self.norm(tokens)).unflatten(-1, (PATCH, PATCH))
        return squares.transpose(2, 3).flatten(1, 2).flatten(2, 3)[:, None]


def enlarged(patches: Tensor, factor: int) -> Tensor:
    """Enlarge `(B, H, W)` to `(B, H f, W f)`, where each entry becomes a square of side f, the `factor`."""
    return patches.repeat_interleave(factor, dim=1).repeat_interleave(factor, dim=2)
