"""Read and write `quality.json`, the calibrations of all trainers of an evaluation."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnunet_moe.errors import FileError
from nnunet_moe.quality.label_calibration import LabelCalibration
from nnunet_moe.runtime.json_files import read_json

FILE = "quality.json"
VERSION = 1


def as_json(calibrations: Mapping[str, Mapping[str, LabelCalibration]]) -> dict[str, Any]:
    """Return the content of the file.

    Args:
        calibrations: trainer -> label -> calibration.
    """
    return {
        "version": VERSION,
        "trainers": {
            trainer: {label: calibration.as_json() for label, calibration in by_label.items()}
            for trainer, by_label in calibrations.items()
        },
    }


def read_calibrations(file: Path, trainer: str) -> dict[str, LabelCalibration]:
    """Return label -> calibration of a trainer; empty if there is no file, or the file does not have the trainer.

    Raises:
        FileError: the file cannot be read, or a newer version of this package wrote it.
    """
    if not file.exists():
        return {}
    content = read_json(file)
    if content.get("version") != VERSION:
        raise FileError(
            f"{file} has version {content.get('version')!r}. This version of nnunet_moe reads version {VERSION}. Rerun "
            "the evaluation with it."
        )
    try:
        by_label = content["trainers"].get(trainer, {})
        return {label: LabelCalibration.from_json(each) for label, each in by_label.items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FileError(f"{file} is damaged ({type(error).__name__}: {error}). Rerun the evaluation.") from error
