"""Store each score in a file for its model, fold, case and code, so that a killed run can resume."""

import hashlib
import json
import os
import stat
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from nnunet_moe.modalities.codes import Code, code_digits
from nnunet_moe.runtime.files import atomic_write, digest
from nnunet_moe.runtime.json_files import parse_json

SEGMENTATION = "segmentation"
FileState = tuple[int, int]
"""Size in bytes and time of the last change in ns."""


@dataclass(frozen=True)
class Record:
    """The scores of one segmentation."""

    available: str
    """The code of the case, as digits."""
    scores: dict[str, dict[str, float | None]]
    """Label -> metric -> value, None where it is not defined."""
    overlay: np.ndarray
    """The slice of the segmentation for the pictures, `(*space)` without the first axis."""
    kept: FileState | None
    """The state of the segmentation's file; None if it was not kept."""
    signals: dict[str, dict[str, float]] | None = None
    """Label -> signal of trust -> value; None if they were not measured."""
    has_segmentation: bool = False
    """Whether the file also holds the segmentation, for comparisons with others of the case."""


class Records:
    """A folder of records. Each is valid only as long as nothing changes that it depends on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def load(self, key: str, trainer: str, fold: str, case: str, code: Code) -> Record | None:
        """Return a record, or None if it is missing or was made with another key."""
        file = self._file(trainer, fold, case, code)
        if not file.exists():
            return None
        try:
            with np.load(file) as stored:
                if stored["key"] != key:
                    return None
                content = parse_json(str(stored["content"]))
                kept = None if content["kept"] is None else tuple(content["kept"])
                scores, signals = content["scores"], content.get("signals")
                has_segmentation = SEGMENTATION in stored.files
                return Record(content["available"], scores, stored["overlay"], kept, signals, has_segmentation)
        except (BadZipFile, EOFError, KeyError, ValueError):  # treat a damaged record as missing
            return None

    def save(
        self,
        record: Record,
        segmentation: np.ndarray | None,
        *,
        key: str,
        trainer: str,
        fold: str,
        case: str,
        code: Code,
    ) -> None:
        """Write a record, with its segmentation unless that is None. On an error, leave no incomplete file."""
        content = json.dumps(
            {"available": record.available, "scores": record.scores, "kept": record.kept, "signals": record.signals}
        )
        arrays: dict[str, Any] = {} if segmentation is None else {SEGMENTATION: segmentation}
        file = self._file(trainer, fold, case, code)
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(file) as unfinished:
            np.savez_compressed(unfinished, key=key, content=content, overlay=record.overlay, **arrays)

    def overlay(self, trainer: str, fold: str, case: str, code: Code) -> np.ndarray | None:
        """Return the slice of a segmentation, or None if there is no record."""
        file = self._file(trainer, fold, case, code)
        if not file.exists():
            return None
        with np.load(file) as stored:
            return stored["overlay"]

    def segmentation(self, trainer: str, fold: str, case: str, code: Code) -> np.ndarray:
        """Return the segmentation of a record that has one."""
        with np.load(self._file(trainer, fold, case, code)) as stored:
            return stored[SEGMENTATION]

    def _file(self, trainer: str, fold: str, case: str, code: Code) -> Path:
        return self.folder / trainer / f"fold_{fold}" / case / f"{code_digits(code)}.npz"


def key_of(content: Any) -> str:
    """Return a hash of everything that a record depends on."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def content_of(file: str) -> str | None:
    """Return the SHA-256 of a file; None if it is no file or cannot be read, which the step that needs it reports.

    Several models read the same files, so a file is only read again if its size or a time changed.
    """
    try:
        found = os.stat(file)
        if not stat.S_ISREG(found.st_mode):  # a pipe can be read only once
            return None
        return _digest(file, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    except OSError:
        return None


@cache
def _digest(file: str, *_state: int) -> str:
    return digest(Path(file))


def file_state(file: str | Path) -> FileState | None:
    """Return the size and the time of the last change of a file; None if the file is missing."""
    if not os.path.exists(file):
        return None
    stat = os.stat(file)
    return stat.st_size, stat.st_mtime_ns
