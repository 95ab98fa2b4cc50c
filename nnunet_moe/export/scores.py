"""What `nnunet_moe evaluate` found for the modalities of an exported model."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from nnunet_moe.errors import ModelError
from nnunet_moe.trained import Fold, Model

SHOWN = {"dsc": "DSC", "surface_dice": "Surface Dice", "lesion_f1": "Lesion F1", "hd95_mm": "HD95 (mm)"}


@dataclass(frozen=True)
class Scores:
    """The means of one model under one code."""

    means: pd.DataFrame
    """A row a label and metric: label, metric, mean, standard_error, cases, failed."""
    cases: str
    """Which they are, in words."""
    settings: str
    """How they were predicted, in words."""

    def markdown(self) -> str:
        """A row a label; shares in per cent."""
        lines = [f"| | Cases | {' | '.join(SHOWN.values())} |", "|---" * (len(SHOWN) + 2) + "|"]
        for label, rows in self.means.groupby("label", sort=False):
            by_metric = rows.set_index("metric").to_dict("index")
            cells = [_cell(by_metric[metric], 1 if metric.endswith("_mm") else 100) for metric in SHOWN]
            lines.append(f"| {label} | {by_metric['dsc']['cases']} | {' | '.join(cells)} |")
        return "\n".join(lines)

    def dice(self) -> dict[str, float]:
        """Label -> mean Dice, 0 to 1, where there is one."""
        of_dice = self.means[(self.means["metric"] == "dsc") & self.means["mean"].notna()]
        return dict(zip(of_dice["label"], of_dice["mean"].astype(float), strict=True))


class Evaluation:
    """The output folder of `nnunet_moe evaluate`, as far as it is about one model.

    Args:
        folder: with `summary.json` and `means.csv`.
        model: what is exported.
        digests: fold -> SHA-256 of its checkpoint.

    Raises:
        ModelError: the folder holds no finished evaluation, or none of these weights.
    """

    def __init__(self, folder: Path, model: Model, digests: Mapping[Fold, str]) -> None:
        self._model = model
        try:
            self._settings: dict[str, Any] = json.loads((folder / "summary.json").read_text())["settings"]
            self._means = pd.read_csv(folder / "means.csv")
            states: dict[str, dict] = self._settings["models"]
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(
                f"{folder} holds no evaluation: {error}. Name the output folder of `nnunet_moe evaluate` by -scores."
            ) from error
        scored = {}
        for name, state in states.items():
            if name.partition(",")[0] == model.folder.name:
                scored |= state["files"]
        files = {f"{model.folder.name}/fold_{fold}/{model.checkpoint}": sha256 for fold, sha256 in digests.items()}
        if not scored.keys() & files.keys():
            raise ModelError(
                f"{folder} has no scores of these folds of {model.folder.name}. Evaluate them, or leave -scores out."
            )
        for file, sha256 in files.items():
            if scored.get(file, sha256) != sha256:
                raise ModelError(
                    f"{folder} has scores of another {file}: it was trained again since. Evaluate it again, or leave "
                    "-scores out."
                )

    def scores(self, code: str) -> Scores | None:
        """The scores under a code, given by the names of its modalities; None if there are none."""
        means = self._means[(self._means["trainer"] == self._model.trainer) & (self._means["code"] == code)]
        if not means["cases"].any():
            return None
        folds = " ".join(map(str, self._settings["folds"]))
        prediction = self._settings["prediction"]
        return Scores(
            means[["label", "metric", "mean", "standard_error", "cases", "failed"]],
            f"validation cases of fold {folds}" if self._settings["images"] is None else f"other cases, fold {folds}",
            f"Sliding window in steps of {prediction['step_size']} of a patch, "
            f"{'with' if prediction['mirroring'] else 'without'} mirroring.",
        )


def _cell(row: dict[Any, Any], factor: float) -> str:
    """A mean as text; NaN is one that is not known."""
    if math.isnan(row["mean"]):
        return f"{row['failed']} failed" if row["failed"] else "-"
    error = "" if math.isnan(row["standard_error"]) else f" ± {factor * row['standard_error']:.2f}"
    return f"{factor * row['mean']:.2f}{error}"
