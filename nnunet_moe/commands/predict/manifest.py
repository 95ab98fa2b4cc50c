"""`manifest.csv` and `failures.csv`: what a reader of the predictions should know of each case."""

import codecs
import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from nnunet_moe.errors import ModelError
from nnunet_moe.reports.evaluation_folder import EvaluationFolder, Scores
from nnunet_moe.runtime.files import atomic_write

FILE, VOLUME, EXPECTED, ERROR = "file_{}", "volume_mm3_{}", "expected_dsc_{}", "dsc_standard_error_{}"
"""Columns; the volume is in mm2 in 2D."""


@dataclass(frozen=True)
class Prediction:
    """A predicted case."""

    modalities: str
    """Joined by `+`."""
    files: Mapping[str, str]
    """Modality -> its file, also of those that were not used."""
    seconds: float
    volumes: Mapping[str, float]
    """Label -> mm3 (mm2 in 2D)."""
    notes: str


@dataclass
class Manifest:
    """The predicted cases of a run, kept in a file that lists what is done at any moment.

    The first case of a run writes the whole file again and the others append a row each; `write` sorts them in the end.
    A run that is killed may leave half a row at the end, which `read` ignores.

    Args:
        file: the CSV file.
        modalities: names in channel order.
        labels: names of what is segmented.
        evaluation: where the scores to be expected come from, if there are any.
    """

    file: Path
    modalities: Sequence[str]
    labels: Sequence[str]
    evaluation: EvaluationFolder | None
    predictions: dict[str, Prediction] = field(default_factory=dict)
    _known: dict[str, dict[str, object]] = field(default_factory=dict)
    """Modalities -> what is expected of them."""
    _can_append: bool = False
    """Whether the file holds what `predictions` does."""

    def add(self, case: str, prediction: Prediction) -> None:
        """Enter a case whose files are written."""
        self.predictions[case] = prediction
        if not self._can_append:
            self.write()
            return
        row = io.StringIO(newline="")
        _table(row, self._columns()).writerow(self._row(case, prediction))
        with self.file.open("a", newline="", encoding="utf-8") as opened:
            opened.write(row.getvalue())

    def write(self) -> None:
        """Cases in alphabetical order; a cell is empty where there is nothing."""
        rows = [self._row(case, prediction) for case, prediction in sorted(self.predictions.items())]
        _write(self.file, self._columns(), rows)
        self._can_append = True

    def read(self) -> None:
        """Take over what an earlier run wrote; nothing if there is no file.

        Raises:
            ModelError: the file is none of this model's.
        """
        if not self.file.exists():
            return
        try:
            columns, *rows = _whole_rows(self.file.read_bytes())
            if columns != self._columns():
                raise ValueError(f"its columns are {', '.join(columns)}")
            of_cases = [dict(zip(columns, row, strict=True)) for row in rows]
            self.predictions = {row["case"]: self._prediction(row) for row in of_cases}
        except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
            raise ModelError(
                f"{self.file} is none that a run with this model wrote ({type(error).__name__}: {error}). Predict into "
                "another folder, or without --continue_prediction."
            ) from error

    def _columns(self) -> list[str]:
        files = [FILE.format(name) for name in self.modalities]
        values = [form.format(name) for name in self.labels for form in (VOLUME, EXPECTED, ERROR)]
        return ["case", "modalities", *files, "seconds", *values, "expected_from_cases", "notes"]

    def _row(self, case: str, prediction: Prediction) -> dict[str, object]:
        row: dict[str, object] = {"case": case, "modalities": prediction.modalities, "notes": prediction.notes}
        row["seconds"] = f"{prediction.seconds:.2f}"
        row |= {FILE.format(name): file for name, file in prediction.files.items()}
        row |= {VOLUME.format(name): f"{volume:.10g}" for name, volume in prediction.volumes.items()}
        return row | self._expected(prediction.modalities)

    def _expected(self, modalities: str) -> dict[str, object]:
        """What `evaluate` found for these modalities, if anything."""
        if modalities not in self._known:
            scores = None if self.evaluation is None else self.evaluation.scores(modalities)
            self._known[modalities] = {} if scores is None else self._columns_of(scores)
        return self._known[modalities]

    def _columns_of(self, scores: Scores) -> dict[str, object]:
        means = scores.means[(scores.means["metric"] == "dsc") & scores.means["label"].isin(self.labels)]
        found: dict[str, object] = {"expected_from_cases": int(means["cases"].max())} if len(means) else {}
        for label, mean, error in zip(means["label"], means["mean"], means["standard_error"], strict=True):
            for form, value in ((EXPECTED, mean), (ERROR, error)):
                found[form.format(label)] = "" if math.isnan(value) else value
        return found

    def _prediction(self, row: Mapping[str, str]) -> Prediction:
        return Prediction(
            row["modalities"],
            {name: file for name in self.modalities if (file := row[FILE.format(name)])},
            float(row["seconds"]),
            {name: float(volume) for name in self.labels if (volume := row[VOLUME.format(name)])},
            row["notes"],
        )


@dataclass(frozen=True)
class Failure:
    """A case that was not predicted."""

    case: str
    files: tuple[str, ...]
    reason: str


def write_failures(file: Path, failures: Sequence[Failure]) -> None:
    """The failures of a run, a row each in alphabetical order; a table without rows if there were none."""
    rows = [
        {"case": failure.case, "files": "; ".join(failure.files), "reason": failure.reason}
        for failure in sorted(failures, key=lambda failure: failure.case)
    ]
    _write(file, ["case", "files", "reason"], rows)


def _write(file: Path, columns: Sequence[str], rows: Sequence[Mapping[str, object]]) -> None:
    """A CSV file, cells empty where a row has nothing."""
    with atomic_write(file) as unfinished, unfinished.open("w", newline="", encoding="utf-8") as opened:
        table = _table(opened, columns)
        table.writeheader()
        table.writerows(rows)


def _table(opened: TextIO, columns: Sequence[str]) -> csv.DictWriter:
    return csv.DictWriter(opened, columns, lineterminator="\n")


def _whole_rows(content: bytes) -> list[list[str]]:
    """The rows of a CSV file, the columns' names first, without a last row that is not whole.

    Raises:
        ValueError: bytes that are not UTF-8, other than the first ones of a last character.
    """
    text = codecs.getincrementaldecoder("utf-8")().decode(content)
    rows = [row for row in csv.reader(io.StringIO(text, newline="")) if row]
    has_open_quote = text.count('"') % 2 == 1
    if len(rows) > 1 and (has_open_quote or not text.endswith("\n")):
        rows.pop()
    return rows
