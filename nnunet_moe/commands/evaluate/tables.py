"""The tables of an evaluation."""

import math

import pandas as pd

from nnunet_moe.commands.evaluate.analysis import MAIN_METRICS
from nnunet_moe.commands.evaluate.metrics import METRICS
from nnunet_moe.commands.evaluate.results import CSCORE, MEAN_OVER_LABELS, WITHOUT_CORRELATION, Mean, Results
from nnunet_moe.modalities.codes import Code
from nnunet_moe.patients import groups_of
from nnunet_moe.reports.table import ABSENT, PLAIN, PRESENT, UNKNOWN, Cell, Table, emphases, short_name

TITLES = {
    "dsc": "DSC",
    "ppv": "PPV",
    "sensitivity": "Sensitivity",
    "ltpr": "LTPR",
    "lfpr": "LFPR",
    "lesion_f1": "Lesion F1",
    "lesions": "Lesions",
    "reference_lesions": "Reference lesions",
    "volume_mm3": "Volume (mm³)",
    "reference_volume_mm3": "Reference volume (mm³)",
    "volume_difference_mm3": "Volume difference (mm³)",
    "volume_difference_percent": "Volume difference (%)",
    "surface_dice": "Surface Dice",
    "hd95_mm": "HD95 (mm)",
    CSCORE: "CScore",
    WITHOUT_CORRELATION: "CScore without Corr",
}
IN_PERCENT = frozenset(("dsc", "ppv", "sensitivity", "ltpr", "lfpr", "lesion_f1", "surface_dice", CSCORE))


def code_table(results: Results, label: str) -> Table:
    """Make a table as tables 2 and 3 of the paper: DSC and CScore of each trainer, with one row for each code.

    Values are the mean and standard error in percent.
    """
    columns = [("Modalities", name) for name in results.modalities] + [("", "Cases")]
    columns += [(TITLES[metric], short_name(trainer)) for metric in MAIN_METRICS for trainer in results.trainers]
    rows = [
        (*code_cells(results, text, code), *_mean_cells(results, label, code)) for text, code in results.rows.items()
    ]
    notes = [
        f"{_mean_and_error(results)}, in percent. {PRESENT} is available, {ABSENT} is missing. In each row and "
        "metric, the best trainer is bold and the second best is underlined.",
        *case_notes(results),
    ]
    notes += _cscore_notes(results, label)
    return Table(f"{label}: DSC and CScore by modalities", tuple(columns), tuple(rows), tuple(notes))


def _cscore_notes(results: Results, label: str) -> list[str]:
    """Explain why a CScore covers fewer cases or labels than the DSC."""
    shown = [(trainer, code) for trainer in results.trainers for code in results.rows.values() if code is not None]
    needs = "Its volume correlation needs at least three cases with different volumes, and no failed case."
    if not any(results.mean(*model, label, CSCORE).is_known for model in shown):
        return [f"There is no CScore. {needs}"]
    notes = []
    if any(0 < results.mean(*model, label, CSCORE).cases < results.mean(*model, label, "dsc").cases for model in shown):
        notes.append("The CScore covers only cases with lesions in their reference. means.csv shows how many.")
    if label == MEAN_OVER_LABELS and any(
        results.mean(*model, each, "dsc").is_known and not results.mean(*model, each, CSCORE).is_known
        for model in shown
        for each in results.labels
    ):
        notes.append(f"The CScore is the mean over only those labels that have one. {needs}")
    return notes


def metrics_table(results: Results, label: str) -> Table:
    """Make a table of the other metrics' means, with one row for each trainer and code."""
    metrics = [metric for metric in METRICS if metric != "dsc" and not metric.startswith("reference")]
    columns = (
        ("", "Trainer"),
        ("", "Modalities"),
        ("", "Cases"),
        *(("", TITLES[metric]) for metric in metrics),
        ("", "Volume correlation"),
    )
    rows = []
    for trainer in results.trainers:
        for code in results.codes:
            found = {metric: results.mean(trainer, code, label, metric) for metric in metrics}
            if any(mean.cases or mean.failed for mean in found.values()):
                cells = [Cell(_mean_text(mean, metric, with_error=False)) for metric, mean in found.items()]
                correlation = Cell(number(results.correlation(trainer, code, label), ".3f"))
                cases = Cell(str(len(results.cases_of(code))))
                rows.append((Cell(short_name(trainer)), Cell(results.code_text(code)), cases, *cells, correlation))
    note = (
        "Each mean is over the cases for which the metric is defined. Shares are in percent. For the definitions, see "
        "docs/explanation/metrics.md of nnunet-moe."
    )
    return Table(f"{label}: all metrics", columns, tuple(rows), (note, *case_notes(results)))


