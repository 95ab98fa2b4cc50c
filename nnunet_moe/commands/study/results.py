"""The scores of a study, averaged over the seeds of each method."""

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from nnunet_moe.commands.evaluate.results import Results
from nnunet_moe.commands.study.models import SeededRun
from nnunet_moe.errors import ModelError
from nnunet_moe.modalities.codes import Code, code_text
from nnunet_moe.runtime.json_files import load_json


class StudyResults(Results):
    """Results in which each trainer is a method of the study. The value of a case is its mean over the seeds.

    Args:
        rows: rows with the keys of `COLUMNS`. The trainer is the name of a method with a seed.
        seeds: method -> its names with each seed.
        modalities: names in channel order.
        codes: the scored codes, in the order of the tables.
        dedicated: the methods whose models are dedicated.
        labels: the labels of the dataset.
        cases: all cases that should be scored; by default those with a row.
        patients: case -> patient, where several cases may belong to one patient.
    """

    def __init__(
        self,
        rows: Sequence[dict],
        *,
        seeds: Mapping[str, Sequence[str]],
        modalities: Sequence[str],
        codes: Sequence[Code],
        dedicated: Collection[str],
        labels: Sequence[str],
        cases: Collection[str] | None = None,
        patients: Mapping[str, str] | None = None,
    ) -> None:
        methods = {name: method for method, names in seeds.items() for name in names}
        super().__init__(
            [{**row, "trainer": methods[row["trainer"]]} for row in rows],
            modalities=modalities,
            codes=codes,
            trainers=tuple(seeds),
            dedicated=dedicated,
            labels=labels,
            cases=cases,
            patients=patients,
        )
        self.seeds = dict(seeds)
        self.by_seed = Results(
            rows, modalities=modalities, codes=codes, trainers=tuple(methods), dedicated=(), labels=labels
        )
        """The same scores, where each trainer is a method with one seed."""

    def trainings(self, trainer: str) -> list[tuple[Results, str]]:
        """Return the trainings of a method with each of its seeds."""
        return [(self.by_seed, name) for name in self.seeds[trainer]]

    def values(
        self, trainer: str, code: Code, label: str, metric: str, cases: Collection[str] | None = None
    ) -> pd.Series | None:
        """Return the mean of each case's value over the seeds; None if a seed has no values."""
        by_seed = [self.by_seed.values(name, code, label, metric, cases) for name in self.seeds[trainer]]
        if any(values is None for values in by_seed):
            return None
        return pd.concat(by_seed, axis=1).mean(axis=1, skipna=False)

    def correlation(self, trainer: str, code: Code, label: str) -> float:
        """Return the mean correlation over the seeds."""
        return float(np.mean([self.by_seed.correlation(name, code, label) for name in self.seeds[trainer]]))


def read_results(
    folders: Mapping[Path, SeededRun], *, modalities: Sequence[str], codes: Sequence[Code], labels: Sequence[str]
) -> StudyResults:
    """Read the evaluations that `nnunet_moe evaluate` wrote.

    Args:
        folders: output folder of an evaluation -> its model.
        modalities: names in channel order.
        codes: the codes of the study. Only those that were scored are kept.
        labels: the labels of the dataset.

    Raises:
        ModelError: an evaluation is not finished, or the evaluations scored different cases.
    """
    rows, seeds, cases, patients = [], {}, {}, {}
    for folder, model in folders.items():
        try:
            summary = load_json(folder / "summary.json")
            names = dict.fromkeys(("trainer", "fold", "case", "code", "label", "configuration", "failure"), str)
            numbers = pd.read_csv(folder / "results.csv", nrows=0).columns.difference(list(names))
            empty = {number: [""] for number in numbers}  # names stay text, even if they look like numbers
            table = pd.read_csv(folder / "results.csv", dtype=names, keep_default_na=False, na_values=empty)
        except (OSError, ValueError) as error:
            raise ModelError(f"{folder} holds no finished evaluation ({error}). Rerun the study.") from error
        scored = {row["case"] for row in summary["metric_per_case"]} | set(summary["unscored_cases"])
        cases.setdefault(frozenset(scored), folder)
        patients |= summary.get("patients", {})  # earlier versions did not write it
        rows += table.assign(trainer=model.name).to_dict("records")
        seeds.setdefault(model.method.name, []).append(model.name)
    if len(cases) > 1:
        raise ModelError(
            f"{' and '.join(map(str, cases.values()))} scored other cases. All evaluations must score the "
            "same cases. Remove the older one and rerun the study."
        )
    scored_codes = {row["code"] for row in rows}
    return StudyResults(
        rows,
        seeds=seeds,
        modalities=modalities,
        codes=[code for code in codes if code_text(code, modalities) in scored_codes],
        dedicated={model.method.name for model in folders.values() if model.codes},
        labels=labels,
        cases=next(iter(cases), frozenset()),
        patients=patients,
    )


def seed_spread(results: StudyResults, label: str, metric: str) -> pd.DataFrame:
    """Make a table with the mean of each seed, for each method and code and over all codes.

    It also has the mean and standard deviation over the seeds. The standard deviation (divided by n - 1) is NaN for a
    single seed.
    """
    rows = []
    for method, names in results.seeds.items():
        for text, code in results.rows.items():
            means = [results.by_seed.mean(name, code, label, metric).mean for name in names]
            deviation = float(np.std(means, ddof=1)) if len(means) > 1 else math.nan
            rows.append(
                {
                    "trainer": method,
                    "code": text,
                    "label": label,
                    "metric": metric,
                    "seeds": len(means),
                    "by_seed": means,
                    "mean": float(np.mean(means)),
                    "standard_deviation": deviation,
                }
            )
    return pd.DataFrame(rows)
