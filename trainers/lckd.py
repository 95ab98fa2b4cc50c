"""LCKD: modalities that do well alone teach the others (Wang et al., MICCAI 2023), and the controls of its election."""

from collections.abc import Collection, Sequence
from time import perf_counter
from typing import Any, ClassVar

import numpy as np
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.label_handling.label_handling import convert_labelmap_to_one_hot
from torch import Tensor, distributed

from nnunet_moe.architectures.shared_encoder_network import SharedEncoderNetwork, SharedEncoderOutput
from nnunet_moe.errors import ModalityError, SettingsError
from nnunet_moe.losses.lckd import cross_modal_distillation
from nnunet_moe.modalities.codes import Code, available_modalities, channel_names, drop_modalities
from nnunet_moe.prediction import unwrap
from nnunet_moe.settings.settings import PLANS_KEY, Settings
from nnunet_moe.trainers.base import Levels, nnUNetTrainerMissingModality
from nnunet_moe.trainers.election import cases_for_elections, mean_scores, most_frequent, soft_dice, winners
from nnunet_moe.trainers.learning_rates import TwoPhasePolyLR

# positions of `_seed` that no iteration has
OF_CASES, OF_RANDOM_TEACHERS = 2**32 - 1, 2**32 - 2


class nnUNetTrainerLCKD(nnUNetTrainerMissingModality):
    """Each label's best modality is a teacher (LCKD-m). One view of each batch: complete first, then random subsets."""

    network_class = SharedEncoderNetwork
    forced_settings: ClassVar[dict[str, Any]] = {"placement": (), "alpha": 0.0, "beta": 0.0, "election": "by_label"}

    election_cases: tuple[str, ...] = ()
    """The training cases that are kept for elections, from `do_split` on."""
    _elected_from: tuple[list[str], list[str]] | None = None
    """The split that they were taken from: nnU-Net asks for it again in the final validation."""

    @classmethod
    def checked(cls, plans: dict, configuration: str, dataset_json: dict) -> tuple[Settings, list[Code]]:
        """As every trainer's.

        Raises:
            SettingsError: also if `teacher` is no modality, or is needed and missing.
        """
        settings, codes = super().checked(plans, configuration, dataset_json)
        names = channel_names(dataset_json)
        if settings.teacher not in names and (settings.election == "fixed" or settings.teacher is not None):
            raise SettingsError(
                f"{cls.__name__}: the setting 'teacher' under {PLANS_KEY!r} in the plans must be one of "
                f"{', '.join(names)}; it is {settings.teacher!r}."
            )
        return settings, codes

    def configure_optimizers(self) -> Any:
        """nnU-Net's, with a rate that starts again when modalities begin to be dropped."""
        optimizer, _ = super().configure_optimizers()
        return optimizer, TwoPhasePolyLR(optimizer, self.initial_lr, self.num_epochs, self._warm_up_epochs)

    def do_split(self) -> tuple[list[str], list[str]]:
        """nnU-Net's, without the training cases that are kept for elections.

        Raises:
            ModalityError: none of the fold's training cases can be spared.
        """
        split: Any = super().do_split()
        training, validation = map(list, split)
        if self._elected_from != (training, validation):
            self.election_cases = self._kept_for_elections(training, validation)
            self._elected_from = training, validation
        return [case for case in training if case not in self.election_cases], validation

    def get_tr_and_val_datasets(self) -> tuple[Any, Any]:
        """As every trainer's; what elections are held on is checked, too."""
        datasets = super().get_tr_and_val_datasets()
        self._require_annotated(self.election_cases)
        return datasets

    def on_train_start(self) -> None:
        """nnU-Net's; then teachers are known: those of the checkpoint that is gone on from, or the fixed one."""
        super().on_train_start()
        if self.settings.election == "fixed":
            self._appoint([channel_names(self.dataset_json).index(str(self.settings.teacher))])
        else:  # those of pretrained weights were elected elsewhere
            elected = self._modality_network().teachers.nonzero().flatten().tolist()
            self._appoint(elected if self.current_epoch else [])

    def draw_codes(self, data: Tensor, iteration: int) -> Tensor:
        """One code `(1, K)` for the whole batch: a number of modalities, then a subset of so many, both uniform.

        All are kept in the warm-up.
        """
        num_modalities = self._num_modalities()
        if self.current_epoch < self._warm_up_epochs:
            return torch.ones(1, num_modalities, dtype=torch.bool, device=data.device)
        generator = torch.Generator().manual_seed(self._seed(iteration))
        most = num_modalities if self.settings.drop_none_too else max(1, num_modalities - 1)
        number = 1 + int(torch.randint(most, (), generator=generator))
        code = torch.zeros(1, num_modalities, dtype=torch.bool)
        code[0, torch.randperm(num_modalities, generator=generator)[:number]] = True
        return code.to(data.device)

    def backward(self, data: Tensor, target: Levels, iteration: int) -> dict[str, Tensor]:
        """Differentiate L_seg + weight L_kd of one view."""
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
        """nnU-Net's; then, after the first epoch and every `election_interval` epochs from there, the election."""
        super().on_train_epoch_end(train_outputs)
        is_due = self.current_epoch % self.settings.election_interval == 0
        if is_due and self.settings.distillation_weight and self._num_modalities() > 1:
            if self.settings.election == "random":
                generator = np.random.default_rng(self._seed(OF_RANDOM_TEACHERS, self.current_epoch, of_process=False))
                self._appoint(generator.integers(self._num_modalities(), size=len(self._foreground())).tolist())
            elif self.settings.election != "fixed":
                self._elect()

    def _elect(self) -> None:
        names, start = channel_names(self.dataset_json), perf_counter()
        scores, numbers = self._scores_alone()
        texts = [
            ", ".join(f"{score:.4f} ({number})" for score, number in zip(*of_modality, strict=True))
            for of_modality in zip(scores, numbers, strict=True)
        ]
        self.print_to_log_file(
            f"Election on {', '.join(self.election_cases)}, {perf_counter() - start:.0f} s. Soft Dice alone of "
            f"{', '.join(self._foreground())} (of so many cases): "
            + "; ".join(f"{name} {text}" for name, text in zip(names, texts, strict=True))
        )
        elected = winners(scores)
        best = {label: winner for label, winner in zip(self._foreground(), elected, strict=True) if winner is not None}
        if not best:
            self.print_to_log_file("WARNING: no label could be scored: the teachers stay. Are there voxels of them?")
            return
        self.print_to_log_file(f"Best: {', '.join(f'{names[winner]} for {label}' for label, winner in best.items())}")
        found = list(best.values())
        self._appoint(most_frequent(found) if self.settings.election == "most_frequent" else found)

    def _appoint(self, teachers: Collection[int]) -> None:
        names = channel_names(self.dataset_json)
        buffer = self._modality_network().teachers
        buffer.copy_(torch.tensor([modality in teachers for modality in range(len(names))]))
        text = ", ".join(names[modality] for modality in sorted(set(teachers))) or "none"
        self.print_to_log_file(f"Teachers: {text}")

    def _scores_alone(self) -> tuple[np.ndarray, np.ndarray]:
        """Each modality's soft Dice alone, `(K, labels or regions)`, the mean over cases, and over how many."""
        self.set_deep_supervision_enabled(False)
        on_gpu = self.device.type == "cuda"
        predictor = nnUNetPredictor(
            use_mirroring=False, perform_everything_on_device=on_gpu, device=self.device, allow_tqdm=False
        )
        predictor.manual_initialization(
            self._modality_network(),
            self.plans_manager,
            self.configuration_manager,
            None,
            self.dataset_json,
            type(self).__name__,
            self.inference_allowed_mirroring_axes,
        )
        predictor.network = self._modality_network()  # as it is: compiled, it would encode what is absent
        own = (
            self.election_cases[self.local_rank :: distributed.get_world_size()] if self.is_ddp else self.election_cases
        )
        scores = self._of_all_processes([self._case_scores(case, predictor) for case in own])
        self.set_deep_supervision_enabled(self.enable_deep_supervision)
        return mean_scores(np.stack(scores))

    def _case_scores(self, case: str, predictor: nnUNetPredictor) -> np.ndarray:
        """`(K, labels or regions)`; NaN where the case lacks the modality or the label."""
        dataset_class: Any = self.dataset_class
        stage = {"folder_with_segs_from_previous_stage": self.folder_with_segs_from_previous_stage}
        dataset = dataset_class(self.preprocessed_dataset_folder, [case], **stage)
        data, segmentation, previous, _ = dataset.load_case(case)
        image, labels = torch.from_numpy(data[:]), torch.from_numpy(segmentation[0])
        if self.is_cascaded:
            one_hot = convert_labelmap_to_one_hot(previous[:], self.label_manager.foreground_labels, data.dtype)
            image = torch.cat((image, torch.from_numpy(one_hot)))
        reference = [torch.isin(labels, torch.tensor(label)) for label in self._foreground().values()]
        valid = labels != self.label_manager.ignore_label if self.label_manager.has_ignore_label else None
        channels = slice(0, len(reference)) if self.label_manager.has_regions else slice(1, None)
        scores = np.full((self._num_modalities(), len(reference)), np.nan)
        for modality in available_modalities(image[None, : self._num_modalities()])[0].nonzero().flatten().tolist():
            alone = torch.zeros(1, self._num_modalities(), dtype=torch.bool)
            alone[0, modality] = True
            try:
                logits = predictor.predict_sliding_window_return_logits(drop_modalities(image[None], alone)[0])
            except RuntimeError as error:  # of nnU-Net, where half precision overflows: no reason to end a training
                name = channel_names(self.dataset_json)[modality]
                self.print_to_log_file(f"WARNING: no score for {name} alone of {case}: {error}")
                continue
            probabilities = self.label_manager.apply_inference_nonlin(torch.as_tensor(logits).cpu())
            assert isinstance(probabilities, Tensor)
            scores[modality] = soft_dice(probabilities[channels], reference, valid)
        return scores

    def _kept_for_elections(self, training: Sequence[str], validation: Sequence[str]) -> tuple[str, ...]:
        """A part of the training cases, drawn by seed and fold; validated ones only if all are, as in fold 'all'."""
        if self._num_modalities() == 1:
            return ()
        contents = {case: self._content(case) for case in training}
        order = np.random.default_rng(self._seed(OF_CASES, of_process=False)).permutation(sorted(contents)).tolist()
        validated = set(validation)
        candidates = [case for case in order if case not in validated] or order
        limits = self.settings.election_fraction, self.settings.max_election_cases
        kept = cases_for_elections(contents, *limits, candidates)
        if not kept:
            raise ModalityError(
                f"None of the {len(training)} training cases of fold {self.fold} can be spared for the election of "
                "teachers: each is the only one with its modalities or with one of its labels in one of them, shows no "
                "label, or is validated, too. Train another fold, or write splits_final.json with more training cases."
            )
        self.print_to_log_file(f"Kept for the election of teachers, and not trained on: {', '.join(sorted(kept))}")
        names, labels = channel_names(self.dataset_json), list(self._foreground())
        shown, trained = (set().union(*(contents[case].pairs for case in cases)) for cases in (kept, training))
        if unseen := [f"{labels[label]} in {names[modality]}" for modality, label in sorted(trained - shown)]:
            self.print_to_log_file(
                f"WARNING: the cases of the elections do not show {', '.join(unseen)}: nobody is elected by that. "
                f"No more cases could be spared, or max_election_cases ({limits[1]}) is too small."
            )
        return tuple(sorted(kept))

    @property
    def _warm_up_epochs(self) -> int:
        return round(self.settings.warm_up_fraction * self.num_epochs)

    def _modality_network(self) -> SharedEncoderNetwork:
        network = unwrap(self.network)
        assert isinstance(network, SharedEncoderNetwork)
        return network


class nnUNetTrainerLCKDSingle(nnUNetTrainerLCKD):
    """The modality that is best for most labels is the one teacher (LCKD-s)."""

    forced_settings: ClassVar[dict[str, Any]] = {**nnUNetTrainerLCKD.forced_settings, "election": "most_frequent"}


class nnUNetTrainerLCKDFixedTeacher(nnUNetTrainerLCKD):
    """A control: the setting `teacher` names the one teacher; nothing is elected."""

    forced_settings: ClassVar[dict[str, Any]] = {**nnUNetTrainerLCKD.forced_settings, "election": "fixed"}


class nnUNetTrainerLCKDRandomTeacher(nnUNetTrainerLCKD):
    """A control: every election draws a modality for each label."""

    forced_settings: ClassVar[dict[str, Any]] = {**nnUNetTrainerLCKD.forced_settings, "election": "random"}


class nnUNetTrainerLCKDNoDistillation(nnUNetTrainerLCKD):
    """A control: the network and the schedule alone."""

    forced_settings: ClassVar[dict[str, Any]] = {**nnUNetTrainerLCKD.forced_settings, "distillation_weight": 0.0}
