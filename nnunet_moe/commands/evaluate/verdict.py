"""Say in one or two sentences which trainer is better, by how much, for how many subsets, and how sure this is."""

import pandas as pd

from nnunet_moe.commands.evaluate.analysis import EACH_CASE
from nnunet_moe.commands.evaluate.results import ALL_EACH_HAS, Results
from nnunet_moe.reports.table import short_name

SIGNIFICANT = 0.05
"""The p-value below which a difference is called significant."""


def verdict(results: Results, compared: pd.DataFrame, baseline: str | None = None) -> str:
    """Compare the best trainer with the baseline, or with the second best, by the DSC of the first label shown.

    Args:
        results: the scores. The mean over all subsets decides, or the mean over all cases with what each of them has
            if no case has every modality.
        compared: the table of `analysis.comparisons`.
        baseline: the trainer to compare with; by default the second best. The best one is never compared with itself.
    """
    label = results.shown_labels[0]
    code = None if results.complete_cases else ALL_EACH_HAS
    is_every = len(results.codes) == 2 ** len(results.modalities) - 1
    subsets = "all subsets" if is_every else f"the {len(results.codes)} scored subsets"
    of_what = f"over {subsets} of modalities" if code is None else "with all modalities that each case has"
    means = {trainer: results.mean(trainer, code, label, "dsc") for trainer in results.trainers}
    ranked = sorted((name for name, mean in means.items() if mean.is_known), key=lambda name: -means[name].mean)
    if not ranked:
        return f"No trainer has a DSC {of_what}: segmentations failed, or models do not take all subsets."
    best = ranked[0]
    value = f"{100 * means[best].mean:.1f} %"
    others = [trainer for trainer in ranked if trainer != best]
    if not others:
        return f"{short_name(best)} has a mean DSC of {value} {of_what} ({_count(means[best].cases, 'case')})."
    rival = baseline if baseline in others else others[0]
    rows = _against(compared, best, rival, label)
    overall = rows[rows["code"] == (EACH_CASE if code is None else results.code_text(ALL_EACH_HAS))]
    if not len(overall):
        return (
            f"{short_name(best)} has the highest mean DSC {of_what}: {value}. It cannot be compared in pairs of cases."
        )
    return f"{_overall(best, rival, of_what, overall.iloc[0], results.unit)} {_by_subset(rows, results)}".strip()


def _against(compared: pd.DataFrame, best: str, rival: str, label: str) -> pd.DataFrame:
    """Return the comparisons of two trainers in DSC, as the best minus the rival."""
    rows = compared[(compared["label"] == label) & (compared["metric"] == "dsc")]
    turned = rows[(rows["trainer"] == rival) & (rows["versus"] == best)]
    turned = turned.assign(mean_difference=-turned["mean_difference"])
    return pd.concat([rows[(rows["trainer"] == best) & (rows["versus"] == rival)], turned])


def _overall(best: str, rival: str, of_what: str, row: pd.Series, unit: str) -> str:
    """Say which trainer is better in the mean, and how sure this is; `unit` is a case or a patient."""
    first, second = short_name(best), short_name(rival)
    number = int(row["pairs"])
    difference = (
        f"{first}'s mean DSC {of_what} is {100 * row['mean_difference']:.1f} points higher than {second}'s "
        f"({_count(number, unit)}, p = {row['p']:.2g})."
    )
    if row["p"] < SIGNIFICANT:
        return f"{first} is better than {second}: {difference}"
    if 2 ** (1 - number) >= SIGNIFICANT:  # the smallest p-value of Wilcoxon's two-sided test
        return f"These {unit}s are too few to say which of {first} and {second} is better: {difference}"
    return f"The scores do not show which of {first} and {second} is better: {difference}"


def _by_subset(rows: pd.DataFrame, results: Results) -> str:
    """Say for how many subsets the first trainer is higher or lower, and for how many of them significantly."""
    of_codes = rows[rows["code"].isin([results.code_text(code) for code in results.codes])]
    if len(of_codes) < 2:
        return ""
    significant = of_codes["p_holm"] < SIGNIFICANT
    higher, lower = of_codes["mean_difference"] > 0, of_codes["mean_difference"] < 0
    text = f"It is higher for {higher.sum()} of {len(of_codes)} subsets ({(higher & significant).sum()} significantly)"
    if lower.any():
        text += f" and lower for {lower.sum()} ({(lower & significant).sum()} significantly)"
    return f"{text}."


def _count(number: int, unit: str) -> str:
    return f"1 {unit}" if number == 1 else f"{number} {unit}s"
