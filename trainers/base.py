"""What all trainers of this package share: settings in the plans, missing modalities, a log and a score by code."""

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from nnunetv2.utilities.json_export import recursive_fix_for_json_export
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import Tensor, distributed, nn

from nnunet_moe.architectures.missing_modality_network import MissingModalityNetwork
from nnunet_moe.architectures.modality_network import ModalityNetwork
from nnunet_moe.labels.label_sets import LabelSets
from nnunet_moe.modalities.codes import (
    Code,
    all_codes,
    available_modalities,
    channel_names,
    code_text,
    drop_modalities,
)
from nnunet_moe.preprocessing import use_missing_modality_preprocessor
from nnunet_moe.runtime.files import atomic_write, remove_leftovers
from nnunet_moe.settings.base import Settings
from nnunet_moe.settings.plans import given_settings, read_settings, unread_settings
from nnunet_moe.trainers.cases import CasesTrainer
from nnunet_moe.trainers.label_sets import with_label_sets
from nnunet_moe.trainers.optimizer_step import autocast, backward, clip_and_step
from nnunet_moe.trainers.plans import require_fitting_code, require_fitting_plans, require_own_label_sets
from nnunet_moe.trainers.reproducibility import seed_generators, seed_of
from nnunet_moe.trainers.validation_by_code import dice_by_code, in_place_of_others, number_of_code
from nnunet_moe.training_log import Epoch, append_epoch, dice_line

Levels = Tensor | list[Tensor]
"""Logits or targets: one tensor, or one per resolution under deep supervision."""


