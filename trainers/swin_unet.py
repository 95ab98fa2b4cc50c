"""Swin U-Net for images of one type each, such as CT or MRI: the control of M4oE."""

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
"""The part of all epochs in which the rate rises; one epoch at least."""


class nnUNetTrainerSwinUNet(nnUNetTrainerMissingModality):
    """One view of each batch, nothing dropped; AdamW with warm-up and cosine, no deep supervision.

    Of the optimiser M4oE's paper says AdamW alone; rate and weight decay are those of nnU-Net's own transformers
    (`nnUNet_Primus_S_Trainer`), and so is the norm to which gradients are clipped.
    """

    network_class = SwinUNetwork
    settings_class = M4oESettings
    settings: M4oESettings
    max_gradient_norm = 1.0
    betas: ClassVar[tuple[float, float]] = (0.9, 0.999)

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
        """Kind -> the last images of it that were validated, where gates weigh experts."""

    @classmethod
    def checked(cls, plans: dict, configuration: str, dataset_json: dict) -> tuple[Settings, list[Code]]:
        """As every trainer's; the codes to validate are the image types.

        Raises:
            ModelError: also if the configuration is not in 2D.
        """
        settings, codes = super().checked(plans, configuration, dataset_json)
        patch_size = PlansManager(plans).get_configuration(configuration).patch_size
        if len(patch_size) != 2:
            raise ModelError(
                f"{cls.__name__} is for 2D; the configuration {configuration} has the patch size "
                f"{list(patch_size)}. Train it on nnU-Net's configuration 2d."
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
        """Swin U-Net; of what was planned, the patch size counts."""
        num_modalities = len(configuration_manager.normalization_schemes)
        settings = cls.settings_of(configuration_manager)
        assert isinstance(settings, M4oESettings)
        return swin_unet(num_output_channels, configuration_manager.patch_size, num_modalities, settings)

    def on_train_start(self) -> None:
        """As every trainer's; the log tells of which image types there are experts, and where."""
        super().on_train_start()
        if self.settings.placement:
            names = ", ".join(channel_names(self.dataset_json))
            self.print_to_log_file(f"Experts in the {' and the '.join(self.settings.placement)}, one each for {names}")

    def configure_optimizers(self) -> Any:
        """AdamW; norms, biases and tables of relative positions do not decay."""
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
        """As every trainer's.

        Raises:
            ModalityError: also if a case is of more than one image type.
        """
        training, validation = super().get_tr_and_val_datasets()
        names = channel_names(self.dataset_json)
        for case in sorted({*training.identifiers, *validation.identifiers}):
            if sum(code := self._available(case)) > 1:
                raise ModalityError(
                    f"Case {case} has {code_text(code, names)}; {type(self).__name__} takes cases of one image type, "
                    "each with one channel. Make each image a case of its own."
                )
        return training, validation

    def validation_step(self, batch: dict) -> dict:
        """As every trainer's; images are kept for what the log tells of the gates."""
        if self.settings.placement and self.settings.routing == "gate":
            for image_type, of_type in enumerate(available_modalities(batch["data"]).T):
                if of_type.any():
                    self._last_images[image_type] = batch["data"][of_type]
        return super().validation_step(batch)

    def on_validation_epoch_end(self, val_outputs: list[dict]) -> None:
        """As every trainer's; the log also tells how the gates weigh the experts for each image type."""
        super().on_validation_epoch_end(val_outputs)
        network, names = unwrap(self.network), channel_names(self.dataset_json)
        assert isinstance(network, SwinUNetwork)
        for image_type, images in sorted(self._last_images.items()):
            with self._autocast(), gates_kept(network.mixtures) as kept:
                network(images.to(self.device))
            weights = torch.stack([weights for of_block in kept for weights in of_block]).mean(dim=0)
            self.told.mean_gates[names[image_type]] = weights.tolist()
            self.print_to_log_file(gates_line(names[image_type], weights.tolist()))

    def backward(self, data: Tensor, target: Levels, iteration: int) -> dict[str, Tensor]:
        """Differentiate L_seg."""
        with self._autocast():
            parts = {"L_seg": self.loss(self.network(data), target)}
        self._backward(parts)
        return parts

    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        """There is none to switch."""
