"""Compare the scores of each subset of modalities with those of its supersets, and with its dedicated model."""

import math
from dataclasses import dataclass

import pandas as pd

from nnunet_moe.commands.evaluate.results import Mean, Results
from nnunet_moe.commands.evaluate.statistics import nested_pairs, share_worse
from nnunet_moe.modalities.codes import Code
from nnunet_moe.patients import groups_of

MORE_WAS_WORSE = "more_was_worse"
NESTED_PAIRS = "all nested pairs"
"""The text in place of a code in the rows of `MORE_WAS_WORSE`, which span pairs of codes."""


@dataclass(frozen=True)
class Worse:
    """How often a trainer's DSC fell when modalities were added."""

    mean: Mean
    """The share, 0 to 1, with its standard error over cases; NaN if a segmentation failed."""
    pairs: int
    """The number of pairs of scores that were compared."""


def more_was_worse(results: Results, trainer: str, label: str) -> Worse | None:
    """Compute the share of cases and nested pairs of codes in which the DSC fell by more than one point.

    The pairs of all trainings count, one after the other: means over seeds would hide falls.

    Returns:
        The share; None if no scored code contains another.
    """
    nested = nested_pairs(results.codes)
    if not nested:
        return None
    if failed := sum(results.mean(trainer, code, label, "dsc").failed for code in results.codes):
        return Worse(Mean(math.nan, math.nan, 0, failed), 0)
    changes = []
    for training, name in results.trainings(trainer):
        scores = {code: training.values(name, code, label, "dsc") for code in results.codes}
        for few, more in nested:
            before, after = scores[few], scores[more]
            if before is not None and after is not None:
                changes.append(after - before)  # aligned by case; NaN for a case without the added modalities
    by_case = pd.concat(changes, axis=1) if changes else pd.DataFrame()
    share = share_worse(by_case.to_numpy(dtype=float), groups_of(list(by_case.index), results.patients))
    return Worse(Mean(share.share, share.standard_error, share.cases, 0), share.pairs)


def difference_to_dedicated(results: Results, trainer: str, code: Code | None, label: str, metric: str) -> float:
    """Compute the mean of a trainer minus that of the dedicated models, over the cases for which both are defined.

    If the code is None, it is the difference of the means over codes. NaN for the dedicated models themselves, and if a
    mean is not known.
    """
    dedicated = results.reference_models
    if dedicated is None or dedicated == trainer:
        return math.nan
    if code is None:
        return results.mean(trainer, None, label, metric).mean - results.mean(dedicated, None, label, metric).mean
    pairs = results.paired(trainer, dedicated, code, label, metric)
    return float((pairs[0] - pairs[1]).mean())