def comparison_table(comparisons: pd.DataFrame, label: str) -> Table:
    """Make a table of the paired tests between trainers."""
    names = (
        "Trainers",
        "Metric",
        "Modalities",
        "Pairs",
        "Mean difference",
        "Median",
        "Effect size",
        "p",
        "p (Holm)",
        "Gap closed (%)",
    )
    rows = [
        (
            Cell(f"{short_name(row['trainer'])} - {short_name(row['versus'])}"),
            Cell(TITLES[row["metric"]]),
            Cell(row["code"]),
            Cell(str(row["pairs"])),
            Cell(number(100 * row["mean_difference"], "+.2f")),
            Cell(number(100 * row["median_difference"], "+.2f")),
            Cell(number(row["effect_size"], "+.2f")),
            Cell(number(row["p"], ".2g")),
            Cell(number(row["p_holm"], ".2g")),
            Cell(number(row["gap_closed_percent"], ".0f")),
        )
        for row in comparisons[comparisons["label"] == label].to_dict("records")
    ]
    notes = (
        "The tests are two-sided Wilcoxon signed-rank tests over pairs. Differences are the first trainer minus the "
        "second, in percentage points. The effect size is the matched-pairs rank-biserial correlation (-1 to 1). "
        "Holm's correction is over the codes.",
        "The pairs of one case with several codes are not independent; the means of the cases are. The tests use the "
        "CScore without its volume correlation, which is one number for all cases. If a case failed, its codes are not "
        "tested, and there is no test over all codes.",
    )
    return Table(f"{label}: trainers compared", tuple(("", name) for name in names), tuple(rows), notes)


def modality_table(worth: pd.DataFrame, label: str) -> Table:
    """Make a table of what each modality is worth."""
    names = ("Trainer", "Metric", "Modality", "Drop when it alone is missing", "Score alone", "Shapley value")
    rows = [
        (
            Cell(short_name(row["trainer"])),
            Cell(TITLES[row["metric"]]),
            Cell(row["modality"]),
            *(Cell(number(100 * row[name], ".2f")) for name in ("loss_when_missing", "score_alone", "shapley_value")),
        )
        for row in worth[worth["label"] == label].to_dict("records")
    ]
    note = (
        "Values are in percentage points, over the cases that have all these modalities. The Shapley values of a "
        "trainer sum to its score with all modalities, where the score without any modality counts as 0."
    )
    return Table(f"{label}: what each modality is worth", tuple(("", name) for name in names), tuple(rows), (note,))


def failure_table(results: Results) -> Table:
    """Make a table of the segmentations that failed, with the reasons."""
    columns = ("Trainer", "Fold", "Case", "Modalities", "Reason")
    rows = tuple(tuple(Cell(str(value)) for value in row) for row in results.failures.itertuples(index=False))
    return Table(f"Failed segmentations: {len(rows)}", tuple(("", name) for name in columns), rows)


def _mean_cells(results: Results, label: str, code: Code | None) -> list[Cell]:
    """Return the number of cases, then one cell for each metric and trainer.

    If a segmentation of the row failed, no cell is marked as best.
    """
    cells, cases = [], 0
    for metric in MAIN_METRICS:
        found = [results.mean(trainer, code, label, metric) for trainer in results.trainers]
        cases = max(cases, *(mean.cases for mean in found))
        comparable = sum(mean.is_known for mean in found) > 1 and not any(mean.failed for mean in found)
        marks = emphases([mean.mean for mean in found]) if comparable else [PLAIN] * len(found)
        cells += [Cell(_mean_text(mean, metric), mark) for mean, mark in zip(found, marks, strict=True)]
    return [Cell(str(cases) if cases else UNKNOWN), *cells]


def _mean_text(mean: Mean, metric: str, *, with_error: bool = True) -> str:
    if mean.failed:
        return f"{mean.failed} failed"
    if not mean.is_known:
        return UNKNOWN
    scale = 100 if metric in IN_PERCENT else 1
    error = f" ± {scale * mean.standard_error:.2f}" if with_error and not math.isnan(mean.standard_error) else ""
    return f"{scale * mean.mean:.2f}{error}"


def _mean_and_error(results: Results) -> str:
    """Say over what means and standard errors are."""
    return f"Mean{' over cases' if results.patients else ''} ± standard error over {results.unit}s"


def case_notes(results: Results) -> list[str]:
    notes = [_patients_note(results)] if results.patients else []
    num_complete, num_cases = len(results.complete_cases), len(results.cases) - len(results.unscored)
    if num_complete < num_cases:
        over_codes = (
            f" The mean over codes covers the {num_complete} cases that have all of them." if num_complete else ""
        )
        notes.append(
            f"{num_complete or 'None'} of {num_cases} cases have all these modalities. Each row covers the cases that "
            f"have its modalities. Do not compare rows that cover different cases.{over_codes}"
        )
        if results.unseen:
            notes.append(f"These results say nothing about {', '.join(results.unseen)}: no scored code contains it.")
    if results.unscored:
        notes.append(unscored_note(results))
    if len(results.failures):
        notes.append(f"{len(results.failures)} segmentations failed. A mean that would include one is not given.")
    return notes


def _patients_note(results: Results) -> str:
    number = int(groups_of(results.cases, results.patients).max()) + 1
    return (
        f"The {len(results.cases)} cases belong to {number} patients. The cases of a patient are not independent, so "
        "standard errors and tests are over patients."
    )


def unscored_note(results: Results) -> str:
    """List the cases that were not scored."""
    cases = ", ".join(results.unscored)
    return f"Not scored, because the requested modalities are missing: {cases}."


def code_cells(results: Results, text: str, code: Code | None) -> list[Cell]:
    """Return one cell for each modality: circles for a scored code, otherwise the text of the row."""
    if code is not None and code in results.codes:
        return circles(code)
    return [Cell(text), *[Cell("")] * (len(results.modalities) - 1)]


def circles(code: Code) -> list[Cell]:
    """Return one cell for each modality of a code: a full circle if it is available, an empty one if not."""
    return [Cell(PRESENT if available else ABSENT) for available in code]


def number(value: float, form: str) -> str:
    return UNKNOWN if math.isnan(value) else f"{value:{form}}"
