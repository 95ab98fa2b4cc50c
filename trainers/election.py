"""LCKD's election of teachers: each modality is scored by its segmentation without the other modalities.

Wang et al., "Learnable cross-modal knowledge distillation for multi-modal learning with missing modality", MICCAI 2023.
Where the paper gives no formula, the one in the authors' published code is used. Decisions: docs/explanation/lckd.md.
"""

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from torch import Tensor

from nnunet_moe.modalities.codes import is_within
from nnunet_moe.trainers.case_content import CaseContent

MOST = 0.25
"""The largest fraction of the cases with one feature that elections may take, unless `election_fraction` is larger."""


def cases_for_elections(
    cases: Mapping[str, CaseContent], fraction: float, most: int, candidates: Sequence[str]
) -> list[str]:
    """Choose the training cases that are kept for elections and not trained on.

    Cases are taken one after the other. The next case is

    - the one with the most new pairs of a modality and a label, which no case taken so far has;
    - among equal ones the one with the most modalities, because modalities are compared on common cases;
    - among equal ones the first candidate.

    Once the wanted fraction is reached, only cases with new pairs are taken.

    The features of a case are its pairs, and those modality codes in the dataset that its modalities include. A case
    can be taken only if for each of its features

    - at least one case with this feature stays in training, and
    - at most `MOST` of the cases with this feature, or one case, are taken.

    Args:
        cases: all training cases.
        fraction: the fraction of the cases that is wanted, 0 to 1; at least one case.
        most: the largest number of cases to take.
        candidates: the cases that may be taken, in order of preference.

    Returns:
        The chosen cases, in the order in which they were taken; empty if none can be taken.
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
    """Compute the soft Dice of each label or region of a case: `2 sum(p g) / (sum p + sum g + 1)`.

    Args:
        probabilities: p, `(C, *space)`, 0 to 1.
        reference: g, the reference segmentation of each of the C labels or regions, `(*space)` bool.
        valid: `(*space)` bool, false at voxels with the ignore label; None if all voxels count.

    Returns:
        C values, 0 to 1; NaN where the reference segmentation has no voxel of the label.
    """
    found = []
    for predicted, mask in zip(probabilities, reference, strict=True):
        inside = mask if valid is None else mask & valid
        size, overlap = int(inside.sum()), float(predicted[inside].sum())
        total = float((predicted if valid is None else predicted[valid]).sum())
        found.append(2 * overlap / (total + size + 1) if size else math.nan)
    return found


def mean_scores(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Average the scores of each modality over cases.

    If some cases have a score of every modality for a label, the means for this label are over these cases. So all
    modalities are compared on the same cases. Otherwise, each modality's mean is over all cases that have its score.

    Args:
        scores: `(cases, K, C)`, NaN where a case lacks the modality or the label.

    Returns:
        Means `(K, C)`, NaN where there is no score, and the numbers of averaged cases `(K, C)`.
    """
    is_there = ~np.isnan(scores)
    in_common = is_there.all(axis=1, keepdims=True)
    counted = np.where(in_common.any(axis=0, keepdims=True), in_common, is_there)
    sums, numbers = np.where(counted, scores, 0).sum(axis=0), counted.sum(axis=0)
    return np.divide(sums, numbers, out=np.full(sums.shape, np.nan), where=numbers > 0), numbers


def winners(scores: np.ndarray) -> list[int | None]:
    """Find the modality with the highest score for each label or region.

    Args:
        scores: `(K, C)`, the score of each modality without the others; NaN where a modality could not be scored.

    Returns:
        C channel numbers, the first one among equal scores; None for a label without any score.
    """
    return [None if np.isnan(column).all() else int(np.nanargmax(column)) for column in scores.T]


def most_frequent(elected: Sequence[int]) -> list[int]:
    """Return the one modality that wins the most labels; among equal ones, the winner of the earlier label.

    Args:
        elected: channel numbers, one for each label.

    Returns:
        One channel number, or none if nothing was elected.
    """
    counts = Counter(elected)  # keeps the order of the labels
    return [modality for modality, _ in counts.most_common(1)]
