"""The scores of an evaluation and the means over its cases.

If a segmentation failed, the means that would include it are not known. Comparisons cover the same cases for both
models.
"""

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from nnunet_moe.commands.evaluate.metrics import METRICS, composite_without_correlation, volume_correlation
from nnunet_moe.commands.evaluate.statistics import ratio_error
from nnunet_moe.modalities.codes import Code, code_text
from nnunet_moe.patients import groups_of
from nnunet_moe.quality.signals import SIGNALS

CSCORE = "cscore"
ISBI_SCORE = "isbi_score"
CORRELATION_WEIGHTS = {CSCORE: 1 / 8, ISBI_SCORE: 1 / 4}
"""Score of a cohort -> the weight of its volume correlation.

The first is the score of the paper, the second that of the ISBI 2015 challenge.
"""
WITHOUT_CORRELATION = "cscore_without_corr"
MEAN_OVER_LABELS = "mean over labels"
ALL_EACH_HAS: Code = ()
"""A placeholder for each case's own code: all modalities that the case has, of those that are scored."""
COLUMNS = (
    "trainer",
    "fold",
    "case",
    "code",
    "label",
    *METRICS,
    WITHOUT_CORRELATION,
    "configuration",
    "failure",
    *SIGNALS,
)


@dataclass(frozen=True)
class Mean:
    """A mean over cases; NaN if one of them failed or there are no cases."""

    mean: float
    standard_error: float
    """NaN for a single case, or for cases of a single patient."""
    cases: int
    """Number of cases for which the metric is defined."""
    failed: int

    @property
    def is_known(self) -> bool:
        return not math.isnan(self.mean)


