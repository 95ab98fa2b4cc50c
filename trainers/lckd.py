"""LCKD: the best modalities teach the others (Wang et al., MICCAI 2023), with controls for the election of teachers."""

from collections.abc import Collection
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from nnunet_moe.architectures.shared_encoder_network import SharedEncoderNetwork, SharedEncoderOutput
from nnunet_moe.errors import SettingsError
from nnunet_moe.losses.lckd import cross_modal_distillation
from nnunet_moe.modalities.codes import Code, channel_names, drop_modalities
from nnunet_moe.prediction import unwrap
from nnunet_moe.settings.base import Settings
from nnunet_moe.settings.lckd import LCKDSettings
from nnunet_moe.settings.plans import PLANS_KEY
from nnunet_moe.trainers.base import Levels, nnUNetTrainerMissingModality
from nnunet_moe.trainers.lckd_election import Election
from nnunet_moe.trainers.learning_rates import TwoPhasePolyLR

OF_RANDOM_TEACHERS = 2**32 - 2
"""A position for `_seed` that no iteration uses."""


class nnUNetTrainerLCKD(nnUNetTrainerMissingModality):
    """Trains with learnable cross-modal knowledge distillation, where each label's best modality teaches (LCKD-m).

    L = L_seg + weight L_kd. Each modality passes through one shared encoder. L_kd is the distance between the
    bottleneck features of each available modality and those of the available teachers.

    - Each batch is seen once. In the first epochs (`warm_up_fraction`) it is complete; then all its items keep the same
      random subset of modalities.
    - Teachers are elected after the first epoch and then every `election_interval` epochs. The election is held on
      training cases that are kept for it and not trained on.
    - The learning rate follows nnU-Net's polynomial in two phases (see `TwoPhasePolyLR`).

    Source: Wang et al., "Learnable cross-modal knowledge distillation for multi-modal learning with missing modality",
    MICCAI 2023. Settings: `LCKDSettings`.

    Raises:
        SettingsError: see `checked`.
        ModalityError: see `checked`.
    """

    network_class = SharedEncoderNetwork
    settings_class = LCKDSettings
    settings: LCKDSettings

    @cached_property
    def election(self) -> Election:
        """The election of teachers; its cases are known once `do_split` was called."""
        return Election(self, self.settings)

    @classmethod
    def checked(cls, plans: dict, configuration: str, dataset_json: dict) -> tuple[Settings, list[Code]]:
        """Check plans and dataset.json as every trainer does, and the setting `teacher`.

        Raises:
            SettingsError: see the base class; also if `teacher` is not the name of a modality, or if it is missing and
                the trainer needs it.
            ModalityError: see the base class.
        """
        settings, codes = super().checked(plans, configuration, dataset_json)
        assert isinstance(settings, LCKDSettings)
        names = channel_names(dataset_json)
        if settings.teacher not in names and (settings.election == "fixed" or settings.teacher is not None):
            raise SettingsError(
                f"{cls.__name__}: the setting 'teacher' under {PLANS_KEY!r} in the plans is {settings.teacher!r}. "
                f"Allowed are {', '.join(names)}. Set it to one of these."
            )
        return settings, codes

    def configure_optimizers(self) -> Any:
        """Return nnU-Net's optimizer, with a learning rate that restarts when modalities begin to be dropped."""
        optimizer, _ = super().configure_optimizers()
        return optimizer, TwoPhasePolyLR(optimizer, self.initial_lr, self.num_epochs, self._warm_up_epochs)

    def do_split(self) -> tuple[list[str], list[str]]:
        """Return nnU-Net's split without the training cases that are kept for elections.

        Raises:
            ModalityError: none of the fold's training cases can be kept for elections.
        """
        split: Any = super().do_split()
        training, validation = map(list, split)
        kept = self.election.keep_cases(training, validation)
        return [case for case in training if case not in kept], validation

    def get_tr_and_val_datasets(self) -> tuple[Any, Any]:
        """Return the datasets as every trainer does; the cases of the elections are checked, too.

        Raises:
            ModalityError: the segmentation of a case contains labels outside its label set.
        """
        datasets = super().get_tr_and_val_datasets()
        self._require_annotated(self.election.cases)
        return datasets

    def on_train_start(self) -> None:
        """Start the training, with the teachers of the resumed checkpoint or with the fixed teacher."""
        super().on_train_start()
        if self.settings.election == "fixed":
            self._appoint([channel_names(self.dataset_json).index(str(self.settings.teacher))])
        else:  # teachers in pretrained weights were elected in another training
            elected = self._modality_network().teachers.nonzero().flatten().tolist()
            self._appoint(elected if self.current_epoch else [])

    def draw_codes(self, data: Tensor, iteration: int) -> Tensor:
        """Draw one code for the whole batch: first the number of modalities, then a subset of this size, both uniform.

        During the warm-up, all modalities are kept.

        Args:
            data: `(B, C, *space)`; only its device is used.
            iteration: number of the iteration since the start of the training.

        Returns:
            `(1, K)` bool, the modalities to keep.
        """
        num_modalities = self._num_modalities()
        if self.current_epoch < self._warm_up_epochs:
            return torch.ones(1, num_modalities, dtype=torch.bool, device=data.device)
        generator = torch.Generator().manual_seed(self._seed(iteration))
        most = num_modalities if self.settings.drop_none_too else max(1, num_modalities - 1)
        number = 1 + int(torch.randint(most, (), generator=generator))
        code = torch.zeros(1, num_modalities, dtype=torch.bool)
        code[0, torch.randperm(num_modalities, generator=generator)[:number]] = True
        return code.to(data.device, non_blocking=True)

    def backward(self, data: Tensor, target: Levels, iteration: int) -> dict[str, Tensor]:
        """Compute L_seg + weight L_kd of one view and the gradients; see the base class."""
        codes = self.draw_codes(data, iteration).expand(len(data), -1)
        with self._autocast():
            output: SharedEncoderOutput = self.network(drop_modalities(data, codes), with_features=True)
            parts = {"L_seg": self.loss(output.logits, target)}
            if weight := self.settings.distillation_weight:
                teachers = self._modality_network().teachers
                parts["weight L_kd"] = weight * cross_modal_distillation(output.features, output.available, teachers)
        self._backward(parts)
        return parts

    def on_train_epoch_end(self, train_outputs: list[dict]) -> None:
        """End the epoch; after the first one and then every `election_interval` epochs, elect the teachers."""
        super().on_train_epoch_end(train_outputs)
        is_due = self.current_epoch % self.settings.election_interval == 0
        if is_due and self.settings.distillation_weight and self._num_modalities() > 1:
            if self.settings.election == "random":
                generator = np.random.default_rng(self._seed(OF_RANDOM_TEACHERS, self.current_epoch, of_process=False))
                self._appoint(generator.integers(self._num_modalities(), size=len(self._foreground())).tolist())
            elif self.settings.election != "fixed" and (elected := self.election.hold()):
                self._appoint(elected)
        teaching, names = self._modality_network().teachers.tolist(), channel_names(self.dataset_json)
        self.told.teachers = [name for name, teaches in zip(names, teaching, strict=True) if teaches]

    def _appoint(self, teachers: Collection[int]) -> None:
        names = channel_names(self.dataset_json)
        buffer = self._modality_network().teachers
        buffer.copy_(torch.tensor([modality in teachers for modality in range(len(names))]))
        text = ", ".join(names[modality] for modality in sorted(set(teachers))) or "none"
        self.print_to_log_file(f"Teachers: {text}")

    @property
    def _warm_up_epochs(self) -> int:
        return round(self.settings.warm_up_fraction * self.num_epochs)

    def _modality_network(self) -> SharedEncoderNetwork:
        network = unwrap(self.network)
        assert isinstance(network, SharedEncoderNetwork)
        return network


class nnUNetTrainerLCKDSingle(nnUNetTrainerLCKD):
    """Trains LCKD with one teacher, the modality that is best for the most labels (LCKD-s)."""

    forced_settings: ClassVar[dict[str, Any]] = {"election": "most_frequent"}


class nnUNetTrainerLCKDFixedTeacher(nnUNetTrainerLCKD):
    """Trains LCKD, as a control, with the one teacher that the setting `teacher` names; there is no election."""

    forced_settings: ClassVar[dict[str, Any]] = {"election": "fixed"}


class nnUNetTrainerLCKDRandomTeacher(nnUNetTrainerLCKD):
    """Trains LCKD, as a control, with a random teacher for each label, drawn at every election."""

    forced_settings: ClassVar[dict[str, Any]] = {"election": "random"}


class nnUNetTrainerLCKDNoDistillation(nnUNetTrainerLCKD):
    """Trains LCKD's network with LCKD's schedule, as a control, without distillation."""

    forced_settings: ClassVar[dict[str, Any]] = {"distillation_weight": 0.0}
