"""Compare the versions of packages with which the models of a study were trained and evaluated."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnunet_moe.commands.study.models import SeededRun
from nnunet_moe.reports.table import short_name
from nnunet_moe.runtime.environment import TRAINING_PACKAGES
from nnunet_moe.runtime.json_files import read_json


def version_warnings(folders: Mapping[Path, SeededRun]) -> list[str]:
    """Return one sentence for each package whose versions differ between the models of a study.

    What earlier versions did not record is not compared.

    Args:
        folders: output folder of an evaluation -> its model.

    Raises:
        FileError: the summary of an evaluation cannot be read.
    """
    models = {model.name: read_json(folder / "summary.json").get("settings", {}) for folder, model in folders.items()}
    return [
        f"The models were {what} with different versions of {package}: {_listed(found)}. Differences between their "
        "scores may come from this."
        for what, versions_of in (("trained", _of_trainings), ("evaluated", _of_evaluation))
        for package in TRAINING_PACKAGES
        if len(found := _by_version(package, {name: versions_of(each) for name, each in models.items()})) > 1
    ]


def _of_trainings(settings: Mapping[str, Any]) -> list[Mapping[str, str]]:
    """Return the versions from each checkpoint."""
    models = settings.get("models", {}).values()
    return [versions for model in models for versions in model.get("trained_with", {}).values()]


def _of_evaluation(settings: Mapping[str, Any]) -> list[Mapping[str, str]]:
    return [settings.get("versions", {})]


def _by_version(package: str, models: Mapping[str, list[Mapping[str, str]]]) -> dict[str, list[str]]:
    """Return version -> the models that used it."""
    found: dict[str, list[str]] = {}
    for name, recorded in models.items():
        for version in dict.fromkeys(versions[package] for versions in recorded if package in versions):
            found.setdefault(version, []).append(short_name(name))
    return found


def _listed(models: Mapping[str, list[str]]) -> str:
    return "; ".join(f"{version} ({', '.join(names)})" for version, names in models.items())
