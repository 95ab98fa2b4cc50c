"""`manifest.csv` and `failures.csv`: what a reader of the predictions should know of each case."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from nnunet_moe.errors import ModelError
from nnunet_moe.evaluation.folder import EvaluationFolder
from nnunet_moe.files import written_whole

FILE, VOLUME, EXPECTED = "file_{}", "volume_mm3_{}", "expected_dsc_{}"


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

    def add(self, case: str, prediction: Prediction) -> None:
        self.predictions[case] = prediction
        self.write()

    def write(self) -> None:
        """Cases in alphabetical order; a cell is empty where there is nothing."""
        rows = [self._row(case, prediction) for case, prediction in sorted(self.predictions.items())]
        with written_whole(self.file) as unfinished:
            pd.DataFrame(rows, columns=list(self._columns())).to_csv(unfinished, index=False)

    def read(self) -> None:
        """Take over what an earlier run wrote; nothing if there is no file.

        Raises:
            ModelError: the file is none of this model's.
        """
        if not self.file.exists():
            return
        try:
            table = pd.read_csv(self.file, dtype=str, keep_default_na=False)
            rows = (dict(zip(table.columns, values, strict=True)) for values in table.to_numpy())
            self.predictions = {row["case"]: self._prediction(row) for row in rows}
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(
                f"{self.file} is none that a run with this model wrote ({type(error).__name__}: {error}). Predict into "
                "another folder, or without --continue_prediction."
            ) from error

    def _columns(self) -> list[str]:
        files = [FILE.format(name) for name in self.modalities]
        values = [form.format(name) for name in self.labels for form in (VOLUME, EXPECTED, f"{EXPECTED}_se")]
        return ["case", "modalities", *files, "seconds", *values, "expected_from_cases", "notes"]

    def _row(self, case: str, prediction: Prediction) -> dict[str, object]:
        row: dict[str, object] = {"case": case, "modalities": prediction.modalities, "notes": prediction.notes}
        row["seconds"] = f"{prediction.seconds:.2f}"
        row |= {FILE.format(name): file for name, file in prediction.files.items()}
        row |= {VOLUME.format(name): f"{volume:.10g}" for name, volume in prediction.volumes.items()}
        scores = None if self.evaluation is None else self.evaluation.scores(prediction.modalities)
        if scores is not None:
            means = scores.means[scores.means["metric"] == "dsc"]
            row["expected_from_cases"] = int(means["cases"].max())
            for _, mean in means.iterrows():
                row[EXPECTED.format(mean["label"])] = mean["mean"]
                row[f"{EXPECTED.format(mean['label'])}_se"] = mean["standard_error"]
        return row

    def _prediction(self, row: Mapping[str, str]) -> Prediction:
        return Prediction(
            row["modalities"],
            {name: file for name in self.modalities if (file := row[FILE.format(name)])},
            float(row["seconds"]),
            {name: float(row[VOLUME.format(name)]) for name in self.labels},
            row["notes"],
        )


@dataclass(frozen=True)
class Failure:
    """A case that was not predicted."""

    case: str
    files: tuple[str, ...]
    reason: str


def write_failures(file: Path, failures: Sequence[Failure]) -> None:
    """The failures of a run, a row each; a table without rows if there were none."""
    rows = [(failure.case, "; ".join(failure.files), failure.reason) for failure in failures]
    with written_whole(file) as unfinished:
        pd.DataFrame(rows, columns=["case", "files", "reason"]).to_csv(unfinished, index=False)
