"""Tables that show published figures next to those of the study."""

import math
from collections.abc import Sequence

from nnunet_moe.commands.evaluate.results import ALL_EACH_HAS, MEAN_OVER_LABELS, Mean
from nnunet_moe.commands.evaluate.tables import IN_PERCENT, TITLES, case_notes, circles, code_cells
from nnunet_moe.commands.study.published import MEAN, OWN, Figure, Published, code_of
from nnunet_moe.commands.study.results import StudyResults
from nnunet_moe.modalities.codes import Code
from nnunet_moe.reports.table import PLAIN, UNKNOWN, Cell, Table, short_name

COPIED = "†"
MARK = (
    f"{COPIED} marks figures that were copied from a publication. They come from other trainings, and perhaps from "
    "other preprocessing, postprocessing and definitions of a metric. No test compares them with this study. Reruns of "
    "one method by different groups differ by 1 to 3 points, so smaller differences show nothing."
)


def published_tables(results: StudyResults, tables: Sequence[Published]) -> list[Table]:
    """Make the tables: for each publication its rows and ours, and then the means of all publications and ours.

    Args:
        results: the scores of the study on one set of cases.
        tables: the published tables to show next to them.
    """
    found = [_beside(results, table) for table in tables]
    by_metric = dict.fromkeys(table.metric for table in tables)
    means = [_means(results, [each for each in tables if each.metric == metric], metric) for metric in by_metric]
    return [*(table for table in means if table is not None), *found]


def _beside(results: StudyResults, table: Published) -> Table:
    """Make a table with the rows of a publication: for each label its methods, then those of the study."""
    columns = [("Modalities", name) for name in results.modalities]
    columns += [
        (label, name)
        for label in table.labels
        for name in (*(f"{method} {COPIED}" for method in table.methods), *map(short_name, results.trainers))
    ]
    rows = []
    for row in table.rows():
        code, name = _place(results, row, table.citation)
        cells = circles(code) if code else code_cells(results, name, None)
        for label in table.labels:
            cells += [Cell(_figure(of.get(label, {}).get(row))) for of in table.methods.values()]
            cells += [_own(results, trainer, code, label, table.metric) for trainer in results.trainers]
        rows.append(tuple(cells))
    title = f"{TITLES[table.metric]} next to published figures: {', '.join(table.methods)}"
    return Table(title, tuple(columns), tuple(rows), (*_notes([table]), *case_notes(results)))


def _means(results: StudyResults, tables: Sequence[Published], metric: str) -> Table | None:
    """Make a table of the means over all subsets: a row for each method, a column for each label.

    It is None if no publication gives such a mean.
    """
    labels = dict.fromkeys(label for table in tables for label in table.labels)
    rows = []
    for table in tables:
        for method, by_label in table.methods.items():
            if figures := {label: rows[MEAN] for label, rows in by_label.items() if MEAN in rows}:
                cells = [Cell(_figure(figures.get(label))) for label in labels]
                rows.append((Cell(f"{method} {COPIED}"), *cells, Cell(table.citation)))
    if not rows:
        return None
    for trainer in results.trainers:
        cells = [_own(results, trainer, None, label, metric) for label in labels]
        rows.append((Cell(short_name(trainer)), *cells, Cell("this study")))
    columns = [("", name) for name in ("Method", *labels, "Source")]
    title = f"{TITLES[metric]}, mean over subsets of the modalities"
    return Table(title, tuple(columns), tuple(rows), (*_notes(tables), *case_notes(results)))


def _place(results: StudyResults, row: str, citation: str) -> tuple[Code | None, str]:
    """Return the code of a row, None for the mean over codes, and its name."""
    if row == MEAN:
        return None, "mean over codes"
    code = ALL_EACH_HAS if row == OWN else code_of(row, results.modalities, citation)
    return code, results.code_text(code)


def _own(results: StudyResults, trainer: str, code: Code | None, label: str, metric: str) -> Cell:
    labels = (*results.labels, MEAN_OVER_LABELS)
    mean = results.mean(trainer, code, label, metric) if label in labels else Mean(math.nan, math.nan, 0, 0)
    if mean.failed:
        return Cell(f"{mean.failed} failed")
    scale = 100 if metric in IN_PERCENT else 1
    return Cell(_text(scale * mean.mean, scale * mean.standard_error), PLAIN)


def _figure(figure: Figure | None) -> str:
    return UNKNOWN if figure is None else _text(figure.value, math.nan if figure.error is None else figure.error)


def _text(value: float, error: float) -> str:
    if math.isnan(value):
        return UNKNOWN
    return f"{value:.2f}" if math.isnan(error) else f"{value:.2f} ± {error:.2f}"


def _notes(tables: Sequence[Published]) -> list[str]:
    """Return the mark's meaning, and for each publication its citation, split and note."""
    found = [MARK]
    for table in tables:
        split = f" Split: {table.split.rstrip('.')}." if table.split else ""
        note = f" {table.note.rstrip('.')}." if table.note else ""
        found.append(f"{', '.join(table.methods)}: {table.citation.rstrip('.')}.{split}{note}")
    return found
