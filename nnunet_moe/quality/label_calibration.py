"""The calibrations of one label: without and, where it was measured, with the agreement between subsets."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnunet_moe.quality.calibration import Calibration, Expectation, ScoredRows, calibrate
from nnunet_moe.quality.regression import subset_means
from nnunet_moe.quality.settings import FAST, FULL
from nnunet_moe.quality.signals import MEAN_AGREEMENT


@dataclass(frozen=True)
class LabelCalibration:
    """The calibrations of one label. A single modality has no agreement, so its cases always use the fast one."""

    by_level: Mapping[str, Calibration]
    """`fast` and perhaps `full` -> calibration."""

    def expect(self, code: str, signals: Mapping[str, float]) -> Expectation:
        """Return what is expected of a segmentation.

        Args:
            code: digits.
            signals: those of `FAST`; an agreement is used if it is there and not NaN.
        """
        is_full = FULL in self.by_level and not math.isnan(signals.get(MEAN_AGREEMENT, math.nan))
        return self.by_level[FULL if is_full else FAST].expect(code, signals)

    def as_json(self) -> dict[str, Any]:
        """Return numbers and texts."""
        return {level: calibration.as_json() for level, calibration in self.by_level.items()}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "LabelCalibration":
        """Read what `as_json` returned.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: it has another form.
        """
        return cls(
            {FAST: Calibration.from_json(content[FAST])}
            | {level: Calibration.from_json(content[level]) for level in content if level == FULL}
        )


def calibrate_label(rows: ScoredRows) -> LabelCalibration:
    """Calibrate one label.

    Args:
        rows: at least one. The agreement may be NaN.
    """
    found = {FAST: calibrate(rows, FAST)}
    has_agreement = ~np.isnan(rows.signals[MEAN_AGREEMENT])
    if has_agreement.any():
        found[FULL] = calibrate(rows.only(has_agreement), FULL)
    return LabelCalibration(found)


@dataclass(frozen=True)
class HeldOut:
    """What calibrations without a patient expect of its rows."""

    expected: np.ndarray
    """`(rows,)`, as `low` and `high`."""
    low: np.ndarray
    high: np.ndarray
    subset_mean: np.ndarray
    """The mean DSC of the subset in the other patients, `(rows,)`."""


def held_out(rows: ScoredRows) -> HeldOut | None:
    """Calibrate without each patient, or each tenth of them, and return what is expected of their rows.

    Returns:
        The expectations; None for a single patient.
    """
    folds = rows.folds()
    if len(set(rows.patients)) < 2:
        return None
    found = np.empty((4, len(folds)))
    for fold in range(int(folds.max()) + 1):
        others = rows.only(folds != fold)
        calibration, means = calibrate_label(others), subset_means(others.codes, others.dsc)
        for row in map(int, np.flatnonzero(folds == fold)):
            expected = calibration.expect(rows.codes[row], rows.of_row(row))
            found[:, row] = expected.dsc, expected.low, expected.high, means.expected(rows.codes[row], {})
    return HeldOut(*found)
