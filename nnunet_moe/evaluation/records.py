"""What has been scored so far, one file for each model, fold, case and code, so that a killed run can go on."""

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_moe.codes import Code, code_digits

PACKAGES = ("nnunet-moe", "nnunetv2", "torch", "numpy", "scipy", "surface-distance")


@dataclass(frozen=True)
class Record:
    """The scores of one segmentation."""

    available: str
    """What the case has, in digits."""
    scores: dict[str, dict[str, float | None]]
    """Label -> metric -> value, None where it is not defined."""
    overlay: np.ndarray
    """The slice of the segmentation that pictures show, `(*space)` without the first axis."""


class Records:
    """A folder of records, each valid for one state of everything that it was made from."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def load(self, key: str, trainer: str, fold: str, case: str, code: Code) -> Record | None:
        """A record, or None if there is none or it was made from something else."""
        file = self._file(trainer, fold, case, code)
        if not file.exists():
            return None
        with np.load(file) as stored:
            if stored["key"] != key:
                return None
            content = json.loads(str(stored["content"]))
            return Record(content["available"], content["scores"], stored["overlay"])

    def save(self, record: Record, key: str, trainer: str, fold: str, case: str, code: Code) -> None:
        """Write a record whole or not at all."""
        file = self._file(trainer, fold, case, code)
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_suffix(".unfinished")
        content = json.dumps({"available": record.available, "scores": record.scores})
        with unfinished.open("wb") as out:
            np.savez_compressed(out, key=key, content=content, overlay=record.overlay)
        os.replace(unfinished, file)

    def overlay(self, trainer: str, fold: str, case: str, code: Code) -> np.ndarray | None:
        """The slice of a segmentation, if there is one."""
        file = self._file(trainer, fold, case, code)
        if not file.exists():
            return None
        with np.load(file) as stored:
            return stored["overlay"]

    def _file(self, trainer: str, fold: str, case: str, code: Code) -> Path:
        return self.folder / trainer / f"fold_{fold}" / case / f"{code_digits(code)}.npz"


def versions() -> dict[str, str]:
    """The packages that figures depend on."""
    return {name: version(name) for name in PACKAGES}


def key_of(content: Any) -> str:
    """A short name of everything that a record depends on."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def digest(file: Path) -> str:
    """A checkpoint's content."""
    content = hashlib.sha256()
    with file.open("rb") as opened:
        while part := opened.read(1 << 20):
            content.update(part)
    return content.hexdigest()


def file_states(files: Iterable[str]) -> list[tuple[str, int, int]]:
    """Path, size and time of change of each file; a missing file has -1 for both."""
    states = []
    for file in sorted(files):
        stat = os.stat(file) if os.path.exists(file) else None
        states.append((file, stat.st_size if stat else -1, stat.st_mtime_ns if stat else -1))
    return states
