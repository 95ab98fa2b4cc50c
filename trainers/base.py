"""The base of all trainers: settings in the plans, missing modalities, and a log and a score for each code."""

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
from nnunet_moe.prediction import unwrap
from nnunet_moe.preprocessing import use_missing_modality_preprocessor
from nnunet_moe.runtime.files import atomic_write, remove_leftovers
from nnunet_moe.runtime.threads import cpu_threads
from nnunet_moe.settings.base import Settings
from nnunet_moe.settings.plans import given_settings, read_settings, unread_settings
from nnunet_moe.trainers.cases import CasesTrainer
from nnunet_moe.trainers.checkpoint_extras import keep_in_checkpoints
from nnunet_moe.trainers.label_sets import with_label_sets
from nnunet_moe.trainers.optimizer_step import autocast, backward, clip_and_step
from nnunet_moe.trainers.plans import require_fitting_code, require_fitting_plans, require_own_label_sets
from nnunet_moe.trainers.reproducibility import seed_generators, seed_of
from nnunet_moe.trainers.resuming import (
    changes_since,
    checkpoint_to_resume,
    only_training,
    require_whole,
    state_of_training,
)
from nnunet_moe.trainers.validation_by_code import dice_by_code, in_place_of_others, number_of_code
from nnunet_moe.training_log import Epoch, append_epoch, dice_line

Levels = Tensor | list[Tensor]
"""Logits or targets: one tensor, or one per resolution under deep supervision."""


