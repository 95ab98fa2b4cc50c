"""The network of M4oE: a Swin U-Net that reads an image's type from the one channel that is not NaN."""

from collections.abc import Hashable, Sequence
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from nnunet_moe.architectures.missing_modality_network import Logits, MissingModalityNetwork
from nnunet_moe.architectures.moe_mlp import MoEMLP, routes_of
from nnunet_moe.architectures.new_image_types import image_types_of, with_new_image_types
from nnunet_moe.architectures.swin_unet import DIVISOR, MLP_RATIO, SwinUNet
from nnunet_moe.architectures.upcycling import UpcyclingSource, nothing_to_upcycle
from nnunet_moe.errors import SettingsError
from nnunet_moe.modalities.codes import zero_absent
from nnunet_moe.settings.m4oe import M4oESettings


class SwinUNetwork(MissingModalityNetwork):
    """The network of M4oE: a 2D Swin U-Net whose blocks may have one expert for each image type.

    A case has only the channel of its image type. All image types share the single input channel of the Swin U-Net.

    Source: Jiang, Shen, "M4oE: A foundation model for medical multimodal image segmentation with mixture of experts",
    MICCAI 2024.

    Args:
        network: the result of `swin_unet`.
        num_modalities: K, the number of image types, 1 to 12.
        settings: the settings of the base class are used.

    Raises:
        ModalityError: K is out of range.
    """

    takes_one_image_type: ClassVar[bool] = True
    takes_any_space: ClassVar[bool] = False

    def __init__(self, network: SwinUNet, *, num_modalities: int, settings: M4oESettings) -> None:
        super().__init__(network, num_modalities=num_modalities, settings=settings)
        self.keep_buffers_from_ddp(recurse=True)
        self.mixtures = tuple(module for module in self.modules() if isinstance(module, MoEMLP))

    def forward(self, x: Tensor) -> Logits:
        """Compute the logits of a batch.

        Args:
            x: `(B, K, H, W)`; each item has exactly one channel that is not NaN. Items may differ in their image types.

        Returns:
            `(B, classes or regions, H, W)`.
        """
        available = self.available(x)
        return self.in_cpu_precision(
            lambda: self._logits(zero_absent(x, available).sum(dim=1, keepdim=True), available), x, available
        )

    def of_code(self, x: Tensor, code: tuple[bool, ...]) -> Logits:
        """Compute the logits of images of one image type, in the precision of the input.

        Args:
            x: `(B, 1, H, W)`.
            code: K bools, true only for the image type.

        Returns:
            `(B, classes or regions, H, W)`.
        """
        return self._logits(x, torch.tensor([code], device=x.device).expand(x.shape[0], -1))

    def upcycled(
        self, source: UpcyclingSource, modalities: Sequence[str], *, noise: float, like: str | None
    ) -> dict[str, Tensor]:
        """Return a state of this network with the weights of a network for fewer image types.

        The arguments are those of the base class.

        Raises:
            ModelError: the image types or networks do not fit, or no image type is new.
            SettingsError: `channels` of the source is given.
        """
        if not self.mixtures:
            raise nothing_to_upcycle(self)
        if source.channels is not None:
            raise SettingsError(
                "-map is for trainers whose networks have an input channel for each modality. M4oE sees one image at a "
                "time, and takes its experts by the names of the image types. Remove -map."
            )
        image_types = image_types_of(source)
        return with_new_image_types(source.weights, image_types, self, modalities, like=like, noise=noise)

    def shapes_depend_on(self, available: Tensor) -> Hashable:
        """Return the numbers of items with the same image type; see the base class."""
        return tuple(sorted(available.sum(dim=0).tolist()))

    def padded(self, image: Tensor) -> Tensor:
        """Pad images `(B, C, H, W)` with zeros at the end of both axes, up to the next multiple of 32."""
        height, width = image.shape[2:]
        return F.pad(image, (0, -width % DIVISOR, 0, -height % DIVISOR))

    def use_image_types(self, available: Tensor) -> None:
        """Set the image types of a batch's items in the mixtures.

        Args:
            available: `(B, K)` bool, one true in each row.
        """
        image_type = available.long().argmax(dim=1)
        needs_routes = any(mixture.routing == "image_type" for mixture in self.mixtures)
        routes = routes_of(image_type) if needs_routes and not torch.compiler.is_compiling() else None
        for mixture in self.mixtures:
            mixture.image_type, mixture.routes = image_type, routes

    def _logits(self, image: Tensor, available: Tensor) -> Logits:
        self.use_image_types(available)
        logits = self.decode(self.encoder(self.padded(image)), image, available)
        assert isinstance(logits, Tensor)  # there is no deep supervision
        return logits[..., : image.shape[2], : image.shape[3]]


def swin_unet(num_outputs: int, patch_size: Sequence[int], num_modalities: int, settings: M4oESettings) -> SwinUNet:
    """Build the Swin U-Net for `SwinUNetwork`.

    Args:
        num_outputs: number of classes or regions.
        patch_size: height and width of the planned patch, in pixels.
        num_modalities: K, the number of image types and of experts in a block.
        settings: `width`, `placement` (the parts with experts) and `routing` (how experts are chosen) are used.
    """

    def mlp(place: str, channels: int) -> MoEMLP | None:
        if place not in settings.placement:
            return None
        hidden = MLP_RATIO * channels
        return MoEMLP(channels, hidden, num_experts=num_modalities, routing=settings.routing)

    size = [side + -side % DIVISOR for side in patch_size]
    places = {f"{place}_mlp": partial(mlp, place) for place in ("encoder", "decoder")}
    return SwinUNet(num_outputs, size, settings.width, **places)
