"""Write `manifest.csv` and `failures.csv`, which list the predicted cases and the failed ones."""

import codecs
import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from nnunet_moe.commands.predict.trust import DOUBTFUL, Trust
from nnunet_moe.errors import ModelError
from nnunet_moe.images.alignment.aligned import COLUMNS
from nnunet_moe.reports.evaluation_folder import EvaluationFolder, Scores
from nnunet_moe.runtime.files import atomic_write, open_text

FILE, VOLUME, EXPECTED, ERROR = "file_{}", "volume_mm3_{}", "expected_dsc_{}", "dsc_standard_error_{}"
"""Names of columns. In 2D the volume is in mm2."""


@dataclass(frozen=True)
class Prediction:
    """A predicted case."""

    modalities: str
    """Joined by `+`."""
    files: Mapping[str, str]
    """Modality -> its file, including files that were not used."""
    seconds: float
    volumes: Mapping[str, float]
    """Label -> mm3 (mm2 in 2D)."""
    notes: str
    alignments: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Modality -> column of `COLUMNS` -> text; empty if files were used as they are."""
    trust: Mapping[str, str] = field(default_factory=dict)
    """Column -> text, as `Trust.cells` returns them; empty if nothing was measured."""


@dataclass
class Manifest:
    """The predicted cases of a run, and the file that lists them at any moment.

    The first case of a run rewrites the whole file, and each further case appends a row. At the end, `write` sorts the
    rows. A killed run may leave an incomplete last row, which `read` ignores.

    Args:
        file: the CSV file.
        modalities: names in channel order.
        labels: names of the labels or regions.
        evaluation: the evaluation that provides the expected scores, or None.
        is_aligned: whether the table says how each file was aligned.
        trust: what says how far each case can be trusted, or None.
    """

    file: Path
    modalities: Sequence[str]
    labels: Sequence[str]
    evaluation: EvaluationFolder | None
    is_aligned: bool = False
    trust: Trust | None = None
    predictions: dict[str, Prediction] = field(default_factory=dict)
    _known: dict[str, dict[str, object]] = field(default_factory=dict)
    """Modalities -> the columns with the expected scores."""
    _can_append: bool = False
    """Whether the file already lists the same cases as `predictions`."""

    def add(self, case: str, prediction: Prediction) -> None:
        """Add a case after its files were written."""
        self.predictions[case] = prediction
        if not self._can_append:
            self.write()
            return
        row = io.StringIO(newline="")
        _table(row, self._columns()).writerow(self._row(case, prediction))
        with open_text(self.file, "a") as opened:
            opened.write(row.getvalue())

    def write(self) -> None:
        """Write all cases in alphabetical order; cells without a value are empty."""
        rows = [self._row(case, prediction) for case, prediction in sorted(self.predictions.items())]
        _write(self.file, self._columns(), rows)
        self._can_append = True

    def read(self) -> None:
        """Read the cases of an earlier run, if the file exists.

        Raises:
            ModelError: a run with another model wrote the file.
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
                f"{self.file} was not written by a run with this model ({type(error).__name__}: {error}). Predict into "
                "another folder, or without --continue_prediction."
            ) from error

    def _columns(self) -> list[str]:
        files = [FILE.format(name) for name in self.modalities]
        values = [form.format(name) for name in self.labels for form in (VOLUME, EXPECTED, ERROR)]
        return [
            *("case", "modalities", *files, "seconds", *values, "expected_from_cases", "notes"),
            *self._alignment_columns(),
            *self._trust_columns(),
        ]

    def _trust_columns(self) -> list[str]:
        return [] if self.trust is None else self.trust.columns(self.labels)

    def _alignment_columns(self) -> list[str]:
        return [f"{column}_{name}" for name in self.modalities for column in COLUMNS] if self.is_aligned else []

    def _row(self, case: str, prediction: Prediction) -> dict[str, object]:
        row: dict[str, object] = {"case": case, "modalities": prediction.modalities, "notes": prediction.notes}
        row["seconds"] = f"{prediction.seconds:.2f}"
        row |= {FILE.format(name): file for name, file in prediction.files.items()}
        row |= {VOLUME.format(name): f"{volume:.10g}" for name, volume in prediction.volumes.items()}
        for name, alignment in prediction.alignments.items():
            row |= {f"{column}_{name}": text for column, text in alignment.items()}
        if self.trust is not None:
            row |= {**prediction.trust, DOUBTFUL: self.trust.doubtful(prediction.trust)}
        return row | self._expected(prediction.modalities)

    def _expected(self, modalities: str) -> dict[str, object]:
        """Return the columns with the scores that `evaluate` found for these modalities, if any."""
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
            self._alignments(row),
            {column: row[column] for column in self._trust_columns() if column != DOUBTFUL},
        )

    def _alignments(self, row: Mapping[str, str]) -> dict[str, dict[str, str]]:
        if not self.is_aligned:
            return {}
        found = {name: {column: row[f"{column}_{name}"] for column in COLUMNS} for name in self.modalities}
        return {name: alignment for name, alignment in found.items() if alignment[COLUMNS[0]]}


@dataclass(frozen=True)
class Failure:
    """A case that was not predicted."""

    case: str
    files: tuple[str, ...]
    reason: str


def write_failures(file: Path, failures: Sequence[Failure]) -> None:
    """Write one row per failure in alphabetical order; without failures, only the header."""
    rows = [
        {"case": failure.case, "files": "; ".join(failure.files), "reason": failure.reason}
        for failure in sorted(failures, key=lambda failure: failure.case)
    ]
    _write(file, ["case", "files", "reason"], rows)


def _write(file: Path, columns: Sequence[str], rows: Sequence[Mapping[str, object]]) -> None:
    """Write a CSV file; cells without a value are empty."""
    with atomic_write(file) as unfinished, open_text(unfinished, "w") as opened:
        table = _table(opened, columns)
        table.writeheader()
        table.writerows(rows)


def _table(opened: TextIO, columns: Sequence[str]) -> csv.DictWriter:
    return csv.DictWriter(opened, columns, lineterminator="\n")


def _whole_rows(content: bytes) -> list[list[str]]:
    """Return the rows of a CSV file, starting with the header, without an incomplete last row.

    Raises:
        ValueError: the bytes are not UTF-8. An incomplete last character is allowed.
    """
    text = codecs.getincrementaldecoder("utf-8")().decode(content)
    rows = [row for row in csv.reader(io.StringIO(text, newline="")) if row]
    has_open_quote = text.count('"') % 2 == 1
    if len(rows) > 1 and (has_open_quote or not text.endswith("\n")):
        rows.pop()
    return rows
