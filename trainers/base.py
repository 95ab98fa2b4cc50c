"""What all trainers of this package share: two views of each batch, differentiated one after the other.

L = L_seg(full view) + L_seg(dropped view) + alpha L_reg + w(t) beta L_sd (paper, eqs. 4 to 7). The teacher (full view)
is detached, so its graph is freed before the dropped view is computed: peak memory is that of one nnU-Net step.
"""

import random
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.ddp_allgather import AllGatherGrad
from nnunetv2.utilities.json_export import recursive_fix_for_json_export
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import Tensor, distributed, nn

from nnunet_moe.architectures.modality_network import ModalityNetwork
from nnunet_moe.codes import (
    Code,
    all_codes,
    available_modalities,
    channel_names,
    code_text,
    draw_subsets,
    drop_modalities,
)
from nnunet_moe.errors import ModalityError, SettingsError
from nnunet_moe.files import written_whole
from nnunet_moe.losses import gate_regularisation, ramp_up, self_distillation_loss
from nnunet_moe.prediction import unwrapped
from nnunet_moe.preprocessing import use_missing_modality_preprocessor
from nnunet_moe.settings import PLANS_KEY, Settings
from nnunet_moe.training_log import dice_line, entropy_line, gate_entropies

Levels = Tensor | list[Tensor]
"""Logits or targets: one tensor, or one per resolution under deep supervision."""

OF_NO_CODE = -1
"""Stands for the number of a code where a validation batch has several; nnU-Net collates numbers alone."""


