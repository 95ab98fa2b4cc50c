"""All that the scores of a model depend on, apart from the cases."""

import platform
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from nnunet_moe.commands.evaluate.metric_settings import MetricSettings
from nnunet_moe.models.checkpoints import versions_in
from nnunet_moe.models.choice import Fold
from nnunet_moe.models.folders import ModelFolder
from nnunet_moe.models.prediction_settings import PredictionSettings
from nnunet_moe.runtime.environment import versions
from nnunet_moe.runtime.files import digest


def state_of(
    model: ModelFolder,
    folds: Sequence[Fold],
    metrics: MetricSettings,
    prediction: PredictionSettings,
    *,
    bfloat16: bool,
) -> dict[str, Any]:
    """Return the digests of a model's files, the settings, the versions, and whether the network uses bfloat16."""
    return {
        "files": _digests(model, folds),
        "bfloat16": bfloat16,
        "metrics": asdict(metrics),
        "prediction": asdict(prediction),
        "versions": versions_of_figures(),
    }


def trained_with(model: ModelFolder, folds: Sequence[Fold]) -> dict[str, dict[str, str]]:
    """Return the versions of packages with which the checkpoint of each fold was written.

    Returns:
        Path of the checkpoint -> package -> version; without the checkpoints that do not say it. The previous stages of
        a cascade are included.
    """
    files = {str(file.relative_to(model.folder.parent)): file for file in map(model.checkpoint_file, folds)}
    found = {name: versions for name, file in files.items() if (versions := versions_in(file))}
    return found | (trained_with(model.previous_stage, folds) if model.previous_stage else {})


def versions_of_figures() -> dict[str, str]:
    """Return the versions of Python and of the packages that the scores depend on."""
    packages = versions("nnunet-moe", "nnunetv2", "torch", "numpy", "scipy", "surface-distance")
    return {"python": platform.python_version(), **packages}


def _digests(model: ModelFolder, folds: Sequence[Fold]) -> dict[str, str]:
    """Return the digests of all files of a model, including the previous stages of a cascade."""
    files = [*(model.folder / name for name in ("plans.json", "dataset.json")), *map(model.checkpoint_file, folds)]
    digests = {str(file.relative_to(model.folder.parent)): digest(file) for file in files}
    return digests | (_digests(model.previous_stage, folds) if model.previous_stage else {})
