"""Which modalities teach the others: LCKD's election by what each can do alone.

Wang et al., "Learnable cross-modal knowledge distillation for multi-modal learning with missing modality", MICCAI 2023;
formulas where the paper is silent are those of its published code. Decisions: docs/explanation/lckd.md.
"""

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from torch import Tensor

from nnunet_moe.modalities.codes import is_within
from nnunet_moe.trainers.case_content import CaseContent

MOST = 0.25
"""The part of the cases of one kind that elections may take at most, if `election_fraction` is not larger."""


def cases_for_elections(
    cases: Mapping[str, CaseContent], fraction: float, most: int, candidates: Sequence[str]
) -> list[str]:
    """The training cases that elections are held on; they are not trained on.

    One after the other, that which shows the most pairs of a modality and a label that none so far has shown; of equal
    ones that with the most modalities, on which they can be compared; of equal ones the first. After the wanted part
    only those that show something new.

    A case can be taken if for each of its pairs, and for each set of modalities in it that some case has, a case stays
    in training, and not more than `MOST` of those cases, or one, are taken.

    Args:
        cases: all training cases.
        fraction: the part of them that is wanted; one at least.
        most: not more than so many.
        candidates: those that may be taken, the one to be preferred first.
    """
    codes = {content.code for content in cases.values()}
    kinds = {
        case: [*content.pairs, *(code for code in codes if is_within(code, content.code))]
        for case, content in cases.items()
    }
    counts, taken = Counter(kind for of_case in kinds.values() for kind in of_case), Counter()
    wanted, share = max(1, round(fraction * len(cases))), max(fraction, MOST)
    limits = {kind: min(count - 1, max(1, share * count)) for kind, count in counts.items()}
    found: list[str] = []
    shown: set[tuple[int, int]] = set()
    while len(found) < most:
        free = [
            case
            for case in candidates
            if case not in found and cases[case].pairs and all(taken[kind] + 1 <= limits[kind] for kind in kinds[case])
        ]
        best = max(free, key=lambda case: (len(cases[case].pairs - shown), sum(cases[case].code)), default=None)
        if best is None or (len(found) >= wanted and cases[best].pairs <= shown):
            break
        found.append(best)
        shown |= cases[best].pairs
        taken.update(kinds[best])
    return found


def soft_dice(probabilities: Tensor, reference: Collection[Tensor], valid: Tensor | None = None) -> list[float]:
    """`2 sum(p g) / (sum p + sum g + 1)` of every label or region of a case; NaN where the reference has none of it.

    Args:
        probabilities: `(C, *space)`, 0 to 1.
        reference: C times `(*space)` bool.
        valid: `(*space)` bool, false where nothing is known; None if all counts.
    """
    found = []
    for predicted, mask in zip(probabilities, reference, strict=True):
        inside = mask if valid is None else mask & valid
        size, overlap = int(inside.sum()), float(predicted[inside].sum())
        total = float((predicted if valid is None else predicted[valid]).sum())
        found.append(2 * overlap / (total + size + 1) if size else math.nan)
    return found


def mean_scores(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each modality's mean over cases, and over how many.

    A label's means are over the cases that scored every modality for it, if there are any, so that all are compared on
    the same; else over the cases that each has.

    Args:
        scores: `(cases, K, C)`, NaN where a case lacks the modality or the label.

    Returns:
        Means `(K, C)`, NaN where there is no score, and numbers of cases `(K, C)`.
    """
    is_there = ~np.isnan(scores)
    in_common = is_there.all(axis=1, keepdims=True)
    counted = np.where(in_common.any(axis=0, keepdims=True), in_common, is_there)
    sums, numbers = np.where(counted, scores, 0).sum(axis=0), counted.sum(axis=0)
    return np.divide(sums, numbers, out=np.full(sums.shape, np.nan), where=numbers > 0), numbers


def winners(scores: np.ndarray) -> list[int | None]:
    """The modality with the highest score for each label or region, the first of equal ones; None if none has one.

    Args:
        scores: `(K, C)`, each modality's score alone; NaN where a modality could not be scored.
    """
    return [None if np.isnan(column).all() else int(np.nanargmax(column)) for column in scores.T]


def most_frequent(elected: Sequence[int]) -> list[int]:
    """The one modality that wins the most labels; of equal ones that which wins the first label."""
    counts = Counter(elected)  # keeps the order of the labels
    return [modality for modality, _ in counts.most_common(1)]
