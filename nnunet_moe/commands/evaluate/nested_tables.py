"""The tables that compare subsets of modalities with their supersets, and with their dedicated models."""

import math
from typing import Any

import pandas as pd

from nnunet_moe.commands.evaluate.nested import MORE_WAS_WORSE
from nnunet_moe.commands.evaluate.results import Results
from nnunet_moe.commands.evaluate.tables import case_notes, code_cells, number
from nnunet_moe.reports.table import UNKNOWN, Cell, Table, short_name

WORST = "worst subset"


def nested_tables(results: Results, averaged: pd.DataFrame, label: str) -> dict[str, Table]:
    """Make the tables of this module that apply to the results, by the name of their files.

    Args:
        results: the scores.
        averaged: the table of `analysis.means`.
        label: one of the labels, or their mean.
    """
    of_label = averaged[averaged["label"] == label]
    tables = {}
    if results.reference_models is not None and len(results.trainers) > 1:
        tables["dedicated"] = _dedicated_table(results, of_label[of_label["metric"] == "dsc"], label)
    if len(worse := of_label[of_label["metric"] == MORE_WAS_WORSE]):
        tables[MORE_WAS_WORSE] = _worse_table(worse, label)
    return tables


def _dedicated_table(results: Results, averaged: pd.DataFrame, label: str) -> Table:
    """Make a table of each trainer's DSC minus that of the dedicated models, with one row for each code."""
    trainers = [trainer for trainer in results.trainers if trainer != results.reference_models]
    columns = [("Modalities", name) for name in results.modalities]
    columns += [("", short_name(trainer)) for trainer in trainers]
    points = 100 * averaged.pivot(index="code", columns="trainer", values="difference_to_dedicated")
    worst = points.loc[[results.code_text(code) for code in results.codes]].min().to_dict()
    by_trainer = points.to_dict()
    rows = [
        (*code_cells(results, text, code), *(_points(by_trainer[trainer][text]) for trainer in trainers))
        for text, code in results.rows.items()
    ]
    rows.append((*code_cells(results, WORST, None), *(_points(worst[trainer]) for trainer in trainers)))
    notes = (
        f"Differences in DSC, each trainer minus {short_name(results.reference_models or '')}, in percentage points. "
        f"Each row covers the cases for which both have a score. {UNKNOWN} means that one of them has none.",
        *case_notes(results),
    )
    return Table(f"{label}: difference to dedicated models", tuple(columns), tuple(rows), notes)


def _worse_table(worse: pd.DataFrame, label: str) -> Table:
    """Make a table of how often more modalities were worse, with one row for each trainer."""
    columns = tuple(("", name) for name in ("Trainer", "More was worse (%)", "Pairs", "Cases"))
    rows = [
        (Cell(short_name(row["trainer"])), Cell(_share(row)), Cell(str(row["pairs"])), Cell(str(row["cases"])))
        for row in worse.to_dict("records")
    ]
    note = (
        "The share of pairs in which the DSC fell by more than one point when modalities were added, ± the standard "
        "error over cases. Two scored subsets of a case are a pair if one contains the other. In a study, "
        "each seed has its own pairs."
    )
    return Table(f"{label}: more was worse", columns, tuple(rows), (note,))


def _share(row: dict[Any, Any]) -> str:
    if row["failed"]:
        return f"{row['failed']} failed"
    error = "" if math.isnan(row["standard_error"]) else f" ± {100 * row['standard_error']:.1f}"
    return f"{number(100 * row['mean'], '.1f')}{error}"


def _points(value: float) -> Cell:
    return Cell(number(value, "+.2f"))