class nnUNetTrainerMissingModality(nnUNetTrainer):
    """The common base; not meant to be named on the command line.

    A subclass is a sentence: it sets `forced_settings`, which win over the settings in the plans.
    """

    forced_settings: ClassVar[dict[str, Any]] = {}
    is_dedicated: ClassVar[bool] = False
    """Whether the plans must name the one `modality_code` that this trainer is for; all others refuse it."""

    # None until nnU-Net's or our `initialize`
    network: Any
    optimizer: Any
    loss: Any
    self_distillation: Any

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008 - nnU-Net's signature
    ) -> None:
        # first of all, so that a mistake in the plans leaves no folder behind
        settings, codes = self._checked(plans, configuration, dataset_json)
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.settings = settings
        self.validation_codes = codes
        self.num_epochs = settings.num_epochs
        self.num_iterations_per_epoch = settings.num_iterations_per_epoch
        self.num_val_iterations_per_epoch = settings.num_val_iterations_per_epoch
        self.self_distillation = None
        self._step_in_epoch = 0

    @classmethod
    def _checked(cls, plans: dict, configuration: str, dataset_json: dict) -> tuple[Settings, list[Code]]:
        """The settings and the codes to validate, once plans and dataset.json are found to fit."""
        if PLANS_KEY in plans:
            raise SettingsError(f"{PLANS_KEY!r} stands at the top of the plans; move it into a configuration.")
        configuration_manager = PlansManager(plans).get_configuration(configuration)
        names, num_planned = channel_names(dataset_json), len(configuration_manager.normalization_schemes)
        if len(names) != num_planned:
            raise ModalityError(
                f"dataset.json has {len(names)} channels ({', '.join(names)}), the plans were made for {num_planned}. "
                "Plan and preprocess again."
            )
        settings = cls.settings_of(configuration_manager)
        if settings.modality_code is not None:
            return settings, [tuple(digit == 1 for digit in settings.modality_code)]
        return settings, all_codes(len(names))

    @classmethod
    def settings_of(cls, configuration_manager: ConfigurationManager) -> Settings:
        """The settings of a configuration, with this trainer's own on top.

        Raises:
            SettingsError: a setting is unknown or out of range, or `modality_code` does not fit trainer or channels.
        """
        settings = Settings.from_plans(configuration_manager.configuration, cls.forced_settings)
        code, num_modalities = settings.modality_code, len(configuration_manager.normalization_schemes)
        if cls.is_dedicated and code is None:
            raise SettingsError(
                f"{cls.__name__} needs the setting 'modality_code' under {PLANS_KEY!r} in the plans' configuration, "
                "one 0 or 1 a channel. Add it to a configuration of its own."
            )
        if code is not None and not cls.is_dedicated:
            raise SettingsError(
                f"The plans' configuration has a 'modality_code', {list(code)}: it is for dedicated models. Train "
                f"{cls.__name__} on a configuration without it, or use nnUNetTrainerDedicated."
            )
        if code is not None and len(code) != num_modalities:
            raise SettingsError(
                f"Setting 'modality_code' is {list(code)}, but there are {num_modalities} channels. Give one 0 or 1 a "
                "channel."
            )
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
        network = super().build_network_architecture(
            plans_manager, configuration_manager, num_input_channels, num_output_channels, enable_deep_supervision
        )
        use_missing_modality_preprocessor(configuration_manager)
        return ModalityNetwork(
            network,
            num_modalities=len(configuration_manager.normalization_schemes),
            settings=cls.settings_of(configuration_manager),
        )

    def initialize(self) -> None:
        self._seed_generators()
        super().initialize()
        self.self_distillation = self._build_self_distillation_loss()

    def get_tr_and_val_datasets(self) -> tuple[Any, Any]:
        """nnU-Net's; the log tells what the fold's training cases have, if some are incomplete."""
        training, validation = super().get_tr_and_val_datasets()
        self._log_availability(training.identifiers)
        return training, validation

    def on_train_start(self) -> None:
        self._seed_generators()  # here too, so that augmentation workers of a resumed training do not start over
        super().on_train_start()
        self.print_to_log_file(f"{type(self).__name__}: {self.settings}")

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        self._step_in_epoch = 0
        self._seed_generators()

    def train_step(self, batch: dict) -> dict:
        """One optimiser step on both views; nnU-Net's step with two backward passes in it."""
        data = batch["data"].to(self.device, non_blocking=True)
        target = self._to_device(batch["target"])
        iteration = self.current_epoch * self.num_iterations_per_epoch + self._step_in_epoch
        self._step_in_epoch += 1

        self.optimizer.zero_grad(set_to_none=True)
        with self._without_synchronisation():
            teacher, full_view_parts = self.backward_full_view(data, target)
        dropped = drop_modalities(data, self.draw_codes(data, iteration))
        dropped_view_parts = self.backward_dropped_view(dropped, target, teacher, iteration)
        self._clip_and_step()

        parts = {name: value.detach().cpu().numpy() for name, value in (full_view_parts | dropped_view_parts).items()}
        return {"loss": sum(parts.values()), **parts}

    def backward_full_view(self, data: Tensor, target: Levels) -> tuple[Levels, dict[str, Tensor]]:
        """Differentiate L_seg(full view) + alpha L_reg.

        Returns:
            The teacher's logits, detached, and the weighted parts of the loss.
        """
        with self._autocast():
            logits = self.network(data)
            parts = {"L_seg full": self.loss(logits, target)}
        if self.settings.alpha and (gates := self._modality_network().gates_of_codes()):
            sign = self.settings.specialization_sign
            parts["alpha L_reg"] = self.settings.alpha * sum(gate_regularisation(g, sign) for g in gates)
        self._backward(parts)
        return _detached(logits), parts

    def backward_dropped_view(self, data: Tensor, target: Levels, teacher: Levels, iteration: int) -> dict[str, Tensor]:
        """Differentiate L_seg(dropped view) + w(t) beta L_sd.

        Returns:
            The weighted parts of the loss.
        """
        with self._autocast():
            logits = self.network(data)
            parts = {"L_seg dropped": self.loss(logits, target)}
            if self.settings.beta:
                total = self.settings.ramp_up_fraction * self.num_epochs * self.num_iterations_per_epoch
                weight = self.settings.beta * ramp_up(iteration, total)
                parts["w beta L_sd"] = weight * self.self_distillation(logits, teacher, self._valid_voxels(target))
        self._backward(parts)
        return parts

    def draw_codes(self, data: Tensor, iteration: int) -> Tensor:
        """The codes `(B, K)` of the dropped view; they depend on seed, fold, process and iteration alone."""
        generator = torch.Generator().manual_seed(self._seed(iteration))
        return draw_subsets(available_modalities(data[:, : self._num_modalities()]), generator)

    def on_train_epoch_end(self, train_outputs: list[dict]) -> None:
        super().on_train_epoch_end(train_outputs)
        train_outputs = self._of_all_processes(train_outputs)
        means = {name: np.mean([output[name] for output in train_outputs]) for name in train_outputs[0]}
        if parts := ", ".join(f"{name} {mean:.4f}" for name, mean in means.items() if name != "loss"):
            self.print_to_log_file(parts)
        mixtures = self._modality_network().gates_of_codes()
        if entropies := [gate_entropies(gates) for gates in mixtures if gates.shape[1] > 1]:
            self.print_to_log_file(entropy_line(entropies))

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        # goes on where the epoch before stopped, so that all codes have their turn however few the iterations
        self._validation_step = self.current_epoch * self.num_val_iterations_per_epoch

    def validation_step(self, batch: dict) -> dict:
        """nnU-Net's validation step on a batch reduced to the code whose turn it is.

        An incomplete case may have less than that. The batch counts for the code that all its items have then, or for
        none if they differ.
        """
        turn = self.validation_codes[self._validation_step % len(self.validation_codes)]
        self._validation_step += 1
        reduced = drop_modalities(batch["data"], torch.tensor(turn).expand(len(batch["data"]), -1))
        codes = {tuple(code) for code in available_modalities(reduced[:, : self._num_modalities()]).tolist()}
        number = self.validation_codes.index(codes.pop()) if len(codes) == 1 else OF_NO_CODE
        return {**super().validation_step({**batch, "data": reduced}), "code": number}

    def on_validation_epoch_end(self, val_outputs: list[dict]) -> None:
        """nnU-Net's pseudo Dice is over all codes, and so is 'best'; the log shows each code's own."""
        super().on_validation_epoch_end(val_outputs)
        val_outputs = self._of_all_processes(val_outputs)
        names = channel_names(self.dataset_json)
        for number, code in enumerate(self.validation_codes):
            outputs = [output for output in val_outputs if output["code"] == number]
            if outputs:
                tp, fp, fn = (
                    np.sum([output[key] for output in outputs], axis=0, dtype=np.float64)
                    for key in ("tp_hard", "fp_hard", "fn_hard")
                )
                with np.errstate(invalid="ignore"):  # no such label in these patches and none predicted: undefined
                    dice = np.asarray(2 * tp / (2 * tp + fp + fn)).tolist()
                self.print_to_log_file(dice_line(code_text(code, names), dice))

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
        with written_whole(Path(filename)) as unfinished:
            super().save_checkpoint(str(unfinished))

    def _build_self_distillation_loss(self) -> Any:
        """L_sd with the weights of deep supervision that `self.loss` has."""
        loss = partial(
            self_distillation_loss,
            temperature=self.settings.temperature,
            regions=self.label_manager.has_regions,
            batch_dice=self.configuration_manager.batch_dice,
            sum_over_processes=_sum_over_processes if self.is_ddp else None,
        )
        return DeepSupervisionWrapper(loss, self.loss.weight_factors) if self.enable_deep_supervision else loss

    def _log_availability(self, cases: Sequence[str]) -> None:
        names = channel_names(self.dataset_json)
        counts = Counter(self._available(case) for case in cases)
        if all(map(all, counts)):
            return
        ordered = sorted(counts.items(), key=lambda entry: (-sum(entry[0]), entry[0]))
        text = ", ".join(f"{code_text(code, names)} {count}" for code, count in ordered)
        self.print_to_log_file(f"What the training cases of this fold have: {text}")
        if unseen := [name for channel, name in enumerate(names) if not any(code[channel] for code in counts)]:
            self.print_to_log_file(
                f"WARNING: no training case of this fold has {', '.join(unseen)}: what the model will make of it is "
                "arbitrary. Train another fold, or write splits_final.json so that every fold has some."
            )

    def _available(self, case: str) -> Code:
        """What a preprocessed case has: an absent channel is NaN in every voxel, so one will tell."""
        dataset_class: Any = self.dataset_class
        image = dataset_class(self.preprocessed_dataset_folder, [case]).load_case(case)[0]
        return tuple(np.isfinite(image[(slice(None), *[0] * (len(image.shape) - 1))]).tolist())

    def _of_all_processes(self, outputs: list[dict]) -> list[dict]:
        """What the steps of an epoch gave, of every process that trains."""
        if not self.is_ddp:
            return outputs
        gathered: list[Any] = [None] * distributed.get_world_size()
        distributed.all_gather_object(gathered, outputs)
        return [output for of_process in gathered for output in of_process]

    def _num_modalities(self) -> int:
        return len(self.validation_codes[0])

    def _modality_network(self) -> ModalityNetwork:
        network = unwrapped(self.network)
        assert isinstance(network, ModalityNetwork)
        return network

    def _to_device(self, target: Levels) -> Levels:
        if isinstance(target, list):
            return [level.to(self.device, non_blocking=True) for level in target]
        return target.to(self.device, non_blocking=True)

    def _autocast(self) -> AbstractContextManager:
        return torch.autocast("cuda", enabled=True) if self.device.type == "cuda" else nullcontext()

    def _without_synchronisation(self) -> AbstractContextManager:
        """Of the two backward passes the last one alone averages the gradients over processes."""
        return self.network.no_sync() if self.is_ddp else nullcontext()

    def _backward(self, parts: dict[str, Tensor]) -> None:
        loss = sum(parts.values(), start=torch.zeros((), device=self.device))
        (loss if self.grad_scaler is None else self.grad_scaler.scale(loss)).backward()

    def _clip_and_step(self) -> None:
        if self.grad_scaler is not None:
            self.grad_scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 12)
        if self.grad_scaler is None:
            self.optimizer.step()
        else:
            self.grad_scaler.step(self.optimizer)
            self.grad_scaler.update()

    def _valid_voxels(self, target: Levels) -> Tensor | list[Tensor | None] | None:
        """True where the ignore label is not; as nnU-Net's losses find it, in each level of deep supervision."""
        if isinstance(target, list):
            return [self._valid_voxels(level) for level in target]  # type: ignore[misc]
        if not self.label_manager.has_ignore_label:
            return None
        if self.label_manager.has_regions:
            return target[:, -1:] == 0
        return target != self.label_manager.ignore_label

    def _seed(self, *position: int) -> int:
        fold = 0 if self.fold == "all" else int(self.fold) + 1
        sequence = np.random.SeedSequence([self.settings.seed, fold, self.local_rank, *position])
        return int(sequence.generate_state(1)[0])

    def _seed_generators(self) -> None:
        """Make what follows a function of seed, fold, process and epoch, so that a resumed training goes on exactly."""
        seed = self._seed(0, self.current_epoch)
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)


def _sum_over_processes(summand: Tensor) -> Tensor:
    """As nnU-Net's own Dice does for a batch that is spread over processes."""
    return AllGatherGrad.apply(summand).sum(dim=0)


def _detached(logits: Levels) -> Levels:
    return [level.detach() for level in logits] if isinstance(logits, list) else logits.detach()
