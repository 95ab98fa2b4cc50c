"""Assess how well an expected DSC tells the actual one."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata, spearmanr

FEW_FALSE_ALARMS = 0.1
"""The share of good segmentations that may be called doubtful, for `found_at_few_false_alarms`."""


@dataclass(frozen=True)
class Assessment:
    """How well an expected DSC tells the actual one; NaN where it is not defined."""

    segmentations: int
    mean_absolute_error: float
    error_of_subset_mean: float
    """Mean absolute error if the mean of the subset is expected, as without signals."""
    correlation: float
    """Spearman's correlation of expected and actual DSC within a subset, averaged over the subsets."""
    coverage: float
    """Share of segmentations whose DSC lies within its interval."""
    width: float
    """Mean width of the intervals."""
    failures: int
    """Segmentations whose DSC is below the limit."""
    auc: float
    """Probability that a failure has a lower expected DSC than another segmentation (area under the ROC curve)."""
    auc_of_subset_mean: float
    found_at_few_false_alarms: float
    """Share of the failures that are found if at most a tenth of the other segmentations is called doubtful."""


def assess(
    dsc: np.ndarray,
    expected: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    subset_mean: np.ndarray,
    *,
    codes: Sequence[str],
    failure_dsc: float,
) -> Assessment:
    """Assess expectations of segmentations that the calibration has not seen.

    Args:
        dsc: `(rows,)`, the actual one.
        expected: `(rows,)`.
        low: `(rows,)`, NaN without an interval.
        high: `(rows,)`, NaN without an interval.
        subset_mean: `(rows,)`, what is expected without signals.
        codes: of each row.
        failure_dsc: a DSC below this is a failure.
    """
    failed, has_interval = dsc < failure_dsc, ~np.isnan(low)
    is_within = (low <= dsc) & (dsc <= high)
    return Assessment(
        len(dsc),
        float(np.abs(dsc - expected).mean()),
        float(np.abs(dsc - subset_mean).mean()),
        within_subsets(dsc, expected, codes),
        float(is_within[has_interval].mean()) if has_interval.any() else math.nan,
        float((high - low)[has_interval].mean()) if has_interval.any() else math.nan,
        int(failed.sum()),
        area_under_roc(failed, expected),
        area_under_roc(failed, subset_mean),
        found_at(failed, expected, FEW_FALSE_ALARMS),
    )


def within_subsets(dsc: np.ndarray, expected: np.ndarray, codes: Sequence[str]) -> float:
    """Return Spearman's correlation within a subset, averaged over subsets with at least three different values."""
    named, found = np.array(codes), []
    for code in sorted(set(codes)):
        of_code = named == code
        if of_code.sum() >= 3 and np.ptp(dsc[of_code]) > 0:
            constant = np.ptp(expected[of_code]) == 0
            found.append(0.0 if constant else float(spearmanr(dsc[of_code], expected[of_code])[0]))  # pyright: ignore
    return float(np.mean(found)) if found else math.nan


def area_under_roc(failed: np.ndarray, expected: np.ndarray) -> float:
    """Return the probability that a failure has a lower value than another row; ties count half, NaN without both."""
    num_failed, num_others = int(failed.sum()), int((~failed).sum())
    if not num_failed or not num_others:
        return math.nan
    ranks = rankdata(-expected)
    return float((ranks[failed].sum() - num_failed * (num_failed + 1) / 2) / (num_failed * num_others))


def found_at(failed: np.ndarray, expected: np.ndarray, false_alarms: float) -> float:
    """Return the largest share of failures below a threshold below which at most this share of the others lies."""
    if not failed.any() or failed.all():
        return math.nan
    thresholds = [*np.unique(expected), math.inf]
    allowed = [each for each in thresholds if (expected[~failed] < each).mean() <= false_alarms]
    return max(float((expected[failed] < each).mean()) for each in allowed)
