"""Compare two models in pairs, count where more modalities were worse, and compute what each modality is worth.

Definitions and sources: docs/explanation/metrics.md.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from scipy import stats

from nnunet_moe.modalities.codes import Code

DECIMALS = 12  # equal differences must stay equal in the ranking, despite rounding errors
WORSE = 0.01
"""More modalities were worse if the DSC fell by more than this: one point."""


@dataclass(frozen=True)
class Comparison:
    """The comparison of two models over the same pairs, first minus second."""

    pairs: int
    mean_difference: float
    median_difference: float
    effect_size: float
    """Matched-pairs rank-biserial correlation, -1 (the second is always better) to 1 (the first is)."""
    p: float
    """Two-sided Wilcoxon signed-rank test."""


@dataclass(frozen=True)
class Share:
    """A share of pairs, which belong to cases."""

    share: float
    """0 to 1; NaN without pairs."""
    standard_error: float
    """Over cases; NaN for a single case."""
    pairs: int
    cases: int


def compare(first: Sequence[float], second: Sequence[float]) -> Comparison | None:
    """Compare paired values.

    The test ignores pairs without a difference. This is how Wilcoxon treats zeros.

    Args:
        first: finite values.
        second: the values of the same cases, in the same order.

    Returns:
        The comparison, or None if there are no pairs.
    """
    difference = np.round(np.subtract(first, second), DECIMALS)
    if not difference.size:
        return None
    return Comparison(
        pairs=difference.size,
        mean_difference=float(difference.mean()),
        median_difference=float(np.median(difference)),
        effect_size=rank_biserial(difference),
        p=_wilcoxon(difference) if difference.any() else 1.0,
    )


def rank_biserial(difference: np.ndarray) -> float:
    """Compute (W+ - W-) / (W+ + W-) over the ranks of the absolute nonzero differences (Kerby 2014).

    Without nonzero differences it is 0.
    """
    difference = difference[difference != 0]
    ranks = stats.rankdata(np.abs(difference))
    return float((ranks * np.sign(difference)).sum() / ranks.sum()) if difference.size else 0.0


def holm(p: Sequence[float]) -> list[float]:
    """Adjust p-values with Holm's (1979) step-down correction, in the given order."""
    order = np.argsort(p)
    stepped = [(len(p) - rank) * p[index] for rank, index in enumerate(order)]
    adjusted = np.minimum(np.maximum.accumulate(stepped), 1.0) if len(p) else np.empty(0)
    return [float(adjusted[rank]) for rank in np.argsort(order)]


def gap_closed(value: float, baseline: float, dedicated: float) -> float:
    """Compute the share of the gap from a baseline to the dedicated models that a model closes, in percent.

    It is NaN if the dedicated models are not better than the baseline.
    """
    gap = dedicated - baseline
    return 100 * (value - baseline) / gap if gap > 0 else math.nan


def nested_pairs(codes: Sequence[Code]) -> list[tuple[Code, Code]]:
    """List the pairs of codes in which the second has all modalities of the first, and more.

    Args:
        codes: different codes of K modalities each.
    """
    return [
        (few, more)
        for few in codes
        for more in codes
        if few != more and all(has_more or not has for has, has_more in zip(few, more, strict=True))
    ]


def share_worse(changes: np.ndarray, groups: np.ndarray | None = None) -> Share:
    """Compute the share of pairs in which the score fell by more than `WORSE`.

    The pairs of one case are not independent, so the standard error is that of `ratio_error` over cases.

    Args:
        changes: `(N, P)`, the score with more modalities minus the score with fewer, for N cases and P pairs. NaN if
            one of the scores is not defined; such a pair does not count.
        groups: `(N,)`, the number of the patient of each case, for a standard error over patients.
    """
    pairs = np.isfinite(changes).sum(axis=1)
    worse = (np.round(changes, DECIMALS) < -WORSE).sum(axis=1)
    has_pairs = pairs > 0
    pairs, worse = pairs[has_pairs], worse[has_pairs]
    if not pairs.size:
        return Share(math.nan, math.nan, 0, 0)
    groups = np.arange(pairs.size) if groups is None else groups[has_pairs]
    error = ratio_error(*(np.bincount(groups, numbers) for numbers in (worse, pairs)))
    return Share(float(worse.sum() / pairs.sum()), error, int(pairs.sum()), pairs.size)


def ratio_error(sums: np.ndarray, counts: np.ndarray) -> float:
    """Return the standard error of a ratio of two sums over independent units (Cochran 1977).

    If all units have the same count, it is the standard error of the mean over units.

    Args:
        sums: of each unit.
        counts: of each unit; units with 0 do not count.

    Returns:
        The standard error of `sums.sum() / counts.sum()`; NaN for a single unit.
    """
    sums, counts = sums[counts > 0], counts[counts > 0]
    if sums.size < 2:
        return math.nan
    rest = sums - sums.sum() / counts.sum() * counts
    return float(np.sqrt(sums.size / (sums.size - 1) * np.square(rest).sum()) / counts.sum())


def loss_when_missing(scores: Mapping[Code, float], modality: int) -> float:
    """Subtract the score with one modality missing from the score of the complete code.

    It is NaN if one of them was not scored, and for K = 1, where no modality would be left.
    """
    num_modalities = len(next(iter(scores)))
    complete = (True,) * num_modalities
    without = tuple(index != modality for index in range(num_modalities))
    return scores.get(complete, math.nan) - scores.get(without, math.nan)


def score_alone(scores: Mapping[Code, float], modality: int) -> float:
    """Return the score with only one modality; NaN if it was not scored."""
    num_modalities = len(next(iter(scores)))
    return scores.get(tuple(index == modality for index in range(num_modalities)), math.nan)


def shapley_values(scores: Mapping[Code, float]) -> list[float]:
    """Compute the Shapley value (1953) of each modality.

    The score without any modality counts as 0. The values sum to the score of the complete code.

    Args:
        scores: code of K modalities -> score.

    Returns:
        K values; NaN unless all 2^K - 1 codes were scored.
    """
    num_modalities = len(next(iter(scores)))

    def score(members: tuple[int, ...]) -> float:
        code = tuple(modality in members for modality in range(num_modalities))
        return scores.get(code, math.nan) if members else 0.0

    values = []
    for modality in range(num_modalities):
        others = [other for other in range(num_modalities) if other != modality]
        values.append(
            sum(
                (score((*members, modality)) - score(members)) / math.comb(num_modalities - 1, size)
                for size in range(num_modalities)
                for members in combinations(others, size)
            )
            / num_modalities
        )
    return values


def _wilcoxon(difference: np.ndarray) -> float:
    """Compute the two-sided p-value by a named method. SciPy's own choice differs between its versions.

    The p-value is exact for up to 50 pairs without ties or zeros. With them, all signs are tried for up to 13 pairs.
    Otherwise it comes from the normal approximation.

    Args:
        difference: of each pair; at least one is not 0.
    """
    all_differ = difference.all() and np.unique(np.abs(difference)).size == difference.size
    method: Any = "asymptotic"
    if all_differ and difference.size <= 50:
        method = "exact"
    elif difference.size <= 13:
        method = stats.PermutationMethod()
    result: Any = stats.wilcoxon(difference, method=method)
    return float(result.pvalue)
