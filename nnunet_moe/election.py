"""Which modalities teach the others: LCKD's election by what each can do alone.

Wang et al., "Learnable cross-modal knowledge distillation for multi-modal learning with missing modality", MICCAI 2023;
formulas where the paper is silent are those of its published code. Decisions: docs/lckd.md.
"""

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from nnunet_moe.codes import Code


@dataclass(frozen=True)
class Content:
    """What a training case can tell in an election."""

    code: Code
    """The modalities that it has."""
    labels: frozenset[int]
    """The numbers of the labels or regions that its reference shows."""

    @property
    def pairs(self) -> set[tuple[int, int | None]]:
        """Each of its modalities with each of its labels, and with none, so that cases without labels count, too."""
        return {
            (modality, label) for modality, there in enumerate(self.code) if there for label in (*self.labels, None)
        }


def cases_for_elections(cases: Mapping[str, Content], number: int, candidates: Sequence[str]) -> list[str]:
    """The training cases that elections are held on; they are not trained on.

    One after the other, that which shows the most of what none so far has shown: pairs of a modality and a label; of
    equal ones that with the most modalities, on which they can be compared; of equal ones the first. A case is spared
    only if every such pair of it is in some other case that is trained on, and all its modalities are in one.

    Args:
        cases: all training cases.
        number: how many are wanted.
        candidates: those that may be taken, the one to be preferred first.

    Returns:
        As many as can be spared, `number` at most.
    """
    found: list[str] = []
    shown: set[tuple[int, int | None]] = set()
    while len(found) < number:
        rest = [content for case, content in cases.items() if case not in found]
        pairs = Counter(pair for content in rest for pair in content.pairs)
        codes = Counter(content.code for content in rest)
        spare = [
            case
            for case in candidates
            if case not in found
            and all(pairs[pair] > 1 for pair in cases[case].pairs)
            and _is_covered(cases[case].code, codes)
        ]
        if not spare:
            break
        best = max(spare, key=lambda case: (len(cases[case].pairs - shown), sum(cases[case].code)))
        shown |= cases[best].pairs
        found.append(best)
    return found


def _is_covered(code: Code, codes: Mapping[Code, int]) -> bool:
    """Whether one of the cases, beside that which this code is of, has all its modalities."""
    others = {other for other, count in codes.items() if count > (other == code)}
    return any(all(has or not needed for needed, has in zip(code, other, strict=True)) for other in others)


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


def mean_scores(scores: np.ndarray) -> np.ndarray:
    """Each modality's mean over cases, `(K, C)`; NaN where it has no score.

    A label's means are over the cases that scored every modality for it, if there are any, so that all are compared on
    the same; else over the cases that each has.

    Args:
        scores: `(cases, K, C)`, NaN where a case lacks the modality or the label.
    """
    is_there = ~np.isnan(scores)
    in_common = is_there.all(axis=1, keepdims=True)
    counts = np.where(in_common.any(axis=0, keepdims=True), in_common, is_there)
    sums, numbers = np.where(counts, scores, 0).sum(axis=0), counts.sum(axis=0)
    return np.divide(sums, numbers, out=np.full(sums.shape, np.nan), where=numbers > 0)


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
