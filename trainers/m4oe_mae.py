"""Phase one of M4oE: a masked autoencoder in which each image trains the experts of its image type."""

from typing import Any, ClassVar

import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from torch import Tensor

from nnunet_moe.architectures.masked_autoencoder import MASKED_PATCH, MaskedAutoencoder, enlarged
from nnunet_moe.architectures.swin_unet import DIVISOR
from nnunet_moe.losses.m4oe import reconstruction_loss
from nnunet_moe.modalities.codes import zero_absent
from nnunet_moe.trainers.base import Levels
from nnunet_moe.trainers.m4oe import nnUNetTrainerM4oENoGate
from nnunet_moe.trainers.masked_patches import draw_masked_patches
from nnunet_moe.trainers.swin_unet import nnUNetTrainerSwinUNet

OF_VALIDATION = 2**32 - 3
"""A position for `_seed` that no iteration uses."""


class nnUNetTrainerM4oEMAE(nnUNetTrainerSwinUNet):
    """Pre-trains M4oE's encoder: three quarters of each image's patches are masked and reconstructed.

    The checkpoint provides initial weights for `nnUNetTrainerM4oE` (`-pretrained_weights`). It cannot segment.

    - As in Swin-MAE, masked patches have 16 x 16 pixels, the loss is the squared error of the masked pixels, and images
      are only mirrored.
    - Pixels that nnU-Net pads or crops away do not count.
    - Segmentations are not used, with one exception: if there is an ignore label, nnU-Net draws patches only where
      there are voxels with another label.

    Source: phase one of Jiang, Shen (MICCAI 2024). The masking follows Dai et al., "Swin MAE: Masked autoencoders for
    small datasets", 2023. Settings: `M4oESettings`.
    """

    network_class = MaskedAutoencoder
    is_pretraining = True
    forced_settings: ClassVar[dict[str, Any]] = nnUNetTrainerM4oENoGate.forced_settings
    masked_ratio: ClassVar[float] = 0.75
    """Fraction of the patches that are masked, 0 to 1."""
    betas = (0.9, 0.95)

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008 - nnU-Net's signature
    ) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.label_sets = None
        self.oversample_foreground_percent = 0.0

    @staticmethod
    def get_training_transforms(
        patch_size: Any,
        rotation_for_DA: Any,  # noqa: N803 - nnU-Net's name
        deep_supervision_scales: Any,
        mirror_axes: Any,
        *_: Any,
        **__: Any,
    ) -> BasicTransform:
        """Return only mirroring; the segmentation keeps the -1 with which nnU-Net marks voxels outside of the image."""
        return ComposeTransforms([] if mirror_axes is None else [MirrorTransform(allowed_axes=mirror_axes)])

    @staticmethod
    def get_validation_transforms(*_: Any, **__: Any) -> BasicTransform:
        """Return no transforms."""
        return ComposeTransforms([])

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self) -> tuple[Any, Any, Any, Any]:  # noqa: N802
        """Configure as nnU-Net does, but cut patches in their final size, because images are not rotated."""
        rotation, dummy, _, mirror_axes = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        return rotation, dummy, self.configuration_manager.patch_size, mirror_axes

    def backward(self, data: Tensor, target: Levels, iteration: int) -> dict[str, Tensor]:
        """Compute the reconstruction loss and its gradients; see the base class."""
        with self._autocast():
            parts = {"L_rec": self._loss_of(data, target, self._seed(iteration))}
        self._backward(parts)
        return parts

    def validation_step(self, batch: dict) -> dict:
        """Compute the reconstruction loss of a batch, with the same masked patches in every epoch."""
        self._validation_step += 1
        batch = self._on_device(batch)
        seed = self._seed(OF_VALIDATION, self._validation_step % self.num_val_iterations_per_epoch)
        with self._autocast():
            return {"loss": self._loss_of(batch["data"], batch["target"], seed).cpu().numpy()}

    def on_validation_epoch_end(self, val_outputs: list[dict]) -> None:
        """Log the negative loss as nnU-Net's pseudo Dice, by which nnU-Net chooses the best epoch."""
        loss = float(np.mean([output["loss"] for output in self._of_all_processes(val_outputs)]))
        self.logger.log("mean_fg_dice", -loss, self.current_epoch)
        self.logger.log("dice_per_class_or_region", [-loss], self.current_epoch)
        self.logger.log("val_losses", loss, self.current_epoch)

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """Skip nnU-Net's final validation, because a pre-trained model cannot segment."""
        self.print_to_log_file(
            "Pre-training is complete. Train nnUNetTrainerM4oE or nnUNetTrainerM4oENoGate with -pretrained_weights "
            f"{self._folder() / 'checkpoint_final.pth'}"
        )

    def _loss_of(self, data: Tensor, target: Levels, seed: int) -> Tensor:
        assert isinstance(target, Tensor)  # there is no deep supervision
        height, width = data.shape[2:]
        rows, columns = (DIVISOR // MASKED_PATCH * -(-side // DIVISOR) for side in (height, width))
        generator = torch.Generator().manual_seed(seed)
        masked = draw_masked_patches(len(data), rows, columns, self.masked_ratio, generator)
        masked = masked.to(data.device, non_blocking=True)
        reconstructed = self.network(data, masked)
        image = zero_absent(data, ~data.isnan().flatten(2).any(dim=2)).sum(dim=1, keepdim=True)
        counted = enlarged(masked, MASKED_PATCH)[:, None, :height, :width] & (target[:, :1] >= 0)
        return reconstruction_loss(reconstructed, image, counted)
