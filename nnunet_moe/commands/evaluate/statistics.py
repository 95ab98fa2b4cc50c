"""Paired comparisons of two models, and what each modality is worth.

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

DECIMALS = 12  # differences that are equal on paper should be equal in the ranking


@dataclass(frozen=True)
class Comparison:
    """Two models over the same pairs, first minus second."""

    pairs: int
    mean_difference: float
    median_difference: float
    effect_size: float
    """Matched-pairs rank-biserial correlation, -1 (the second is better each time) to 1 (the first is)."""
    p: float
    """Two-sided Wilcoxon signed-rank test."""


def compare(first: Sequence[float], second: Sequence[float]) -> Comparison | None:
    """Compare paired values, pairs that are alike left out of the test (Wilcoxon's own treatment of zeros).

    Args:
        first: finite values.
        second: of the same cases, in the same order.

    Returns:
        None without any pair.
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
    """(W+ - W-) / (W+ + W-) over the ranks of the absolute differences other than zero (Kerby 2014); 0 without any."""
    difference = difference[difference != 0]
    ranks = stats.rankdata(np.abs(difference))
    return float((ranks * np.sign(difference)).sum() / ranks.sum()) if difference.size else 0.0


def holm(p: Sequence[float]) -> list[float]:
    """Holm's (1979) step-down correction: adjusted p-values, in the order given."""
    order = np.argsort(p)
    stepped = [(len(p) - rank) * p[index] for rank, index in enumerate(order)]
    adjusted = np.minimum(np.maximum.accumulate(stepped), 1.0) if len(p) else np.empty(0)
    return [float(adjusted[rank]) for rank in np.argsort(order)]


def gap_closed(value: float, baseline: float, dedicated: float) -> float:
    """How far a model goes from a baseline to the dedicated ones, in per cent; NaN if these are no better."""
    gap = dedicated - baseline
    return 100 * (value - baseline) / gap if gap > 0 else math.nan


def loss_when_missing(scores: Mapping[Code, float], modality: int) -> float:
    """The complete code's score minus that with one modality missing; NaN without both (K = 1: nothing is left)."""
    num_modalities = len(next(iter(scores)))
    complete = (True,) * num_modalities
    without = tuple(index != modality for index in range(num_modalities))
    return scores.get(complete, math.nan) - scores.get(without, math.nan)


def score_alone(scores: Mapping[Code, float], modality: int) -> float:
    """The score with one modality alone; NaN if it was not scored."""
    num_modalities = len(next(iter(scores)))
    return scores.get(tuple(index == modality for index in range(num_modalities)), math.nan)


def shapley_values(scores: Mapping[Code, float]) -> list[float]:
    """Each modality's Shapley value (1953), with 0 as the score of no modality; they sum to the complete code's score.

    Args:
        scores: of codes of K modalities.

    Returns:
        K values; NaN unless all 2^K - 1 codes are there.
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
    result: Any = stats.wilcoxon(difference)
    return float(result.pvalue)
