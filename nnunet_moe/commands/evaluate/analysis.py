"""Compare trainers in pairs, and compute what each modality is worth, as tables of numbers."""

import math
from collections.abc import Collection, Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from nnunet_moe.commands.evaluate.metrics import METRICS
from nnunet_moe.commands.evaluate.nested import (
    MORE_WAS_WORSE,
    NESTED_PAIRS,
    difference_to_dedicated,
    more_was_worse,
)
from nnunet_moe.commands.evaluate.results import ALL_EACH_HAS, CORRELATION_WEIGHTS, CSCORE, WITHOUT_CORRELATION, Results
from nnunet_moe.commands.evaluate.statistics import (
    compare,
    gap_closed,
    holm,
    loss_when_missing,
    score_alone,
    shapley_values,
)
from nnunet_moe.modalities.codes import Code

MAIN_METRICS = ("dsc", CSCORE)
"""The metrics of the paper's tables. They are also analyzed by modality."""
COMPARED_METRICS = ("dsc", WITHOUT_CORRELATION)
"""The metrics of the paired tests.

The tests need one value for each case. The CScore's volume correlation is one number for all cases, and would decide a
test.
"""
EACH_CASE_AND_CODE = "all codes of both, each case and code"
EACH_CASE = "all codes of both, each case's mean"


def means(results: Results) -> pd.DataFrame:
    """Make a table of means, with one row for each trainer, code, label and metric.

    If codes are nested, each trainer and label has one more row: how often more modalities were worse.
    """
    rows = []
    for label in results.shown_labels:
        for trainer in results.trainers:
            for metric in (*METRICS, WITHOUT_CORRELATION, *CORRELATION_WEIGHTS):
                for text, code in results.rows.items():
                    about = {"trainer": trainer, "code": text, "label": label, "metric": metric}
                    difference = difference_to_dedicated(results, trainer, code, label, metric)
                    mean = results.mean(trainer, code, label, metric)
                    rows.append({**about, **vars(mean), "difference_to_dedicated": difference})
            if (worse := more_was_worse(results, trainer, label)) is not None:
                about = {"trainer": trainer, "code": NESTED_PAIRS, "label": label, "metric": MORE_WAS_WORSE}
                rows.append({**about, **vars(worse.mean), "pairs": worse.pairs})
    columns = ["trainer", "code", "label", "metric", "mean", "standard_error", "cases", "failed"]
    table = pd.DataFrame(rows, columns=[*columns, "difference_to_dedicated", "pairs"])
    return table.astype({"pairs": "Int64"})


def comparisons(results: Results, pairs: Sequence[tuple[str, str]] | None = None) -> pd.DataFrame:
    """Compare pairs of trainers (by default all) for each label, metric and code, and over all codes.

    Differences are the first trainer minus the second. `p_holm` is corrected over the codes of one pair, label and
    metric. If there are dedicated models, `gap_closed_percent` is the share of the gap from the second trainer to them
    that the first trainer closes. If patients have several cases, a pair is a patient, with the means over its cases.
    """
    rows = []
    for first, second in combinations(results.trainers, 2) if pairs is None else pairs:
        for label in results.shown_labels:
            for metric in COMPARED_METRICS:
                rows.extend(_compare_pair(results, first, second, label, metric))
    columns = ["trainer", "versus", "label", "metric", "code", "pairs", "mean_difference", "median_difference"]
    return pd.DataFrame(rows, columns=[*columns, "effect_size", "p", "p_holm", "gap_closed_percent"])


def modality_worth(results: Results) -> pd.DataFrame:
    """Compute for each trainer and modality the drop when it is missing, the score with only it, and its Shapley value.

    All values cover the cases that have the modalities of every code. A value is NaN if a code for it was not scored.
    """
    rows = []
    for trainer in results.trainers:
        for label in results.shown_labels:
            for metric in MAIN_METRICS:
                scores = results.common_means(trainer, label, metric)
                if not scores:
                    continue
                for modality, (name, shapley) in enumerate(
                    zip(results.modalities, shapley_values(scores), strict=True)
                ):
                    rows.append(
                        {
                            "trainer": trainer,
                            "label": label,
                            "metric": metric,
                            "modality": name,
                            "loss_when_missing": loss_when_missing(scores, modality),
                            "score_alone": score_alone(scores, modality),
                            "shapley_value": shapley,
                        }
                    )
    columns = ["trainer", "label", "metric", "modality", "loss_when_missing", "score_alone", "shapley_value"]
    return pd.DataFrame(rows, columns=columns)


def _compare_pair(results: Results, first: str, second: str, label: str, metric: str) -> list[dict]:
    by_code = {code: results.paired(first, second, code, label, metric) for code in results.codes}
    by_code = {code: pairs for code, pairs in by_code.items() if len(pairs)}
    if not by_code:
        return []
    scopes = {results.code_text(code): pairs for code, pairs in by_code.items()}
    gaps = {results.code_text(code): _gap(results, first, second, [code], label, metric, None) for code in by_code}
    has_failed = any(
        results.mean(trainer, code, label, metric).failed for trainer in (first, second) for code in results.codes
    )
    if not has_failed:  # rows over several codes are given only if they cover all codes
        of_complete = [results.paired(first, second, code, label, metric, results.complete_cases) for code in by_code]
        each_case = pd.concat(of_complete).groupby(level=0).mean()
        with_all = results.paired(first, second, ALL_EACH_HAS, label, metric)
        each_code = pd.concat([results.by_unit(pairs) for pairs in of_complete])
        spanning = {results.code_text(ALL_EACH_HAS): with_all, EACH_CASE_AND_CODE: each_code}
        scopes = {**spanning, EACH_CASE: each_case, **scopes}
        gaps[EACH_CASE] = _gap(results, first, second, list(by_code), label, metric, results.complete_cases)
    rows = []
    for scope, pairs in scopes.items():
        units = pairs if scope == EACH_CASE_AND_CODE else results.by_unit(pairs)
        comparison = compare(units[0].to_numpy(), units[1].to_numpy())
        if comparison is None:
            continue
        about = {"trainer": first, "versus": second, "label": label, "metric": metric, "code": scope}
        rows.append({**about, **vars(comparison), "p_holm": math.nan, "gap_closed_percent": gaps.get(scope, math.nan)})
    of_codes = [row for row in rows if row["code"] in gaps and row["code"] != EACH_CASE]
    for row, corrected in zip(of_codes, holm([row["p"] for row in of_codes]), strict=True):
        row["p_holm"] = corrected
    return rows


def _gap(
    results: Results,
    first: str,
    second: str,
    codes: list[Code],
    label: str,
    metric: str,
    cases: Collection[str] | None,
) -> float:
    """Compute the closed gap from means over the same cases and codes; NaN unless each code has a dedicated model."""
    dedicated = results.reference_models
    if dedicated is None or dedicated in (first, second):
        return math.nan
    triples = []
    for code in codes:
        means = [results.mean(trainer, code, label, metric, cases) for trainer in (first, second, dedicated)]
        if all(mean.is_known for mean in means):
            triples.append([mean.mean for mean in means])
    return gap_closed(*np.mean(triples, axis=0)) if len(triples) == len(codes) else math.nan
