"""Calibrate signals of trust on scored cases, and return what they say about a new case.

Everything is by patient: cases of one patient are not independent, and neither are several subsets of one case.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnunet_moe.quality.intervals import interval, reached_level
from nnunet_moe.quality.regression import Fit, fit, subset_means
from nnunet_moe.quality.settings import FAST, FULL
from nnunet_moe.quality.signals import AGREEMENT, COMPONENTS, EXPECTED_DICE, OF_PROBABILITIES, SIZE

LEVEL = 0.9
"""The share of new cases whose DSC should lie within the interval."""
MIN_PATIENTS = 5
"""With fewer patients there is neither a regression nor an interval, only the subset's mean."""
MOST_FOLDS = 10
ABOUT_AS_GOOD = 1.05
"""The simplest regression is taken whose error out of fold is at most this many times that of the best one."""
MARGIN = 0.25
"""How far a signal may lie outside the values of validation before a case is flagged, as a share of their range."""
MODALITIES = "modalities"
OF_LEVEL = {FAST: OF_PROBABILITIES, FULL: (*OF_PROBABILITIES, *AGREEMENT)}
"""Which signals the regression may use."""
CHECKED = {FAST: (*OF_PROBABILITIES, SIZE, COMPONENTS), FULL: (*OF_PROBABILITIES, SIZE, COMPONENTS, *AGREEMENT)}
"""Which signals are compared with the values of validation."""


@dataclass(frozen=True)
class ScoredRows:
    """Scored segmentations of one label: several cases, each with several codes."""

    patients: Sequence[str]
    codes: Sequence[str]
    """Digits."""
    signals: Mapping[str, np.ndarray]
    """Name -> `(rows,)`, finite."""
    dsc: np.ndarray
    """`(rows,)`."""

    def only(self, chosen: np.ndarray) -> "ScoredRows":
        """Return the rows that are true in `chosen` `(rows,)` bool."""
        where = [int(row) for row in np.flatnonzero(chosen)]
        patients, codes = ([named[row] for row in where] for named in (self.patients, self.codes))
        return ScoredRows(
            patients, codes, {name: values[where] for name, values in self.signals.items()}, self.dsc[where]
        )

    def folds(self) -> np.ndarray:
        """Return the fold of each row `(rows,)`: all rows of a patient are in one, and there are at most MOST_FOLDS."""
        return self.patient_numbers() % MOST_FOLDS

    def patient_numbers(self) -> np.ndarray:
        """Return a number for the patient of each row, from 0, `(rows,)`."""
        return np.unique(np.array(self.patients), return_inverse=True)[1]

    def of_row(self, row: int) -> dict[str, float]:
        """Return the signals of one row."""
        return {name: float(values[row]) for name, values in self.signals.items()}


@dataclass(frozen=True)
class Expectation:
    """What is expected of one segmentation of one label."""

    dsc: float
    low: float
    """NaN, as `high`, if there is no interval."""
    high: float
    unusual: tuple[str, ...]
    """The signals that lie outside of what validation had seen, and `MODALITIES` for a subset that was not scored."""


@dataclass(frozen=True)
class Residual:
    """By how far the fit without a patient missed one of its rows."""

    patient: int
    """A number, because models with their calibration are shared and names of patients must stay out of them."""
    size: int
    """Number of modalities of the row."""
    fit: int
    """Which of the fits out of fold."""
    error: float
    """Not negative."""


