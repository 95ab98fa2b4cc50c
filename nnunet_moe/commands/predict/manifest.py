"""`manifest.csv` and `failures.csv`: what a reader of the predictions should know of each case."""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

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
    """The predicted cases of a run, kept in a file that is whole at any moment.

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

    def add(self, case: str, prediction: Prediction) -> None:
        self.predictions[case] = prediction
        self.write()

    def write(self) -> None:
        """Cases in alphabetical order; a cell is empty where there is nothing."""
        rows = [self._row(case, prediction) for case, prediction in sorted(self.predictions.items())]
        _write(self.file, self._columns(), rows)

    def read(self) -> None:
        """Take over what an earlier run wrote; nothing if there is no file.

        Raises:
            ModelError: the file is none of this model's.
        """
        if not self.file.exists():
            return
        try:
            with self.file.open(newline="", encoding="utf-8") as opened:
                table = csv.DictReader(opened)
                if table.fieldnames != self._columns():
                    raise ValueError(f"its columns are {', '.join(table.fieldnames or ())}")
                self.predictions = {row["case"]: self._prediction(row) for row in table}
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
        table = csv.DictWriter(opened, columns, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
