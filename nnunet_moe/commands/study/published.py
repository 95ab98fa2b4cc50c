"""Tables of other publications, as a study's file gives them.

They are copied figures: the study shows them next to its own, and never tests against them.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_moe.commands.evaluate.metrics import METRICS
from nnunet_moe.commands.evaluate.results import CSCORE, MEAN_OVER_LABELS
from nnunet_moe.commands.study.values import checked, filled_list, is_number, load_yaml, path_in, text
from nnunet_moe.errors import ModalityError, SettingsError
from nnunet_moe.modalities.codes import Code, parse_code

MEAN, OWN = "mean", "own"
"""Names of rows that are no subset: the mean over all subsets, and each case with all its modalities."""
METRIC_NAMES = (*METRICS, CSCORE)


@dataclass(frozen=True)
class Figure:
    """A copied figure."""

    value: float
    """As printed, so mostly in percent."""
    error: float | None = None
    """The standard error, if the publication gives it."""


@dataclass(frozen=True)
class Published:
    """A table of a publication, for one metric."""

    citation: str
    methods: Mapping[str, Mapping[str, Mapping[str, Figure]]]
    """Method -> label -> row -> figure. A row is a subset of the modalities, `mean` or `own`."""
    metric: str = "dsc"
    split: str = ""
    """Which cases were for training and for the test, in words."""
    note: str = ""
    order: tuple[str, ...] = ()
    """The rows in the order of the publication."""
    cases: str | None = None
    """The set of cases of the study that it is shown next to. None: all."""

    @property
    def labels(self) -> list[str]:
        """The labels with figures."""
        return list(dict.fromkeys(label for by_label in self.methods.values() for label in by_label))

    def rows(self) -> list[str]:
        """Return the rows in the order of the table; `own` and `mean` come last."""
        found = dict.fromkeys(row for by_label in self.methods.values() for rows in by_label.values() for row in rows)
        subsets = [row for row in dict.fromkeys((*self.order, *found)) if row not in (MEAN, OWN)]
        return [*subsets, *(row for row in (OWN, MEAN) if row in found)]


def read_published(value: Any, key: str, folder: Path) -> tuple[Published, ...]:
    """Read the published tables of a study: a list of tables, or of YAML files with such lists.

    Args:
        value: what the study's file has for the key.
        key: the key, for errors.
        folder: the folder at which relative paths start.

    Raises:
        SettingsError: a file is missing, a key is unknown or a value is not allowed.
    """
    tables = []
    for entry in filled_list(value, key):
        if isinstance(entry, str):
            file = path_in(folder, entry)
            content = load_yaml(file, "a YAML file with published tables")
            tables += [_table(each, f"{file}, an entry") for each in filled_list(content, str(file))]
        else:
            tables.append(_table(entry, f"an entry of {key}"))
    return tuple(tables)


def require_known(tables: Sequence[Published], modalities: Sequence[str], labels: Collection[str]) -> None:
    """Make sure that published tables name labels and subsets of the dataset.

    Raises:
        SettingsError: they do not.
    """
    known = {*labels, MEAN_OVER_LABELS}
    for table in tables:
        if unknown := [label for label in table.labels if label not in known]:
            raise SettingsError(
                f"published has figures for {unknown[0]!r} ({table.citation}). The dataset has {', '.join(labels)}. "
                f"Use these names, or {MEAN_OVER_LABELS!r}."
            )
        for row in table.rows():
            if row not in (MEAN, OWN):
                code_of(row, modalities, table.citation)


def code_of(row: str, modalities: Sequence[str], citation: str) -> Code:
    """Return the subset of a row.

    Raises:
        SettingsError: it is no subset of the modalities.
    """
    try:
        return parse_code(row, modalities)
    except ModalityError as error:
        raise SettingsError(f"published, {citation}: {error}") from error


def _table(given: Any, where: str) -> Published:
    keys = {
        "citation": text,
        "methods": _methods,
        "metric": _metric,
        "split": text,
        "note": text,
        "order": lambda value, key: tuple(str(row) for row in filled_list(value, key)),
        "cases": text,
    }
    try:
        return Published(**checked(given, where, keys, required=("citation", "methods")))
    except SettingsError as error:
        raise SettingsError(f"{where}: {error}") from error


def _metric(value: Any, key: str) -> str:
    if value not in METRIC_NAMES:
        raise SettingsError(f"{key} is {value!r}. It must be one of {', '.join(METRIC_NAMES)}.")
    return value


def _methods(value: Any, key: str) -> dict[str, dict[str, dict[str, Figure]]]:
    if not isinstance(value, dict) or not value:
        raise SettingsError(f"{key} is {value!r}. It must be an object: METHOD: {{LABEL: {{SUBSET: figure}}}}.")
    return {text(method, "a method"): _labels(labels, f"{key} {method!r}") for method, labels in value.items()}


def _labels(value: Any, where: str) -> dict[str, dict[str, Figure]]:
    if not isinstance(value, dict) or not value:
        raise SettingsError(f"{where} is {value!r}. It must be an object: LABEL: {{SUBSET: figure}}.")
    found = {}
    for label, rows in value.items():
        if not isinstance(rows, dict) or not rows:
            raise SettingsError(f"{where}, {label!r} is {rows!r}. It must be an object: SUBSET: figure.")
        found[str(label)] = {str(row): _figure(figure, f"{where}, {label!r}, {row}") for row, figure in rows.items()}
    return found


def _figure(value: Any, where: str) -> Figure:
    numbers = value if isinstance(value, list) else [value]
    if not 1 <= len(numbers) <= 2 or not all(map(is_number, numbers)):
        raise SettingsError(f"{where} is {value!r}. It must be a number, or [number, standard error].")
    return Figure(*map(float, numbers))