@dataclass(frozen=True)
class Calibration:
    """The calibration of one label, at one level of quality."""

    fit: Fit
    fits_out_of_fold: tuple[Fit, ...]
    """Empty if there are too few patients."""
    residuals: tuple[Residual, ...]
    ranges: Mapping[str, tuple[float, float]]
    """Signal -> smallest and largest value in validation; for sizes and numbers of components of `log(1 + value)`."""
    num_patients: int
    errors: Mapping[str, float]
    """Candidate -> mean absolute error out of fold; empty with too few patients."""

    @property
    def is_fallback(self) -> bool:
        """Whether there were too few patients, so that only the subset's mean is known."""
        return not self.fits_out_of_fold

    @property
    def level(self) -> float:
        """The level of the intervals for subsets of every size, which few patients lower."""
        return min((self._level(size) for size in {residual.size for residual in self.residuals}), default=math.nan)

    def expect(self, code: str, signals: Mapping[str, float]) -> Expectation:
        """Return what is expected of a segmentation.

        Args:
            code: digits.
            signals: of the level that was calibrated.
        """
        dsc, (low, high) = self.fit.expected(code, signals), (math.nan, math.nan)
        if not self.is_fallback:
            used = self._residuals(code.count("1"))
            expected = [each.expected(code, signals) for each in self.fits_out_of_fold]
            centers = np.array([expected[residual.fit] for residual in used])
            errors, patients = np.array([residual.error for residual in used]), [residual.patient for residual in used]
            low, high = interval(centers, errors, patients, reached_level(LEVEL, len(set(patients))))
        scaled = {name: _scaled(name, signals[name]) for name in self.ranges}
        unusual = tuple(name for name, limits in self.ranges.items() if not _is_usual(scaled[name], limits))
        if code not in self.fit.offsets:
            unusual = (MODALITIES, *unusual)
        return Expectation(dsc, min(low, dsc), max(high, dsc), unusual)

    def _residuals(self, size: int) -> list[Residual]:
        """Return the residuals of subsets with this number of modalities; all, if too few patients have some."""
        of_size = [residual for residual in self.residuals if residual.size == size]
        has_enough = len({residual.patient for residual in of_size}) >= MIN_PATIENTS
        return of_size if has_enough else list(self.residuals)

    def _level(self, size: int) -> float:
        return reached_level(LEVEL, len({residual.patient for residual in self._residuals(size)}))

    def as_json(self) -> dict[str, Any]:
        """Return the calibration as numbers and texts."""
        return {
            "fit": _fit_as_json(self.fit),
            "fits_out_of_fold": [_fit_as_json(each) for each in self.fits_out_of_fold],
            "residuals": [[each.patient, each.size, each.fit, each.error] for each in self.residuals],
            "ranges": {name: list(limits) for name, limits in self.ranges.items()},
            "num_patients": self.num_patients,
            "errors": dict(self.errors),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Calibration":
        """Read what `as_json` returned.

        Raises:
            KeyError, TypeError, ValueError: it has another form.
        """
        return cls(
            Fit(**content["fit"]),
            tuple(Fit(**each) for each in content["fits_out_of_fold"]),
            tuple(Residual(*each) for each in content["residuals"]),
            {name: (low, high) for name, (low, high) in content["ranges"].items()},
            content["num_patients"],
            content["errors"],
        )


def calibrate(rows: ScoredRows, level: str) -> Calibration:
    """Fit the regression and collect the residuals out of fold.

    Args:
        rows: at least one. With the level `full`, all have an agreement.
        level: `fast` or `full`.
    """
    ranges = {name: _limits(_scaled(name, rows.signals[name])) for name in CHECKED[level]}
    num_patients, folds = len(set(rows.patients)), rows.folds()
    if num_patients < MIN_PATIENTS:
        return Calibration(subset_means(rows.codes, rows.dsc), (), (), ranges, num_patients, {})
    found = {name: _out_of_fold(rows, signals, folds) for name, signals in _candidates(level).items()}
    errors = {name: _mean_over_patients(np.abs(missed), rows.patients) for name, (_, missed) in found.items()}
    best = next(name for name, error in errors.items() if error <= ABOUT_AS_GOOD * min(errors.values()))
    fits, missed = found[best]
    residuals = tuple(
        Residual(int(patient), code.count("1"), int(fold), float(abs(error)))
        for patient, code, fold, error in zip(rows.patient_numbers(), rows.codes, folds, missed, strict=True)
    )
    return Calibration(_fitted(rows, _candidates(level)[best]), fits, residuals, ranges, num_patients, errors)


def _candidates(level: str) -> dict[str, tuple[str, ...]]:
    """Return the regressions, the simplest first: name -> the signals that it uses."""
    return {"subset mean": (), "expected Dice": (EXPECTED_DICE,), "all signals": OF_LEVEL[level]}


def _fitted(rows: ScoredRows, signals: Sequence[str]) -> Fit:
    if not signals:
        return subset_means(rows.codes, rows.dsc)
    return fit(rows.codes, {name: rows.signals[name] for name in signals}, rows.dsc)


def _out_of_fold(rows: ScoredRows, signals: Sequence[str], folds: np.ndarray) -> tuple[tuple[Fit, ...], np.ndarray]:
    """Return the fits without each fold, and the DSC of each row `(rows,)` minus what the fit without it expects."""
    fits = tuple(_fitted(rows.only(folds != fold), signals) for fold in range(int(folds.max()) + 1))
    expected = [fits[fold].expected(rows.codes[row], rows.of_row(row)) for row, fold in enumerate(folds)]
    return fits, rows.dsc - np.array(expected)


def _mean_over_patients(values: np.ndarray, patients: Sequence[str]) -> float:
    """Average over the rows of each patient, then over patients."""
    named = np.array(patients)
    return float(np.mean([values[named == patient].mean() for patient in sorted(set(patients))]))


def _scaled(name: str, values: Any) -> Any:
    return np.log1p(values) if name in (SIZE, COMPONENTS) else values


def _limits(values: np.ndarray) -> tuple[float, float]:
    return float(values.min()), float(values.max())


def _is_usual(value: float, limits: tuple[float, float]) -> bool:
    low, high = limits
    margin = MARGIN * (high - low)
    return low - margin <= value <= high + margin


def _fit_as_json(each: Fit) -> dict[str, Any]:
    return {"intercept": each.intercept, "offsets": dict(each.offsets), "weights": dict(each.weights)}