class nnUNetTrainerMissingModality(CasesTrainer, ABC):
    """The common base; not meant to be named on the command line.

    A subclass names its network and its settings, and says what is differentiated.
    """

    settings_class: ClassVar[type[Settings]] = Settings
    """What it reads from the plans; keys of other methods have no effect."""
    forced_settings: ClassVar[dict[str, Any]] = {}
    """Those of its settings that win over the plans."""
    network_class: ClassVar[type[MissingModalityNetwork]] = ModalityNetwork
    is_pretraining: ClassVar[bool] = False
    """Whether the model is a start for other trainings, and no segmentation."""
    is_dedicated: ClassVar[bool] = False
    """Whether the plans must name the one `modality_code` that this trainer is for; all others refuse it."""

    max_gradient_norm: ClassVar[float] = 12.0
    """To which gradients are clipped; nnU-Net's."""

    # None until nnU-Net's or our `initialize`
    network: Any
    optimizer: Any
    loss: Any

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008 - nnU-Net's signature
    ) -> None:
        # first of all, so that a mistake in the plans leaves no folder behind
        settings, codes = self.checked(plans, configuration, dataset_json)
        self.label_sets = LabelSets.of(dataset_json)
        super().__init__(
            with_label_sets(plans, configuration, self.label_sets), configuration, fold, dataset_json, device
        )
        self.settings = settings
        self.validation_codes = codes
        self.num_epochs = settings.num_epochs
        self.num_iterations_per_epoch = settings.num_iterations_per_epoch
        self.num_val_iterations_per_epoch = settings.num_val_iterations_per_epoch
        self._step_in_epoch = 0
        self.told = Epoch()
        """What the epoch shows, for its line in the learning curves' data."""

    @classmethod
    def checked(cls, plans: dict, configuration: str, dataset_json: dict) -> tuple[Settings, list[Code]]:
        """The settings and the codes to validate, once plans and dataset.json are found to fit.

        Raises:
            SettingsError: as `settings_of`, or settings stand outside of a configuration, or label sets in the plans.
            ModalityError: plans and dataset.json have not the same number of channels; as `LabelSets.of`.
        """
        names = require_fitting_plans(plans, configuration, dataset_json)
        settings = cls.settings_of(PlansManager(plans).get_configuration(configuration))
        require_own_label_sets(settings, LabelSets.of(dataset_json))
        if settings.modality_code is not None:
            return settings, [tuple(digit == 1 for digit in settings.modality_code)]
        return settings, all_codes(len(names))

    @classmethod
    def settings_of(cls, configuration_manager: ConfigurationManager) -> Settings:
        """The settings of a configuration, with this trainer's own on top.

        Raises:
            SettingsError: a setting is unknown or out of range, or `modality_code` does not fit trainer or channels.
        """
        settings = read_settings(cls.settings_class, configuration_manager.configuration, cls.forced_settings)
        num_modalities = len(configuration_manager.normalization_schemes)
        require_fitting_code(settings.modality_code, num_modalities, cls.__name__, is_dedicated=cls.is_dedicated)
        return settings

    @classmethod
    def build_network_architecture(  # pyright: ignore[reportIncompatibleMethodOverride] - static in nnU-Net
        cls,
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """The planned network, made to read modality codes.

        nnU-Net calls this at inference with the configuration manager that its preprocessing workers will get: the
        one place where files that are missing can be taught to the stock command.
        """
        arguments = (plans_manager, configuration_manager, num_input_channels, num_output_channels)
        network = cls.network_of_plans(*arguments, enable_deep_supervision)
        use_missing_modality_preprocessor(configuration_manager, one_image_type=cls.network_class.takes_one_image_type)
        num_modalities = len(configuration_manager.normalization_schemes)
        return cls.network_class(
            network, num_modalities=num_modalities, settings=cls.settings_of(configuration_manager)
        )

    @classmethod
    def network_of_plans(
        cls,
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool,
    ) -> nn.Module:
        """The network that nnU-Net planned, which `network_class` takes over; arguments as above."""
        num_modalities = len(configuration_manager.normalization_schemes)
        return super().build_network_architecture(
            plans_manager,
            configuration_manager,
            cls.network_class.encoder_channels(num_input_channels, num_modalities),
            num_output_channels,
            enable_deep_supervision,
        )

    def initialize(self) -> None:
        self._seed_generators()
        super().initialize()

    def on_train_start(self) -> None:
        self._seed_generators()  # here too, so that augmentation workers of a resumed training do not start over
        super().on_train_start()
        if self.local_rank == 0:
            remove_leftovers(self._folder())  # a training that was killed while it saved leaves a whole checkpoint
        self.print_to_log_file(f"{type(self).__name__}: {self.settings}")
        given = given_settings(self.configuration_manager.configuration)
        if unread := unread_settings(given, self.settings_class, self.forced_settings):
            self.print_to_log_file(f"Settings in the plans that have no effect on this trainer: {', '.join(unread)}")

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        self._step_in_epoch = 0
        self.told = Epoch()
        self._seed_generators()

    def train_step(self, batch: dict) -> dict:
        """One optimiser step; nnU-Net's, with `backward` in it."""
        self._use_label_sets(batch)
        data = batch["data"].to(self.device, non_blocking=True)
        target = self._to_device(batch["target"])
        iteration = self.current_epoch * self.num_iterations_per_epoch + self._step_in_epoch
        self._step_in_epoch += 1

        self.optimizer.zero_grad(set_to_none=True)
        loss = self.backward(data, target, iteration)
        self._clip_and_step()

        parts = {name: value.detach().cpu().numpy() for name, value in loss.items()}
        return {"loss": sum(parts.values()), **parts}

    @abstractmethod
    def backward(self, data: Tensor, target: Levels, iteration: int) -> dict[str, Tensor]:
        """Differentiate the loss of a batch.

        Args:
            data: `(B, C, *space)`, absent channels NaN.
            target: as nnU-Net's loader gives it.
            iteration: of the whole training.

        Returns:
            The weighted parts of the loss.
        """

    def on_train_epoch_end(self, train_outputs: list[dict]) -> None:
        super().on_train_epoch_end(train_outputs)
        train_outputs = self._of_all_processes(train_outputs)
        means = {name: np.mean([output[name] for output in train_outputs]) for name in train_outputs[0]}
        self.told.loss_parts = {name: float(mean) for name, mean in means.items() if name != "loss"}
        if self.told.loss_parts:
            self.print_to_log_file(", ".join(f"{name} {mean:.4f}" for name, mean in self.told.loss_parts.items()))

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        # goes on where the epoch before stopped, so that all codes have their turn however few the iterations
        self._validation_step = self.current_epoch * self.num_val_iterations_per_epoch

    def validation_step(self, batch: dict) -> dict:
        """nnU-Net's validation step on those items of a batch that have the code whose turn it is, reduced to it.

        They take the places of the others, too: a batch of another size would be compiled anew. If no item has it,
        all stay, with less; the batch counts for the code that all of them have then, or for none if they differ.
        """
        turn = torch.tensor(self.validation_codes[self._validation_step % len(self.validation_codes)])
        self._validation_step += 1
        has_turn = (available_modalities(batch["data"][:, : self._num_modalities()]) | ~turn).all(dim=1)
        if has_turn.any():
            batch = in_place_of_others(batch, has_turn)
        reduced = drop_modalities(batch["data"], turn.expand(len(batch["data"]), -1))
        available = available_modalities(reduced[:, : self._num_modalities()])
        self._use_label_sets(batch, available)
        number = number_of_code(available, self.validation_codes)
        return {**super().validation_step({**batch, "data": reduced}), "code": number}

    def on_validation_epoch_end(self, val_outputs: list[dict]) -> None:
        """nnU-Net's pseudo Dice is over all codes, and so is 'best'; the log shows each code's own."""
        super().on_validation_epoch_end(val_outputs)
        names, outputs = channel_names(self.dataset_json), self._of_all_processes(val_outputs)
        for code, dice in dice_by_code(outputs, self.validation_codes).items():
            self.told.dice[code_text(code, names)] = dice
            self.print_to_log_file(dice_line(code_text(code, names), dice))

    def on_epoch_end(self) -> None:
        """nnU-Net's; before it can save a checkpoint, the epoch is added to the data of the learning curves."""
        if self.local_rank == 0:
            train_loss: Any = self.logger.get_value("train_losses", step=-1)
            self.told.train_loss = float(train_loss)
            append_epoch(self._folder(), self.current_epoch, self.told, list(self._foreground()))
        super().on_epoch_end()

    def save_checkpoint(self, filename: str) -> None:
        """nnU-Net's, with plain numbers in it: `torch.load(weights_only=True)` reads it.

        It replaces the one before when it is whole, so that a training killed at this moment can go on.
        """
        state = {"logging": self.logger.get_checkpoint(), "_best_ema": self._best_ema}
        recursive_fix_for_json_export(state)  # the log in its place, so that a resumed training goes on with the same
        self._best_ema = state["_best_ema"]
        if self.local_rank != 0 or self.disable_checkpointing:
            super().save_checkpoint(filename)
            return
        with atomic_write(Path(filename)) as unfinished:
            super().save_checkpoint(str(unfinished))

    def _folder(self) -> Path:
        """Of the fold, where logs and checkpoints lie."""
        assert self.output_folder is not None
        return Path(self.output_folder)

    def _of_all_processes(self, outputs: list[Any]) -> list[Any]:
        """The entries of every process that trains, such as what the steps of an epoch gave."""
        if not self.is_ddp:
            return outputs
        gathered: list[Any] = [None] * distributed.get_world_size()
        distributed.all_gather_object(gathered, outputs)
        return [output for of_process in gathered for output in of_process]

    def _to_device(self, target: Levels) -> Levels:
        if isinstance(target, list):
            return [level.to(self.device, non_blocking=True) for level in target]
        return target.to(self.device, non_blocking=True)

    def _autocast(self) -> AbstractContextManager:
        return autocast(self.device)

    def _backward(self, parts: dict[str, Tensor]) -> None:
        backward(sum(parts.values(), start=torch.zeros((), device=self.device)), self.grad_scaler)

    def _clip_and_step(self) -> None:
        clip_and_step(self.network.parameters(), self.optimizer, self.grad_scaler, self.max_gradient_norm)

    def _seed(self, *position: int, of_process: bool = True) -> int:
        """A function of seed, fold, position and, if it is to be the process's own, of that."""
        return seed_of(self.settings.seed, self.fold, self.local_rank if of_process else 0, *position)

    def _seed_generators(self) -> None:
        """Make what follows a function of seed, fold, process and epoch, so that a resumed training goes on exactly."""
        seed_generators(self._seed(0, self.current_epoch))