class nnUNetTrainerMissingModality(CasesTrainer, ABC):
    """The common base class of the trainers; do not name it on the command line.

    It extends nnU-Net's trainer in these points:

    - It reads settings from the key `nnunet_moe` in a configuration of the plans.
    - It trains on cases with missing modalities. A missing channel is NaN in every voxel of a batch.
    - During training, it validates all modality codes in turn, and the log shows the pseudo Dice of each.
    - Its random draws depend on the setting `seed`, so that a training can be repeated and resumed.

    A subclass names its network and its settings, and implements `backward`.

    Args:
        plans: the plans file's content; `nnunet_moe` in the configuration holds the settings.
        configuration: name of a configuration, such as `3d_fullres`.
        fold: number of the fold, or `all`.
        dataset_json: the content of dataset.json.
        device: the device to train on.

    Raises:
        SettingsError: see `checked`.
        ModalityError: see `checked`.
    """

    settings_class: ClassVar[type[Settings]] = Settings
    """The settings that the trainer reads from the plans; keys of other methods have no effect."""
    forced_settings: ClassVar[dict[str, Any]] = {}
    """Settings that the trainer fixes; they override the plans."""
    network_class: ClassVar[type[MissingModalityNetwork]] = ModalityNetwork
    """The network that wraps the one that nnU-Net plans."""
    is_pretraining: ClassVar[bool] = False
    """Whether the model only provides initial weights for other trainings and cannot segment."""
    is_dedicated: ClassVar[bool] = False
    """Whether the plans must contain a `modality_code`, the one code to train for; other trainers refuse it."""

    max_gradient_norm: ClassVar[float] = 12.0
    """The norm to which gradients are clipped; the value is nnU-Net's."""

    # None until `initialize` ran, nnU-Net's or ours
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
        # check first, so that a mistake in the plans leaves no folder behind
        settings, codes = self.checked(plans, configuration, dataset_json)
        self.label_sets = LabelSets.of(dataset_json)
        self.is_resumed: bool = plans.get("continue_training", False)  # nnU-Net removes it from the plans
        """Whether the training was started with `--c`."""
        super().__init__(
            with_label_sets(plans, configuration, self.label_sets), configuration, fold, dataset_json, device
        )
        self.settings = settings
        self.validation_codes = codes
        self.num_epochs = settings.num_epochs
        self.num_iterations_per_epoch = settings.num_iterations_per_epoch
        self.num_val_iterations_per_epoch = settings.num_val_iterations_per_epoch
        self._step_in_epoch = 0
        self._saved_training: dict[str, Any] = {}
        """What the loaded checkpoint says about its training, see `state_of_training`."""
        self._logged_sizes: set[tuple[int, ...]] = set()
        self.told = Epoch()
        """The numbers of the current epoch, for its line in the file of the learning curves."""

    @classmethod
    def checked(cls, plans: dict, configuration: str, dataset_json: dict) -> tuple[Settings, list[Code]]:
        """Check that plans and dataset.json fit, and return the settings and the codes to validate.

        Returns:
            The trainer's settings; and the codes, K bools each: the `modality_code` of a dedicated model, else all
            2^K - 1.

        Raises:
            SettingsError: a setting is wrong (see `settings_of`), settings are outside of a configuration, or the plans
                contain label sets that differ from those of dataset.json.
            ModalityError: plans and dataset.json differ in the number of channels, or the label sets of dataset.json
                are wrong (see `LabelSets.of`).
        """
        names = require_fitting_plans(plans, configuration, dataset_json)
        settings = cls.settings_of(PlansManager(plans).get_configuration(configuration))
        require_own_label_sets(settings, LabelSets.of(dataset_json))
        if settings.modality_code is not None:
            return settings, [tuple(digit == 1 for digit in settings.modality_code)]
        return settings, all_codes(len(names))

    @classmethod
    def settings_of(cls, configuration_manager: ConfigurationManager) -> Settings:
        """Read the settings of a configuration; `forced_settings` override them.

        Raises:
            SettingsError: a setting is unknown or out of range, or `modality_code` does not fit the trainer or the
                number of channels.
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
        """Build the planned network and make it read modality codes.

        nnU-Net also calls this method for inference. It passes the configuration manager that its preprocessing
        workers will get. So this is the only place where `nnUNetv2_predict` can learn to accept missing files.

        Args:
            plans_manager: nnU-Net's, of the plans.
            configuration_manager: nnU-Net's, of the configuration; its preprocessor is replaced in place.
            num_input_channels: as nnU-Net counts them; a cascade has more than the K image channels.
            num_output_channels: number of classes or regions.
            enable_deep_supervision: whether the network gives logits at several resolutions.

        Raises:
            SettingsError: see `settings_of`.
            ModelError: the plans name another preprocessor than nnU-Net's default, or the network cannot be used.
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
        """Build the network that nnU-Net planned, for `network_class` to wrap.

        The arguments are those of `build_network_architecture`.
        """
        num_modalities = len(configuration_manager.normalization_schemes)
        return super().build_network_architecture(
            plans_manager,
            configuration_manager,
            cls.network_class.encoder_channels(num_input_channels, num_modalities),
            num_output_channels,
            enable_deep_supervision,
        )

    def initialize(self) -> None:
        """Seed the random generators, then initialize as nnU-Net does."""
        self._seed_generators()
        super().initialize()
        keep_in_checkpoints(self.optimizer, lambda: state_of_training(self.num_epochs), self._saved_training.update)

    def run_training(self) -> None:
        """Train as nnU-Net does, if no other process trains the same fold.

        Raises:
            ModelError: another process trains the fold.
        """
        with only_training(self._folder(), is_first_process=self.local_rank == 0), cpu_threads(self.device):
            super().run_training()

    def load_checkpoint(self, filename_or_checkpoint: dict | str) -> None:
        """Load a checkpoint as nnU-Net does; a training that is resumed can use another one if it is cut off.

        Raises:
            ModelError: the checkpoint is cut off, and no other one can be used.
        """
        notes: list[str] = []
        if isinstance(filename_or_checkpoint, str):
            file = Path(filename_or_checkpoint)
            if self.is_resumed:
                file, notes = checkpoint_to_resume(file)
            else:
                require_whole(file)
            filename_or_checkpoint = str(file)
        super().load_checkpoint(filename_or_checkpoint)
        if not self._saved_training and self.num_epochs == self.settings.num_epochs:  # an earlier version wrote it
            self._saved_training["num_epochs"] = self._num_epochs_of(self.my_init_kwargs)
        for note in (*notes, *changes_since(self._saved_training, self.num_epochs, self.current_epoch)):
            self.print_to_log_file(note)

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        with cpu_threads(self.device):
            super().perform_actual_validation(save_probabilities)

    def on_train_start(self) -> None:
        """Start the training as nnU-Net does; the log lists the settings, and those in the plans without effect."""
        self._seed_generators()  # here too, so that a resumed training does not repeat its first augmentations
        super().on_train_start()
        if self.local_rank == 0:
            remove_leftovers(self._folder())  # a training killed while it saved leaves an unfinished checkpoint
        self.print_to_log_file(f"{type(self).__name__}: {self.settings}")
        given = given_settings(self.configuration_manager.configuration)
        if unread := unread_settings(given, self.settings_class, self.forced_settings):
            self.print_to_log_file(f"Settings in the plans that have no effect on this trainer: {', '.join(unread)}")

    def on_train_epoch_start(self) -> None:
        """Start the epoch as nnU-Net does, and seed the random generators for it."""
        super().on_train_epoch_start()
        self._step_in_epoch = 0
        self.told = Epoch()
        self._seed_generators()

    def train_step(self, batch: dict) -> dict:
        """Make one step of the optimizer, as nnU-Net does, but with `backward`.

        Args:
            batch: as nnU-Net's data loader gives it; missing channels are NaN.

        Returns:
            `loss`, the sum of the weighted parts, and each part by its name.
        """
        batch = self._on_device(batch)
        self._use_label_sets(batch)
        data, target = batch["data"], batch["target"]
        iteration = self.current_epoch * self.num_iterations_per_epoch + self._step_in_epoch
        self._step_in_epoch += 1

        self.optimizer.zero_grad(set_to_none=True)
        loss = self.backward(data, target, iteration)
        self._clip_and_step()

        values = torch.stack([value.detach() for value in loss.values()]).cpu().numpy()  # the one wait for the device
        return {"loss": sum(values), **dict(zip(loss, values, strict=True))}

    @abstractmethod
    def backward(self, data: Tensor, target: Levels, iteration: int) -> dict[str, Tensor]:
        """Compute the loss of a batch and its gradients.

        Args:
            data: `(B, C, *space)`, the K image channels first; missing channels are NaN.
            target: as nnU-Net's data loader gives it.
            iteration: number of the iteration since the start of the training, from 0.

        Returns:
            The weighted parts of the loss by name, scalars.
        """

    def on_train_epoch_end(self, train_outputs: list[dict]) -> None:
        """End the training part of the epoch as nnU-Net does; the log shows the mean of each part of the loss."""
        super().on_train_epoch_end(train_outputs)
        self._log_precision()
        train_outputs = self._of_all_processes(train_outputs)
        means = {name: np.mean([output[name] for output in train_outputs]) for name in train_outputs[0]}
        self.told.loss_parts = {name: float(mean) for name, mean in means.items() if name != "loss"}
        if self.told.loss_parts:
            self.print_to_log_file(", ".join(f"{name} {mean:.4f}" for name, mean in self.told.loss_parts.items()))

    def on_validation_epoch_start(self) -> None:
        """Start the validation part of the epoch, with the code that follows the last one of the previous epoch."""
        super().on_validation_epoch_start()
        # so even few iterations reach all codes, over several epochs
        self._validation_step = self.current_epoch * self.num_val_iterations_per_epoch

    def validation_step(self, batch: dict) -> dict:
        """Validate the current code: keep the items that have all its modalities and drop the others.

        The codes take turns, one for each batch. Items that have all modalities of the current code are reduced to
        them. They also fill the places of the other items, because a batch of another size would be compiled again.

        If no item has all modalities of the current code, all items are kept, each with those of the code's modalities
        that it has. The batch then counts for the code that all items share, or for no code if they differ.
        """
        turn = torch.tensor(self.validation_codes[self._validation_step % len(self.validation_codes)])
        self._validation_step += 1
        batch = self._on_device(batch)
        has_turn = (available_modalities(batch["data"][:, : self._num_modalities()]).cpu() | ~turn).all(dim=1)
        if has_turn.any():
            batch = in_place_of_others(batch, has_turn)
        kept = turn.to(self.device, non_blocking=True)
        reduced = drop_modalities(batch["data"], kept.expand(len(batch["data"]), -1))
        available = available_modalities(reduced[:, : self._num_modalities()]).cpu()
        self._use_label_sets(batch, available)
        number = number_of_code(available, self.validation_codes)
        return {**super().validation_step({**batch, "data": reduced}), "code": number}

    def on_validation_epoch_end(self, val_outputs: list[dict]) -> None:
        """Log the pseudo Dice of each code.

        nnU-Net's own pseudo Dice is computed over all codes together, and so is its choice of the best checkpoint.
        """
        super().on_validation_epoch_end(val_outputs)
        names, outputs = channel_names(self.dataset_json), self._of_all_processes(val_outputs)
        for code, dice in dice_by_code(outputs, self.validation_codes).items():
            self.told.dice[code_text(code, names)] = dice
            self.print_to_log_file(dice_line(code_text(code, names), dice))

    def on_epoch_end(self) -> None:
        """Add the epoch to the file of the learning curves, then do what nnU-Net does.

        This order matters because nnU-Net may save a checkpoint here, and the file must contain each saved epoch.
        """
        if self.local_rank == 0:
            train_loss: Any = self.logger.get_value("train_losses", step=-1)
            self.told.train_loss = float(train_loss)
            append_epoch(self._folder(), self.current_epoch, self.told, list(self._foreground()))
        super().on_epoch_end()

    def save_checkpoint(self, filename: str) -> None:
        """Save a checkpoint as nnU-Net does, but with plain numbers, so that `torch.load(weights_only=True)` reads it.

        The new file replaces the old one only when it is complete. So a training that is killed during this can be
        resumed.
        """
        state = {"logging": self.logger.get_checkpoint(), "_best_ema": self._best_ema}
        recursive_fix_for_json_export(state)  # changes nnU-Net's log in place, so that all later checkpoints have it
        self._best_ema = state["_best_ema"]
        if self.local_rank != 0 or self.disable_checkpointing:
            super().save_checkpoint(filename)
            return
        with atomic_write(Path(filename)) as unfinished:
            super().save_checkpoint(str(unfinished))

    def _log_precision(self) -> None:
        """Log the sizes of images for which the network computes in float32 instead of bfloat16, each once."""
        network = unwrap(self.network)
        assert isinstance(network, MissingModalityNetwork)
        for size, note in network.cpu_precision.notes.items():
            if size not in self._logged_sizes:
                self._logged_sizes.add(size)
                self.print_to_log_file(note)

    def _num_epochs_of(self, arguments: dict[str, Any]) -> int:
        """Return the number of epochs of a trainer that was made with these arguments."""
        configuration = PlansManager(arguments["plans"]).get_configuration(arguments["configuration"]).configuration
        given = {**given_settings(configuration), **self.forced_settings}
        return given.get("num_epochs", self.settings_class().num_epochs)

    def _folder(self) -> Path:
        """Return the folder of the fold, which contains logs and checkpoints."""
        assert self.output_folder is not None
        return Path(self.output_folder)

    def _of_all_processes(self, outputs: list[Any]) -> list[Any]:
        """Collect the entries of all training processes, for example the results of an epoch's steps."""
        if not self.is_ddp:
            return outputs
        gathered: list[Any] = [None] * distributed.get_world_size()
        distributed.all_gather_object(gathered, outputs)
        return [output for of_process in gathered for output in of_process]

    def _on_device(self, batch: dict) -> dict:
        """Return a batch whose data and target are on the device.

        Every step calls this first, because the CPU would look through the voxels for longer than a GPU needs for all
        of its work.
        """
        target = batch["target"]
        if isinstance(target, list):
            target = [level.to(self.device, non_blocking=True) for level in target]
        else:
            target = target.to(self.device, non_blocking=True)
        return {**batch, "data": batch["data"].to(self.device, non_blocking=True), "target": target}

    def _autocast(self) -> AbstractContextManager:
        return autocast(self.device)

    def _backward(self, parts: dict[str, Tensor]) -> None:
        backward(sum(parts.values(), start=torch.zeros((), device=self.device)), self.grad_scaler)

    def _clip_and_step(self) -> None:
        clip_and_step(self.network.parameters(), self.optimizer, self.grad_scaler, self.max_gradient_norm)

    def _seed(self, *position: int, of_process: bool = True) -> int:
        """Compute a seed from the setting `seed`, the fold, the position and, if `of_process`, the process."""
        return seed_of(self.settings.seed, self.fold, self.local_rank if of_process else 0, *position)

    def _seed_generators(self) -> None:
        """Seed all generators by seed, fold, process and epoch, so that a resumed training draws the same numbers."""
        seed_generators(self._seed(0, self.current_epoch))
