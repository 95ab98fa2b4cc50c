"""LCKD's election during training: the cases kept for it, and the score of each modality on them."""

from collections.abc import Sequence
from time import perf_counter
from typing import Any

import numpy as np
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from torch import Tensor, distributed

from nnunet_moe.errors import ModalityError
from nnunet_moe.modalities.codes import available_modalities, channel_names, drop_modalities
from nnunet_moe.models.inference import InferenceContext, add_previous_stage, is_overflow, predictor_in_training
from nnunet_moe.prediction import unwrap
from nnunet_moe.settings.lckd import LCKDSettings
from nnunet_moe.trainers.base import nnUNetTrainerMissingModality
from nnunet_moe.trainers.election import cases_for_elections, mean_scores, most_frequent, soft_dice, winners

OF_CASES = 2**32 - 1
"""A position for `_seed` that no iteration uses."""


class Election:
    """The election of teachers: it finds the modality that is best for each label.

    Args:
        trainer: the trainer whose network is scored.
        settings: the trainer's settings; they set how many cases are kept and which of the best modalities teach.
    """

    def __init__(self, trainer: nnUNetTrainerMissingModality, settings: LCKDSettings) -> None:
        self.cases: tuple[str, ...] = ()
        """The training cases that are kept for elections."""
        self._trainer, self._settings = trainer, settings
        self._taken_from: tuple[list[str], list[str]] | None = None
        self._modalities = channel_names(trainer.dataset_json)

    def keep_cases(self, training: list[str], validation: list[str]) -> tuple[str, ...]:
        """Return the training cases of a split that are kept for elections.

        They are drawn only once, because nnU-Net asks for the split again in the final validation.

        Args:
            training: names of the training cases.
            validation: names of the validation cases.

        Raises:
            ModalityError: none of the fold's training cases can be kept for elections.
        """
        if self._taken_from != (training, validation):
            self.cases = self.draw_cases(training, validation)
            self._taken_from = training, validation
        return self.cases

    def draw_cases(self, training: Sequence[str], validation: Sequence[str]) -> tuple[str, ...]:
        """Draw the cases for elections from the training cases; the draw depends on seed and fold.

        Validation cases are taken only if all training cases are validated, as in the fold `all`.

        Raises:
            ModalityError: none of the fold's training cases can be kept for elections.
        """
        if len(self._modalities) == 1:
            return ()
        trainer = self._trainer
        contents = {case: trainer._content(case) for case in training}
        order = np.random.default_rng(trainer._seed(OF_CASES, of_process=False)).permutation(sorted(contents)).tolist()
        validated = set(validation)
        candidates = [case for case in order if case not in validated] or order
        limits = self._settings.election_fraction, self._settings.max_election_cases
        kept = cases_for_elections(contents, *limits, candidates)
        if not kept:
            raise ModalityError(
                f"None of the {len(training)} training cases of fold {trainer.fold} can be kept for the election of "
                "teachers. Such a case has a label, is not validated, and is not the only training case with its "
                "modalities or with one of its labels in one modality. Train another fold, or write a "
                "splits_final.json with more training cases."
            )
        trainer.print_to_log_file(f"Kept for the election of teachers, and not trained on: {', '.join(sorted(kept))}")
        labels, names = list(trainer._foreground()), self._modalities
        shown, trained = (set().union(*(contents[case].pairs for case in cases)) for cases in (kept, training))
        if unseen := [f"{labels[label]} in {names[modality]}" for modality, label in sorted(trained - shown)]:
            trainer.print_to_log_file(
                f"WARNING: the cases of the elections do not show {', '.join(unseen)}. The election ignores this. "
                f"No more cases could be kept, or max_election_cases ({limits[1]}) is too small."
            )
        return tuple(sorted(kept))

    def hold(self) -> list[int]:
        """Hold an election; the log shows the scores.

        Returns:
            The channel numbers of the elected modalities; empty if no label could be scored.
        """
        trainer, names, start = self._trainer, self._modalities, perf_counter()
        scores, numbers = self.scores_alone()
        trainer.told.election_scores = dict(zip(names, scores.tolist(), strict=True))
        texts = [
            ", ".join(f"{score:.4f} ({number})" for score, number in zip(*of_modality, strict=True))
            for of_modality in zip(scores, numbers, strict=True)
        ]
        trainer.print_to_log_file(
            f"Election on {', '.join(self.cases)}, {perf_counter() - start:.0f} s. Soft Dice of each modality by "
            f"itself for {', '.join(trainer._foreground())} (number of cases): "
            + "; ".join(f"{name} {text}" for name, text in zip(names, texts, strict=True))
        )
        elected = zip(trainer._foreground(), winners(scores), strict=True)
        best = {label: winner for label, winner in elected if winner is not None}
        if not best:
            trainer.print_to_log_file(
                "WARNING: no label could be scored, so the teachers stay the same. Check that the cases of the "
                "elections have voxels with labels."
            )
            return []
        trainer.print_to_log_file(
            f"Best: {', '.join(f'{names[winner]} for {label}' for label, winner in best.items())}"
        )
        found = list(best.values())
        return most_frequent(found) if self._settings.election == "most_frequent" else found

    def scores_alone(self) -> tuple[np.ndarray, np.ndarray]:
        """Score each modality without the others on the cases of the elections.

        Returns:
            Mean soft Dice, 0 to 1, and number of cases, both `(K, labels or regions)`; see `mean_scores`.
        """
        trainer = self._trainer
        trainer.set_deep_supervision_enabled(False)
        predictor = self._predictor()
        own = self.cases[trainer.local_rank :: distributed.get_world_size()] if trainer.is_ddp else self.cases
        scores = trainer._of_all_processes([self.case_scores(case, predictor) for case in own])
        trainer.set_deep_supervision_enabled(trainer.enable_deep_supervision)
        return mean_scores(np.stack(scores))

    def case_scores(self, case: str, predictor: nnUNetPredictor) -> np.ndarray:
        """Score each modality without the others on one case.

        Returns:
            Soft Dice `(K, labels or regions)`, 0 to 1; NaN where the case lacks the modality or the label.
        """
        trainer = self._trainer
        dataset_class: Any = trainer.dataset_class
        stage = {"folder_with_segs_from_previous_stage": trainer.folder_with_segs_from_previous_stage}
        dataset = dataset_class(trainer.preprocessed_dataset_folder, [case], **stage)
        data, segmentation, previous, _ = dataset.load_case(case)
        manager, num_modalities = trainer.label_manager, len(self._modalities)
        channels_of_case = add_previous_stage(data[:], previous[:], manager) if trainer.is_cascaded else data[:]
        image, labels = torch.from_numpy(channels_of_case), torch.from_numpy(segmentation[0])
        reference = [torch.isin(labels, torch.tensor(label)) for label in trainer._foreground().values()]
        valid = labels != manager.ignore_label if manager.has_ignore_label else None
        channels = slice(0, len(reference)) if manager.has_regions else slice(1, None)
        scores = np.full((num_modalities, len(reference)), np.nan)
        for modality in available_modalities(image[None, :num_modalities])[0].nonzero().flatten().tolist():
            alone = torch.zeros(1, num_modalities, dtype=torch.bool)
            alone[0, modality] = True
            try:
                logits = predictor.predict_sliding_window_return_logits(drop_modalities(image[None], alone)[0])
            except RuntimeError as error:
                if not is_overflow(error):  # for example out of memory, which has nothing to do with the modality
                    raise
                name = self._modalities[modality]
                trainer.print_to_log_file(f"WARNING: case {case}: no score for {name} by itself: {error}")
                continue
            probabilities = manager.apply_inference_nonlin(torch.as_tensor(logits).cpu())
            assert isinstance(probabilities, Tensor)
            scores[modality] = soft_dice(probabilities[channels], reference, valid)
        return scores

    def _predictor(self) -> nnUNetPredictor:
        """Build nnU-Net's predictor for the network in its current state."""
        trainer = self._trainer
        return predictor_in_training(
            unwrap(trainer.network),
            InferenceContext(trainer.plans_manager, trainer.configuration_manager, trainer.dataset_json),
            trainer=type(trainer).__name__,
            mirroring_axes=trainer.inference_allowed_mirroring_axes,
            use_mirroring=False,
            perform_everything_on_device=trainer.device.type == "cuda",
            device=trainer.device,
        )