class Results:
    """All scores of an evaluation.

    Args:
        rows: one for each trainer, fold, case, code and label, with the keys of `COLUMNS`.
        modalities: names in channel order.
        codes: the codes to score, in the order of the tables.
        trainers: the trainers, in the given order.
        dedicated: those of the trainers whose models are dedicated.
        labels: the labels of the dataset.
        cases: all cases that should be scored; by default those with a row.
        patients: case -> patient, where several cases may belong to one patient. Each other case is a separate patient.
    """

    def __init__(
        self,
        rows: Sequence[dict],
        *,
        modalities: Sequence[str],
        codes: Sequence[Code],
        trainers: Sequence[str],
        dedicated: Collection[str],
        labels: Sequence[str],
        cases: Collection[str] | None = None,
        patients: Mapping[str, str] | None = None,
    ) -> None:
        self.modalities, self.codes, self.trainers = tuple(modalities), tuple(codes), tuple(trainers)
        self.dedicated, self.labels = frozenset(dedicated), tuple(labels)
        self.table = pd.DataFrame(rows, columns=list(COLUMNS))
        composite = composite_without_correlation(
            *(self.table[name].to_numpy(dtype=float) for name in ("dsc", "ppv", "ltpr", "lfpr"))
        )
        self.table[WITHOUT_CORRELATION] = composite
        scored = set(self.table["case"])
        self.cases = tuple(sorted(scored if cases is None else cases))
        known = {case: patient for case, patient in (patients or {}).items() if case in self.cases}
        self.patients = known if len(set(known.values())) < len(known) else {}
        """Case -> patient; empty if no patient has two of the cases, because nothing depends on it then."""
        self.unscored = tuple(case for case in self.cases if case not in scored)
        """Cases that do not have all modalities of any code to score."""

    @property
    def failures(self) -> pd.DataFrame:
        """The failed segmentations, one row each: trainer, fold, case, code, failure."""
        failed = self.table[self.table["failure"] != ""]
        return failed[["trainer", "fold", "case", "code", "failure"]].drop_duplicates(ignore_index=True)

    def failures_by_reason(self) -> list[str]:
        """Return one line for each case and reason, with the number of failed segmentations."""
        counts = Counter(zip(self.failures["case"], self.failures["failure"], strict=True))
        return [
            f"{case} ({number} segmentation{'' if number == 1 else 's'}): {reason}"
            for (case, reason), number in counts.items()
        ]

    @property
    def reference_models(self) -> str | None:
        """The dedicated models that the other trainers are compared with: the first ones; None if there are none."""
        return next((trainer for trainer in self.trainers if trainer in self.dedicated), None)

    def trainings(self, trainer: str) -> list[tuple["Results", str]]:
        """Return each training of a trainer: the results that hold its scores, and its name in them."""
        return [(self, trainer)]

    @property
    def unit(self) -> str:
        """The independent units, over which standard errors and tests are: cases or patients."""
        return "patient" if self.patients else "case"

    def by_unit(self, values: pd.DataFrame) -> pd.DataFrame:
        """Average values, indexed by case, over the cases of each patient."""
        return values.groupby(groups_of(list(values.index), self.patients)).mean() if self.patients else values

    @property
    def shown_labels(self) -> tuple[str, ...]:
        """The labels; if there are several, their mean comes first."""
        return (MEAN_OVER_LABELS, *self.labels) if len(self.labels) > 1 else self.labels

    def code_text(self, code: Code) -> str:
        return "all that each case has" if code == ALL_EACH_HAS else code_text(code, self.modalities)

    @cached_property
    def own_codes(self) -> dict[str, Code]:
        """Case -> all modalities that it has, of those that are scored.

        Cases that were not scored with all of them are skipped.
        """
        codes = {self.code_text(code): code for code in self.codes}
        found = {}
        asked_for = self.table[self.table["code"].isin(list(codes))]
        for case, texts in asked_for.groupby("case")["code"].unique().items():
            own = tuple(map(any, zip(*(codes[text] for text in texts), strict=True)))
            if self.code_text(own) in texts:
                found[case] = own
        return found

    @property
    def cases_differ(self) -> bool:
        """Whether cases have different modalities, and each case was scored with all that it has."""
        return len(set(self.own_codes.values())) > 1 and len(self.own_codes) == self.table["case"].nunique()

    @cached_property
    def complete_cases(self) -> frozenset[str]:
        """The cases that have all modalities of every code that some trainer takes."""
        taken = [cases for code in self.codes if (cases := self.cases_of(code))]
        return frozenset.intersection(*taken) if taken else frozenset()

    @property
    def rows(self) -> dict[str, Code | None]:
        """Text -> code of each row with a mean.

        `ALL_EACH_HAS` is added if cases have different modalities. None stands for the mean over codes.
        """
        over_codes: dict[str, Code | None] = {"mean over codes": None} if self.complete_cases else {}
        codes = (*self.codes, ALL_EACH_HAS) if self.cases_differ else self.codes
        return {**{self.code_text(code): code for code in codes}, **over_codes}

    def cases_of(self, code: Code) -> frozenset[str]:
        """Return the cases that have the modalities of a code; no cases if no trainer takes it."""
        return frozenset(self.table["case"][self.table["code"] == self.code_text(code)])

    @property
    def unseen(self) -> tuple[str, ...]:
        """The modalities that no scored code contains."""
        seen = [code for code in self.codes if self.cases_of(code)]
        return tuple(name for place, name in enumerate(self.modalities) if not any(code[place] for code in seen))

    def values(
        self, trainer: str, code: Code, label: str, metric: str, cases: Collection[str] | None = None
    ) -> pd.Series | None:
        """Return the values of a trainer for a code, indexed by case; NaN if not defined.

        Args:
            trainer: one of the trainers.
            code: one of the codes, or `ALL_EACH_HAS`, which has values if `cases_differ`.
            label: one of the labels, or their mean over the labels for which the metric is defined.
            metric: a column of the table, or a score of the cohort. Its correlation is computed over the same cases.
            cases: only these cases; by default all that have the modalities of the code.

        Returns:
            The values; None if the trainer has no model for the code, or a case failed.
        """
        if label == MEAN_OVER_LABELS:
            parts = [self.values(trainer, code, each, metric, cases) for each in self.labels]
            return None if any(part is None for part in parts) else pd.concat(parts, axis=1).mean(axis=1)
        rows = self._rows(trainer, code, label, cases)
        if rows is None or _num_failed(rows):
            return None
        if metric not in CORRELATION_WEIGHTS:
            return rows[metric]
        return rows[WITHOUT_CORRELATION] + _volume_correlation(rows) * CORRELATION_WEIGHTS[metric]

    def correlation(self, trainer: str, code: Code, label: str) -> float:
        """Correlate predicted and reference volumes over the cases of a code; NaN if undefined or a case failed.

        For the mean over labels, return the mean of the correlations that are defined.
        """
        if label == MEAN_OVER_LABELS:
            return float(pd.Series([self.correlation(trainer, code, each) for each in self.labels]).mean())
        rows = self._rows(trainer, code, label, None)
        return math.nan if rows is None or _num_failed(rows) else _volume_correlation(rows)

    def mean(
        self, trainer: str, code: Code | None, label: str, metric: str, cases: Collection[str] | None = None
    ) -> Mean:
        """Return the mean over all cases that have the modalities of a code, or over the given cases.

        If the code is None, return `mean_over_codes`.
        """
        if code is None:
            return self.mean_over_codes(trainer, label, metric)
        values = self.values(trainer, code, label, metric, cases)
        return self._unknown(trainer, [code], cases) if values is None else self._mean(values)

    def mean_over_codes(self, trainer: str, label: str, metric: str) -> Mean:
        """Average over all codes within each case, then over the cases that have the modalities of every code."""
        by_code = [self.values(trainer, code, label, metric, self.complete_cases) for code in self.codes]
        if all(values is not None for values in by_code):
            return self._mean(pd.concat(by_code, axis=1).mean(axis=1, skipna=False))
        return self._unknown(trainer, self.codes, self.complete_cases)

    def common_means(self, trainer: str, label: str, metric: str) -> dict[Code, float]:
        """Return the known means of the codes, over the cases that have the modalities of every code."""
        means = {code: self.mean(trainer, code, label, metric, self.complete_cases) for code in self.codes}
        return {code: mean.mean for code, mean in means.items() if mean.is_known}

    def paired(
        self, first: str, second: str, code: Code, label: str, metric: str, cases: Collection[str] | None = None
    ) -> pd.DataFrame:
        """Return the values of two trainers for a code, paired by case, in columns 0 and 1.

        The result is empty if one of the trainers has no values.
        """
        series = [self.values(trainer, code, label, metric, cases) for trainer in (first, second)]
        if any(values is None for values in series):
            return pd.DataFrame({0: [], 1: []}, dtype=float)
        return pd.concat(series, axis=1, keys=(0, 1)).dropna()

    def _mean(self, values: pd.Series) -> Mean:
        defined = values.dropna()
        if not len(defined):
            return Mean(math.nan, math.nan, 0, 0)
        array = defined.to_numpy()
        if self.patients:
            groups = groups_of(list(defined.index), self.patients)
            error = ratio_error(np.bincount(groups, array), np.bincount(groups))
        else:
            error = float(array.std(ddof=1) / math.sqrt(array.size)) if array.size > 1 else math.nan
        return Mean(float(array.mean()), error, array.size, 0)

    def _unknown(self, trainer: str, codes: Sequence[Code], cases: Collection[str] | None) -> Mean:
        """Return an unknown mean with the number of failed segmentations. Each fails for all labels."""
        tables = [self._rows(trainer, code, self.labels[0], cases) for code in codes]
        return Mean(math.nan, math.nan, 0, sum(_num_failed(rows) for rows in tables if rows is not None))

    def _rows(self, trainer: str, code: Code, label: str, cases: Collection[str] | None) -> pd.DataFrame | None:
        rows = self._by_model.get((trainer, self.code_text(code), label))
        return rows if rows is None or cases is None else rows.loc[rows.index.isin(list(cases))]

    @cached_property
    def _by_model(self) -> dict[Any, pd.DataFrame]:
        """(Trainer, code, label) -> rows, indexed by case."""
        table = self.table
        if self.cases_differ:
            own = table["case"].map({case: self.code_text(code) for case, code in self.own_codes.items()})
            with_all = table[table["code"] == own].assign(code=self.code_text(ALL_EACH_HAS))
            table = pd.concat([table, with_all])
        return dict(iter(table.set_index("case").sort_index().groupby(["trainer", "code", "label"])))


def _volume_correlation(rows: pd.DataFrame) -> float:
    """Correlate the volumes over the cases in which the label was annotated."""
    volumes = rows[["volume_mm3", "reference_volume_mm3"]].dropna()
    return volume_correlation(volumes["volume_mm3"], volumes["reference_volume_mm3"])


def _num_failed(rows: pd.DataFrame) -> int:
    return int((rows["failure"] != "").sum())
