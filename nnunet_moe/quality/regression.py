"""Fit a small monotone regression from signals of trust and the subset of modalities to the DSC.

`DSC = intercept + offset of the subset + sum(weight * signal)`, cut to [0, 1]. Weights have a fixed sign, so that more
certainty never lowers the expected DSC. Offsets and weights are penalized as in ridge regression: the offset of a
subset with n rows is shrunk to n / (n + 1) of what its rows say. A fit is a few numbers that need no library.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import lsq_linear

from nnunet_moe.quality.signals import AGREEMENT, ENTROPY_AROUND, ENTROPY_INSIDE, EXPECTED_DICE

SIGN = {EXPECTED_DICE: 1, ENTROPY_INSIDE: -1, ENTROPY_AROUND: -1, **dict.fromkeys(AGREEMENT, 1)}
"""Signal -> whether more of it can only raise (1) or lower (-1) the expected DSC."""
PENALTY = 1.0
"""Of squared offsets, and of squared weights of signals with variance 1."""


@dataclass(frozen=True)
class Fit:
    """A fitted regression."""

    intercept: float
    offsets: Mapping[str, float]
    """Digits of a code -> its offset. Other codes have none."""
    weights: Mapping[str, float]
    """Signal -> weight."""

    def expected(self, code: str, signals: Mapping[str, float]) -> float:
        """Return the expected DSC, from 0 to 1.

        Args:
            code: digits.
            signals: at least those with a weight, finite.
        """
        linear = sum(weight * signals[name] for name, weight in self.weights.items())
        return float(np.clip(self.intercept + self.offsets.get(code, 0.0) + linear, 0, 1))


def subset_means(codes: Sequence[str], dsc: np.ndarray) -> Fit:
    """Return the fit that uses no signal: the mean of each subset, and the mean of all rows for others.

    Args:
        codes: digits of each row.
        dsc: `(rows,)`.
    """
    mean, digits = float(dsc.mean()), np.array(codes)
    return Fit(mean, {code: float(dsc[digits == code].mean()) - mean for code in sorted(set(codes))}, {})


def fit(codes: Sequence[str], signals: Mapping[str, np.ndarray], dsc: np.ndarray) -> Fit:
    """Fit the regression by penalized least squares.

    Args:
        codes: digits of each row.
        signals: name -> `(rows,)`, finite, those to use.
        dsc: `(rows,)`.
    """
    different, names = sorted(set(codes)), list(signals)
    values = np.column_stack([SIGN[name] * signals[name] for name in names])
    mean, scale = values.mean(axis=0), values.std(axis=0)
    scale[scale == 0] = 1
    is_of = np.array([[code == each for each in different] for code in codes], dtype=float)
    design = np.column_stack([np.ones(len(dsc)), is_of, (values - mean) / scale])
    num_penalized = design.shape[1] - 1
    penalty = np.column_stack([np.zeros(num_penalized), np.sqrt(PENALTY) * np.eye(num_penalized)])
    lowest = [-np.inf] * (1 + len(different)) + [0.0] * len(names)
    target = np.concatenate([dsc, np.zeros(num_penalized)])
    solution = lsq_linear(np.vstack([design, penalty]), target, (lowest, np.inf), method="bvls").x
    weights = solution[1 + len(different) :] / scale
    return Fit(
        float(solution[0] - weights @ mean),
        dict(zip(different, map(float, solution[1 : 1 + len(different)]), strict=True)),
        {name: SIGN[name] * float(weight) for name, weight in zip(names, weights, strict=True)},
    )
