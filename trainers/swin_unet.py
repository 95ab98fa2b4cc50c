"""Swin U-Net for cases of one image type each, such as CT or MRI: the base class and the control of M4oE."""

from typing import Any, ClassVar

import torch
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import Tensor, nn

from nnunet_moe.architectures.moe_mlp import gates_kept
from nnunet_moe.architectures.swin_network import SwinUNetwork, swin_unet
from nnunet_moe.errors import ModalityError, ModelError
from nnunet_moe.modalities.codes import Code, available_modalities, channel_names, code_text
from nnunet_moe.prediction import unwrap
from nnunet_moe.settings.base import Settings
from nnunet_moe.settings.m4oe import M4oESettings
from nnunet_moe.trainers.base import Levels, nnUNetTrainerMissingModality
from nnunet_moe.trainers.learning_rates import WarmUpCosineLR
from nnunet_moe.training_log import gates_line

WARM_UP = 0.05
"""The fraction of all epochs in which the learning rate rises; at least one epoch."""


class nnUNetTrainerSwinUNet(nnUNetTrainerMissingModality):
    """Trains a 2D Swin U-Net without experts, the control of M4oE, on cases of one image type each.

    - The image types, such as CT and MRI, are the channels in dataset.json. Each case has exactly one channel.
    - Each batch is seen once, and no modality is dropped. There is no deep supervision.
    - The optimizer is AdamW with an initial learning rate of 3e-4, a warm-up and a cosine schedule.

    M4oE's paper names AdamW but gives no values. Learning rate, weight decay (5e-2) and the norm to which gradients are
    clipped (1.0) are those of nnU-Net's own transformers (`nnUNet_Primus_S_Trainer`).

    Source: Cao et al., "Swin-Unet: Unet-like pure transformer for medical image segmentation", ECCV workshops 2022.
    Settings: `M4oESettings`.

    Raises:
        ModelError: see `checked`.
        SettingsError: see `checked`.
        ModalityError: see `checked`.
    """

    network_class = SwinUNetwork
    settings_class = M4oESettings
    settings: M4oESettings
    max_gradient_norm = 1.0
    betas: ClassVar[tuple[float, float]] = (0.9, 0.999)
    """The betas of AdamW."""

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008 - nnU-Net's signature
    ) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.initial_lr = 3e-4
        self.weight_decay = 5e-2
        self.enable_deep_supervision = False
        self._last_images: dict[int, Tensor] = {}
        """Image type -> its last validated images; empty if no gate weights experts."""

    @classmethod
    def checked(cls, plans: dict, configuration: str, dataset_json: dict) -> tuple[Settings, list[Code]]:
        """Check plans and dataset.json as every trainer does; the codes to validate are the image types.

        Raises:
            ModelError: the configuration is not 2D.
            SettingsError: see the base class.
            ModalityError: see the base class.
        """
        settings, codes = super().checked(plans, configuration, dataset_json)
        patch_size = PlansManager(plans).get_configuration(configuration).patch_size
        if len(patch_size) != 2:
            raise ModelError(
                f"The configuration {configuration} has the patch size {list(patch_size)}, but {cls.__name__} takes "
                "only 2D patches. Train it on nnU-Net's configuration 2d."
            )
        return settings, [code for code in codes if sum(code) == 1]

    @classmethod
    def network_of_plans(
        cls,
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool,
    ) -> nn.Module:
        """Build the Swin U-Net; of the planned network, only the patch size is used."""
        num_modalities = len(configuration_manager.normalization_schemes)
        settings = cls.settings_of(configuration_manager)
        assert isinstance(settings, M4oESettings)
        return swin_unet(num_output_channels, configuration_manager.patch_size, num_modalities, settings)

    def on_train_start(self) -> None:
        """Start the training; the log lists the image types that have experts, and the parts that contain them."""
        super().on_train_start()
        if self.settings.placement:
            names = ", ".join(channel_names(self.dataset_json))
            self.print_to_log_file(f"Experts in the {' and the '.join(self.settings.placement)}, one each for {names}")

    def configure_optimizers(self) -> Any:
        """Return AdamW and its schedule; norms, biases and tables of relative positions have no weight decay."""
        decaying, others = [], []
        for name, parameter in self.network.named_parameters():
            if parameter.requires_grad:
                is_bias = parameter.ndim <= 1 or "bias" in name.rpartition(".")[2]
                (others if is_bias else decaying).append(parameter)
        groups = [{"params": decaying}, {"params": others, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, self.initial_lr, self.betas, weight_decay=self.weight_decay)
        warm_up = max(1, round(WARM_UP * self.num_epochs))
        return optimizer, WarmUpCosineLR(optimizer, self.initial_lr, self.num_epochs, warm_up)

    def get_tr_and_val_datasets(self) -> tuple[Any, Any]:
        """Return the datasets as every trainer does.

        Raises:
            ModalityError: a case has more than one image type; see also the base class.
        """
        training, validation = super().get_tr_and_val_datasets()
        names = channel_names(self.dataset_json)
        for case in sorted({*training.identifiers, *validation.identifiers}):
            if sum(code := self._available(case)) > 1:
                raise ModalityError(
                    f"Case {case} has {code_text(code, names)}, but {type(self).__name__} takes only cases of one "
                    "image type, with one channel. Make each image a separate case."
                )
        return training, validation

    def validation_step(self, batch: dict) -> dict:
        """Validate as every trainer does, and keep images for the log of the mean gates."""
        batch = self._on_device(batch)
        if self.settings.placement and self.settings.routing == "gate":
            for image_type, of_type in enumerate(available_modalities(batch["data"]).cpu().T):
                if of_type.any():
                    items = of_type.nonzero().flatten().to(self.device, non_blocking=True)
                    self._last_images[image_type] = batch["data"][items]
        return super().validation_step(batch)

    def on_validation_epoch_end(self, val_outputs: list[dict]) -> None:
        """Log the pseudo Dice as every trainer does, and the mean weights of the experts for each image type."""
        super().on_validation_epoch_end(val_outputs)
        network, names = unwrap(self.network), channel_names(self.dataset_json)
        assert isinstance(network, SwinUNetwork)
        for image_type, images in sorted(self._last_images.items()):
            with self._autocast(), gates_kept(network.mixtures) as kept:
                network(images)
            weights = torch.stack([weights for of_block in kept for weights in of_block]).mean(dim=0)
            self.told.mean_gates[names[image_type]] = weights.tolist()
            self.print_to_log_file(gates_line(names[image_type], weights.tolist()))

    def backward(self, data: Tensor, target: Levels, iteration: int) -> dict[str, Tensor]:
        """Compute L_seg and its gradients; see the base class."""
        with self._autocast():
            parts = {"L_seg": self.loss(self.network(data), target)}
        self._backward(parts)
        return parts

    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        """Do nothing, because the network has no deep supervision."""
