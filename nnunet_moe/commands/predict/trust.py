"""Say how far each case can be trusted, from the calibration that `nnunet_moe evaluate` wrote."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nnunet_moe.errors import SettingsError
from nnunet_moe.labels.labels import labels_of
from nnunet_moe.modalities.codes import Code, code_digits
from nnunet_moe.models.inference import InferenceContext
from nnunet_moe.quality.calibration import LEVEL
from nnunet_moe.quality.label_calibration import LabelCalibration
from nnunet_moe.quality.measuring import fast_signals, leave_one_out
from nnunet_moe.quality.settings import FULL, OFF
from nnunet_moe.quality.signals import Signals, with_agreement

EXPECTED, LOW, HIGH = "case_expected_dsc_{}", "case_dsc_low_{}", "case_dsc_high_{}"
UNUSUAL, DOUBTFUL = "unusual", "doubtful"
"""Names of columns."""


@dataclass(frozen=True)
class Trust:
    """The calibrations of a model, and what to do with them."""

    calibrations: Mapping[str, LabelCalibration]
    """Label -> calibration; not empty."""
    is_full: bool
    """Whether each case is also predicted without one modality after another."""
    required: float | None
    """The expected DSC below which a case is doubtful."""

    @classmethod
    def of(
        cls, calibrations: Mapping[str, LabelCalibration], level: str, required: float | None, *, is_cascade: bool
    ) -> "Trust | None":
        """Return what the options ask for; None if nothing is measured.

        Raises:
            SettingsError: the calibrations lack what the options ask for.
        """
        if level != OFF and calibrations:
            is_full = level == FULL
            if is_full and is_cascade:
                raise SettingsError(
                    "--quality full leaves out one modality after another, also in the previous stage, whose "
                    "segmentations are read from -prev_stage_predictions. Use --quality fast."
                )
            if is_full and not any(FULL in each.by_level for each in calibrations.values()):
                raise SettingsError(
                    "--quality full needs an evaluation with --quality full, and -scores has one without. Rerun the "
                    "evaluation, or use --quality fast."
                )
            return cls(calibrations, is_full, required)
        if required is not None or level == FULL:
            option = "--quality full" if required is None else "--require_quality"
            raise SettingsError(
                f"{option} needs -scores FOLDER, an evaluation with signals of trust, and not --quality off. Rerun "
                "`nnunet_moe evaluate` if an older version wrote the folder."
            )
        return None

    def columns(self, labels: Sequence[str]) -> list[str]:
        """Return the columns of the manifest."""
        of_labels = [form.format(label) for label in labels for form in (EXPECTED, LOW, HIGH)]
        return [*of_labels, UNUSUAL, DOUBTFUL]

    def cells(self, code: Code, signals: Mapping[str, Signals]) -> dict[str, str]:
        """Return the cells of a case, without `DOUBTFUL`. Labels without signals or calibration have none."""
        cells, unusual = {}, []
        for label, calibration in self.calibrations.items():
            if label in signals:
                found = calibration.expect(code_digits(code), signals[label])
                for form, value in ((EXPECTED, found.dsc), (LOW, found.low), (HIGH, found.high)):
                    cells[form.format(label)] = "" if math.isnan(value) else f"{value:.4f}"
                unusual += [f"{label}: {', '.join(found.unusual)}"] * bool(found.unusual)
        return {**cells, UNUSUAL: "; ".join(unusual)}

    def doubtful(self, cells: Mapping[str, str]) -> str:
        """Return the labels whose expected DSC is below the required one, joined by `, `."""
        if self.required is None:
            return ""
        expected = {label: cells.get(EXPECTED.format(label), "") for label in self.calibrations}
        return ", ".join(label for label, text in expected.items() if text and float(text) < self.required)

    def notes(self) -> list[str]:
        """Return messages on labels with too few patients in the evaluation."""
        notes = []
        for label, calibration in self.calibrations.items():
            for level, each in calibration.by_level.items():
                of_what = f"{label} ({level}): {each.num_patients} patients with scores are"
                if each.is_fallback:
                    notes.append(f"{of_what} too few. The expected Dice is the mean of the subset, without interval.")
                elif each.level < LEVEL:
                    said = f"intervals hold for {100 * each.level:.0f} % of new patients instead of {100 * LEVEL:.0f} %"
                    notes.append(f"{of_what} few. The {said}.")
        return notes

    def passes(self, code: Code) -> list[Code]:
        """Return the codes with which a case is predicted in addition."""
        return leave_one_out(code) if self.is_full else []


def measure(
    logits: np.ndarray,
    others: Sequence[Path],
    properties: dict[str, Any],
    segmentation: np.ndarray,
    code: Code,
    context: InferenceContext,
) -> dict[str, Signals]:
    """Compute the signals of each label or region that may appear.

    Args:
        logits: `(C, *space)`, for the preprocessed image.
        others: files of such logits without one modality after another; empty without the agreement.
        properties: the properties that the preprocessing returned.
        segmentation: labels `(*space)` on the grid of the images.
        code: the available modalities.
        context: the inference context of the model.
    """
    of_model = context.label_manager, context.dataset_json
    signals = fast_signals(torch.from_numpy(logits), segmentation, properties["spacing"], *of_model)
    if others:
        without = [context.segmentation(torch.from_numpy(np.load(file)), properties) for file in others]
        signals = with_agreement(signals, segmentation, without, labels_of(context.dataset_json))
    return {label: signals[label] for label in context.labels_under(code)}
