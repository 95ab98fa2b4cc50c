"""Prediction intervals by conformal calibration over patients.

Sources:
- Residuals out of fold, one fit for each fold: CV+ of Barber, Candès, Ramdas, Tibshirani, "Predictive inference with
  the jackknife+", Annals of Statistics 2021.
- Groups with their own residuals, here the number of modalities: Vovk, "Conditional validity of inductive conformal
  predictors", ACML 2012.
- Several rows of one patient share the weight of one: Lee, Barber, Willett, "Distribution-free inference with
  hierarchical data", arXiv:2306.06342.
"""

import math
from collections.abc import Sequence

import numpy as np


def reached_level(level: float, num_patients: int) -> float:
    """Return the level that the residuals of n patients can support: the wanted one, at most n / (n + 1)."""
    return min(level, num_patients / (num_patients + 1))


def interval(centers: np.ndarray, residuals: np.ndarray, patients: Sequence[int], level: float) -> tuple[float, float]:
    """Compute the interval of CV+ with one weight for each patient, cut to [0, 1].

    Args:
        centers: `(rows,)`, for each row with a residual: what the fit without its patient expects of the new case.
        residuals: `(rows,)`, not negative: by how far that fit missed this row.
        patients: a number for the patient of each row.
        level: as `reached_level` returns it.
    """
    names, place, numbers = np.unique(np.array(patients), return_inverse=True, return_counts=True)
    weights = 1 / numbers[place] / (len(names) + 1)  # the new patient has the rest, at infinity
    low = -_quantile(residuals - centers, weights, level)
    high = _quantile(residuals + centers, weights, level)
    return min(max(low, 0.0), 1.0), max(min(high, 1.0), 0.0)


def _quantile(values: np.ndarray, weights: np.ndarray, level: float) -> float:
    """Return the smallest value at which the cumulative weight reaches the level; infinity if none does."""
    order = np.argsort(values, kind="stable")
    reached = np.flatnonzero(np.cumsum(weights[order]) >= level - 1e-9)
    return float(values[order][reached[0]]) if len(reached) else math.inf
