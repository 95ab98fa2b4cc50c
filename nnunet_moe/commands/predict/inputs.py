"""Write `inputs.jsonl`, which remembers the files that each case was predicted from and to, and compare them later."""

import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nnunet_moe.errors import FileError, ModelError
from nnunet_moe.runtime.file_state import FileState
from nnunet_moe.runtime.files import atomic_write
from nnunet_moe.runtime.json_files import parse_json

States = Mapping[str, FileState]
"""Path -> the state of the file before it was read, or after it was written."""


@dataclass(frozen=True)
class Remembered:
    """What is remembered of a case. Earlier versions did not remember what is None."""

    files: States
    """The files that were read."""
    outputs: States | None
    """File name -> the state of the file that was written."""
    has_copies: bool | None
    """Whether an image was a copy of another one."""


class Inputs:
    """The files of the predicted cases, and the JSON lines file that lists them at any moment, one case in each line.

    A killed run may leave an incomplete last line, which `read` ignores and the first `add` cuts off. Of several lines
    of a case, the last counts. Earlier versions did not remember the files that were written, or none at all.

    Args:
        file: the JSON lines file.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._cases: dict[str, Remembered] = {}
        self._can_append = False
        """Whether the file is known to end with a whole line."""

    def __contains__(self, case: str) -> bool:
        """Return whether the files of a case are known. Earlier versions did not remember them."""
        return case in self._cases

    def add(self, case: str, remembered: Remembered) -> None:
        """Add a case, before the manifest lists it."""
        self._cases[case] = remembered
        if not self._can_append:
            self._cut_incomplete_line()
            self._can_append = True
        with self._file.open("a", encoding="utf-8") as opened:
            opened.write(self._line(case))

    def are_same(self, case: str, files: Collection[str]) -> bool:
        """Return whether a case, which must be known, was predicted from exactly these files with these contents.

        The folder of the images may have moved.

        Raises:
            OSError: a file cannot be read.
        """
        states = self._cases[case].files
        before, now = _by_place(case, states), _by_place(case, files)
        return before.keys() == now.keys() and all(
            states[before[place]].is_of(Path(path)) for place, path in now.items()
        )

    def move(self, case: str, files: Collection[str]) -> dict[str, str]:
        """Remember the present paths of the files of a case that are the same, see `are_same`.

        Returns:
            Folder -> the folder to which its files moved, for all that moved.
        """
        states = self._cases[case].files
        before, now = _by_place(case, states), _by_place(case, files)
        moved = {path: states[before[place]] for place, path in now.items()}
        self._cases[case] = replace(self._cases[case], files=moved)
        folders = {os.path.dirname(before[place]): os.path.dirname(path) for place, path in now.items()}
        return {old: new for old, new in folders.items() if old != new}

    def has_copies(self, case: str) -> bool | None:
        """Return whether an image of a case was a copy of another one; None if that is not known."""
        return self._cases[case].has_copies if case in self._cases else None

    def has_written(self, case: str, files: Collection[Path]) -> bool:
        """Return whether files still hold what was written for a case, or if that is not known.

        Raises:
            OSError: a file cannot be read.
        """
        outputs = self._cases[case].outputs if case in self._cases else None
        return outputs is None or all(file.name in outputs and outputs[file.name].is_of(file) for file in files)

    def write(self, cases: Collection[str]) -> None:
        """Write these cases in alphabetical order, each only once, and forget the others."""
        self._cases = {case: self._cases[case] for case in sorted(self._cases) if case in cases}
        with atomic_write(self._file) as unfinished:
            unfinished.write_text("".join(map(self._line, self._cases)), encoding="utf-8")

    def read(self) -> None:
        """Read the cases of an earlier run, if the file exists.

        Raises:
            ModelError: it has other content.
        """
        if not self._file.exists():
            return
        try:
            for line in self._file.read_bytes().splitlines(keepends=True):
                if line.endswith(b"\n"):
                    content = parse_json(line)
                    outputs = self._states_in(content["outputs"]) if "outputs" in content else None
                    files, has_copies = self._states_in(content["files"]), content.get("has_copies")
                    self._cases[str(content["case"])] = Remembered(files, outputs, has_copies)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, FileError) as error:
            raise ModelError(
                f"{self._file} was not written by this command ({type(error).__name__}: {error}). Predict into another "
                "folder, or without --continue_prediction."
            ) from error

    def _cut_incomplete_line(self) -> None:
        """Remove what a killed run left after the last whole line, so that the next line does not continue it."""
        if self._file.exists():
            with self._file.open("rb+") as opened:
                opened.truncate(opened.read().rfind(b"\n") + 1)

    def _line(self, case: str) -> str:
        known = self._cases[case]
        content: dict[str, Any] = {"case": case, "files": _as_json(known.files)}
        if known.outputs is not None:
            content["outputs"] = _as_json(known.outputs)
        if known.has_copies is not None:
            content["has_copies"] = known.has_copies
        return json.dumps(content) + "\n"

    def _states_in(self, content: Any) -> States:
        return {path: FileState.from_json(state, self._file) for path, state in content.items()}


def _as_json(states: States) -> dict[str, Any]:
    return {path: state.as_json() for path, state in states.items()}


def _by_place(case: str, files: Collection[str]) -> dict[tuple[bool, str, int], str]:
    """Return the paths of a case's files by what identifies them in any place.

    This is whether they lie next to the images, their name, and the number of the file among those of this name.
    """
    folders = {Path(file).parent for file in files if Path(file).name.startswith(f"{case}_")}
    places: dict[tuple[bool, str, int], str] = {}
    for file in files:
        of_name = Path(file).parent in folders, Path(file).name
        number = sum(place[:2] == of_name for place in places)
        places[(*of_name, number)] = file
    return places
