"""Read the scores of one model from the output folder of `nnunet_moe evaluate`."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from nnunet_moe.errors import ModelError
from nnunet_moe.models.choice import Fold
from nnunet_moe.models.folders import ModelFolder
from nnunet_moe.quality.file import FILE as QUALITY
from nnunet_moe.quality.file import read_calibrations
from nnunet_moe.quality.label_calibration import LabelCalibration
from nnunet_moe.reports.table import markdown_table
from nnunet_moe.runtime.files import digest
from nnunet_moe.runtime.json_files import load_json

SHOWN = {"dsc": "DSC", "surface_dice": "Surface Dice", "lesion_f1": "Lesion F1", "hd95_mm": "HD95 (mm)"}


@dataclass(frozen=True)
class Scores:
    """The mean scores of one model for one code."""

    means: pd.DataFrame
    """One row for each label and metric: label, metric, mean, standard_error, cases, failed."""
    cases: str
    """The scored cases, in words."""
    settings: str
    """The settings of the prediction, in words."""

    def markdown(self) -> str:
        """Return the scores as a Markdown table with one row for each label, with shares in percent."""
        lines = []
        for label, rows in self.means.groupby("label", sort=False):
            by_metric = rows.set_index("metric").to_dict("index")
            cells = [_cell(by_metric[metric], 1 if metric.endswith("_mm") else 100) for metric in SHOWN]
            lines.append([str(label), str(by_metric["dsc"]["cases"]), *cells])
        return markdown_table(["", "Cases", *SHOWN.values()], lines)


class EvaluationFolder:
    """The scores of one model in the output folder of `nnunet_moe evaluate`.

    Args:
        folder: the folder with `summary.json` and `means.csv`.
        model: the model.
        folds: the folds of the model. All scored folds must be among them. An ensemble must have exactly these folds.

    Raises:
        ModelError: the folder holds no finished evaluation, or none of these folds and weights.
    """

    def __init__(self, folder: Path, model: ModelFolder, folds: Sequence[Fold]) -> None:
        self._model, self._folder = model, folder
        try:
            settings = load_json(folder / "summary.json")["settings"]
            scored_folds, self._is_validation = settings["folds"], settings["images"] is None
            self._prediction, states = settings["prediction"], settings["models"]
            self._means = _read_means(folder / "means.csv")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelError(
                f"-scores {folder} holds no evaluation that can be read ({type(error).__name__}: {error}). Give the "
                "output folder of `nnunet_moe evaluate`. If an older version wrote it, rerun the evaluation."
            ) from error
        own = [state for name, state in states.items() if name.partition(",")[0] == model.folder.name]
        fits = set(scored_folds) <= set(folds) if self._is_validation else set(scored_folds) == set(folds)
        if not own or not fits:
            raise ModelError(
                f"-scores {folder} has scores of {', '.join(states)}, but not of the requested {model.folder.name}, "
                f"fold {_words(folds)}. Choose the same folds with -f, evaluate these folds, or omit -scores."
            )
        self._folds, self._is_half = scored_folds, any(state["bfloat16"] for state in own)
        scored = {file: sha256 for state in own for file, sha256 in state["files"].items()}
        for file in (model.folder / "plans.json", *map(model.checkpoint_file, scored_folds)):
            if scored.get(str(file.relative_to(model.folder.parent))) != digest(file):
                raise ModelError(
                    f"-scores {folder} has scores of another {file}. The file has changed since, or another checkpoint "
                    "was scored. Rerun the evaluation, or omit -scores."
                )

    def differences(self, *, step_size: float, mirroring: bool) -> list[str]:
        """List the scored settings from which a prediction with these settings differs, in words."""
        now = {"step_size": step_size, "mirroring": mirroring}
        return [f"{name} {self._prediction[name]}" for name, value in now.items() if self._prediction[name] != value]

    @property
    def calibrations(self) -> dict[str, LabelCalibration]:
        """Label -> what tells the expected DSC of a single case; empty if the evaluation measured no signals of trust.

        Raises:
            FileError: the file of the calibrations cannot be read.
        """
        return read_calibrations(self._folder / QUALITY, self._model.trainer)

    def scores(self, code: str) -> Scores | None:
        """Return the scores for a code, given by the names of its modalities; None if it was not scored."""
        means = self._means[(self._means["trainer"] == self._model.trainer) & (self._means["code"] == code)]
        if not (means["cases"] + means["failed"]).any():
            return None
        how = "with" if self._prediction["mirroring"] else "without"
        precision = ", in bfloat16" if self._is_half else ""
        return Scores(
            means[["label", "metric", "mean", "standard_error", "cases", "failed"]],
            f"{'validation cases' if self._is_validation else 'other cases'}, fold {_words(self._folds)}",
            f"Predicted on {self._prediction['device']}{precision}, {how} mirroring, in steps of "
            f"{self._prediction['step_size']} of a patch.",
        )


def _read_means(file: Path) -> pd.DataFrame:
    """Read the means. Names stay text, even if they look like numbers; an empty number is NaN."""
    names = dict.fromkeys(("trainer", "code", "label", "metric"), str)
    numbers = ("mean", "standard_error")
    means = pd.read_csv(file, dtype=names, keep_default_na=False, na_values={number: [""] for number in numbers})
    if missing := {*names, *numbers, "cases", "failed"} - set(means.columns):
        raise ValueError(f"{file} has no columns {', '.join(sorted(missing))}")
    if missing := SHOWN.keys() - set(means["metric"]):
        raise ValueError(f"{file} has no rows of {', '.join(sorted(missing))}")
    return means


def _words(folds: Sequence[Fold]) -> str:
    return ", ".join(map(str, folds))


def _cell(row: dict[Any, Any], factor: float) -> str:
    """Return a mean as text; NaN means that it is not known."""
    if math.isnan(row["mean"]):
        return f"{row['failed']} failed" if row["failed"] else "-"
    error = "" if math.isnan(row["standard_error"]) else f" ± {factor * row['standard_error']:.2f}"
    return f"{factor * row['mean']:.2f}{error}"
