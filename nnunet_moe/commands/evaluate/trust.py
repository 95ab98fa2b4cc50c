"""Calibrate the signals of trust of an evaluation, and show how well the expected DSC tells the actual one."""

from collections.abc import Iterator
from dataclasses import asdict

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from nnunet_moe.commands.evaluate.results import Results
from nnunet_moe.commands.evaluate.tables import number
from nnunet_moe.modalities.codes import code_digits
from nnunet_moe.quality.assessment import Assessment, assess
from nnunet_moe.quality.calibration import LEVEL, MIN_PATIENTS, ScoredRows
from nnunet_moe.quality.label_calibration import LabelCalibration, calibrate_label, held_out
from nnunet_moe.quality.signals import EXPECTED_DICE, SIGNALS
from nnunet_moe.reports.figures import colour, new_figure
from nnunet_moe.reports.table import Cell, Table, short_name

EXPECTED = ("expected_dsc", "dsc_low", "dsc_high", "subset_mean")
ALL_SIZES = "all"


def calibrations(results: Results) -> dict[str, dict[str, LabelCalibration]]:
    """Return trainer -> label -> calibration, for those whose signals were measured."""
    found: dict[str, dict[str, LabelCalibration]] = {trainer: {} for trainer in results.trainers}
    for trainer, label, table in _by_model(results):
        found[trainer][label] = calibrate_label(_scored_rows(table, results))
    return {trainer: by_label for trainer, by_label in found.items() if by_label}


def expectations(results: Results) -> pd.DataFrame:
    """Return what calibrations on other patients expect of each segmentation, next to its DSC.

    The table has a row for each segmentation of a trainer and label whose signals were measured: `trainer`, `fold`,
    `case`, `code`, `label`, `dsc`, and the columns in `EXPECTED`. A single patient has no rows.
    """
    tables = []
    for _, _, table in _by_model(results):
        if (found := held_out(_scored_rows(table, results))) is not None:
            values = found.expected, found.low, found.high, found.subset_mean
            about = table[["trainer", "fold", "case", "code", "label", "dsc"]]
            tables.append(about.assign(**dict(zip(EXPECTED, values, strict=True))))
    columns = ["trainer", "fold", "case", "code", "label", "dsc", *EXPECTED]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns)


def assessments(expected: pd.DataFrame, results: Results, failure_dsc: float) -> pd.DataFrame:
    """Assess the expectations, with one row for each trainer, label and number of modalities, and for all of these.

    Args:
        expected: what `expectations` returned.
        results: the results.
        failure_dsc: a DSC below this is a failure.
    """
    sizes = {results.code_text(code): str(sum(code)) for code in results.codes}
    rows = []
    for (trainer, label), table in expected.groupby(["trainer", "label"], sort=False):
        of_size = table["code"].map(sizes)
        for size in (*sorted(set(of_size), key=int), ALL_SIZES):
            chosen = table if size == ALL_SIZES else table[of_size == size]
            values = [chosen[name].to_numpy(dtype=float) for name in ("dsc", *EXPECTED)]
            found = assess(*values, codes=list(chosen["code"]), failure_dsc=failure_dsc)
            rows.append({"trainer": trainer, "label": label, "modalities": size, **asdict(found)})
    names = ["trainer", "label", "modalities", *Assessment.__dataclass_fields__]
    return pd.DataFrame(rows, columns=names)


