"""What has been scored so far, one file for each model, fold, case and code, so that a killed run can go on."""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from nnunet_moe.modalities.codes import Code, code_digits
from nnunet_moe.runtime.files import atomic_write

FileState = tuple[int, int]
"""Size in bytes and time of change in ns."""


@dataclass(frozen=True)
class Record:
    """The scores of one segmentation."""

    available: str
    """What the case has, in digits."""
    scores: dict[str, dict[str, float | None]]
    """Label -> metric -> value, None where it is not defined."""
    overlay: np.ndarray
    """The slice of the segmentation that pictures show, `(*space)` without the first axis."""
    kept: FileState | None
    """The state of the segmentation's file, if it was kept."""


class Records:
    """A folder of records, each valid for one state of everything that it was made from."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def load(self, key: str, trainer: str, fold: str, case: str, code: Code) -> Record | None:
        """A record, or None if there is none or it was made from something else."""
        file = self._file(trainer, fold, case, code)
        if not file.exists():
            return None
        try:
            with np.load(file) as stored:
                if stored["key"] != key:
                    return None
                content = json.loads(str(stored["content"]))
                kept = None if content["kept"] is None else tuple(content["kept"])
                return Record(content["available"], content["scores"], stored["overlay"], kept)
        except (BadZipFile, EOFError, KeyError, ValueError):  # damaged: as if it were not there
            return None

    def save(self, record: Record, key: str, trainer: str, fold: str, case: str, code: Code) -> None:
        """Write a record whole or not at all."""
        content = json.dumps({"available": record.available, "scores": record.scores, "kept": record.kept})
        file = self._file(trainer, fold, case, code)
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(file) as unfinished:
            np.savez_compressed(unfinished, key=key, content=content, overlay=record.overlay)

    def overlay(self, trainer: str, fold: str, case: str, code: Code) -> np.ndarray | None:
        """The slice of a segmentation, if there is one."""
        file = self._file(trainer, fold, case, code)
        if not file.exists():
            return None
        with np.load(file) as stored:
            return stored["overlay"]

    def _file(self, trainer: str, fold: str, case: str, code: Code) -> Path:
        return self.folder / trainer / f"fold_{fold}" / case / f"{code_digits(code)}.npz"


def key_of(content: Any) -> str:
    """A short name of everything that a record depends on."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def file_state(file: str | Path) -> FileState | None:
    """Size and time of change of a file; None if it is not there."""
    if not os.path.exists(file):
        return None
    stat = os.stat(file)
    return stat.st_size, stat.st_mtime_ns