def trust_table(assessed: pd.DataFrame, label: str, failure_dsc: float) -> Table:
    """Make a table of the assessments of a label."""
    names = (
        "Trainer", "Modalities", "Segmentations", "Error", "Error of the subset's mean", "Correlation", "Coverage (%)",
        "Width", "Failures", "AUC", "AUC of the subset's mean", "Failures found (%)",
    )  # fmt: skip
    rows = [
        (
            Cell(short_name(row["trainer"])),
            Cell(row["modalities"]),
            Cell(str(row["segmentations"])),
            Cell(number(100 * row["mean_absolute_error"], ".1f")),
            Cell(number(100 * row["error_of_subset_mean"], ".1f")),
            Cell(number(row["correlation"], ".2f")),
            Cell(number(100 * row["coverage"], ".0f")),
            Cell(number(100 * row["width"], ".0f")),
            Cell(str(row["failures"])),
            Cell(number(row["auc"], ".2f")),
            Cell(number(row["auc_of_subset_mean"], ".2f")),
            Cell(number(100 * row["found_at_few_false_alarms"], ".0f")),
        )
        for row in assessed[assessed["label"] == label].to_dict("records")
    ]
    notes = (
        "The expected DSC of each case comes from a calibration on the other patients. The error is the mean absolute "
        "difference to the actual DSC; error and width are in percentage points. The correlation is Spearman's within "
        f"a subset. The intervals should cover {100 * LEVEL:.0f} %; fewer than 9 patients cannot support that, and "
        f"fewer than {MIN_PATIENTS} have no interval.",
        f"A failure is a DSC below {failure_dsc:g}. AUC is the area under the ROC curve for finding failures by the "
        "expected DSC. The last column shows how many are found if 10 % of the other segmentations are false alarms.",
    )
    return Table(f"{label}: expected and actual DSC", tuple(("", name) for name in names), tuple(rows), notes)


def trust_figure(expected: pd.DataFrame, label: str, results: Results, failure_dsc: float) -> Figure:
    """Draw the expected against the actual DSC, one panel for each trainer, one color for each size of subset."""
    of_label = expected[expected["label"] == label]
    trainers = [trainer for trainer in results.trainers if (of_label["trainer"] == trainer).any()]
    sizes = {results.code_text(code): sum(code) for code in results.codes}
    figure = new_figure(1 + 3.4 * len(trainers), 4.2)
    for axis, trainer in zip(figure.subplots(1, len(trainers), squeeze=False)[0], trainers, strict=True):
        table = of_label[of_label["trainer"] == trainer]
        for place, size in enumerate(sorted(set(table["code"].map(sizes)))):
            chosen = table[table["code"].map(sizes) == size]
            values = chosen["expected_dsc"].to_numpy(dtype=float)
            reach = np.nan_to_num(np.abs(chosen[["dsc_low", "dsc_high"]].to_numpy(dtype=float).T - values))
            name = f"{size} modalit{'y' if size == 1 else 'ies'}"
            style = {"fmt": "o", "ms": 3, "lw": 0.4, "alpha": 0.7, "color": colour(place), "label": name}
            axis.errorbar(values, chosen["dsc"], xerr=reach, **style)
        axis.plot([0, 1], [0, 1], color="0.5", lw=0.8)
        axis.axhline(failure_dsc, color="0.5", lw=0.8, ls="--")
        axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel="expected DSC, with its interval", ylabel="actual DSC")
        axis.set_title(short_name(trainer), fontsize=9)
        axis.legend(frameon=False, fontsize=7)
    figure.suptitle(f"{label}: expected and actual DSC of patients that were left out", fontsize=10)
    return figure


def _by_model(results: Results) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Yield the rows of each trainer and label that have a DSC and signals."""
    table = results.table
    usable = table[(table["failure"] == "") & table["dsc"].notna() & table[EXPECTED_DICE].notna()]
    for trainer in results.trainers:
        for label in results.labels:
            of_model = usable[(usable["trainer"] == trainer) & (usable["label"] == label)]
            if len(of_model):
                yield trainer, label, of_model


def _scored_rows(table: pd.DataFrame, results: Results) -> ScoredRows:
    digits = {results.code_text(code): code_digits(code) for code in results.codes}
    return ScoredRows(
        [str(results.patients.get(case, case)) for case in table["case"]],
        [digits[code] for code in table["code"]],
        {name: table[name].to_numpy(dtype=float) for name in SIGNALS},
        table["dsc"].to_numpy(dtype=float),
    )
