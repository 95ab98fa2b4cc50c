"""Run nnU-Net's own commands in one folder, with a log file and progress lines for each."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from nnunet_moe.errors import CommandError
from nnunet_moe.runtime.environment import trainers_known
from nnunet_moe.runtime.threads import usable_cores

Progress = Callable[[str], str | None]
"""Takes a line of output and returns the text to show, or None."""


class Workspace:
    """A folder with nnU-Net's three folders and the logs of the commands.

    Args:
        folder: the folder; it is created if it does not exist.
        reuse: whether the folder may hold files of an earlier run.

    Raises:
        CommandError: the folder is not empty, and `reuse` is false.
    """

    def __init__(self, folder: Path, *, reuse: bool = False) -> None:
        if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not reuse)):
            raise CommandError(f"{folder} is not an empty folder. Remove it, or choose another one with -o.")
        self.folder = folder.resolve()
        self.raw, self.preprocessed, self.results, self.logs = (
            self.folder / name for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results", "logs")
        )
        for path in (self.raw, self.preprocessed, self.results, self.logs):
            path.mkdir(parents=True, exist_ok=True)

    def run(self, command: str, *arguments: str, progress: Progress | None = None) -> None:
        """Run one of nnU-Net's commands and write all its output to `logs`.

        Raises:
            CommandError: the command failed.
        """
        beside_python = Path(sys.executable).parent / command  # works also if the environment is not activated
        with trainers_known():
            environment = {
                **os.environ,
                "nnUNet_raw": str(self.raw),
                "nnUNet_preprocessed": str(self.preprocessed),
                "nnUNet_results": str(self.results),
                # nnU-Net's defaults are for workstations with a GPU, and each of its processes imports torch
                "nnUNet_def_n_proc": os.environ.get("nnUNet_def_n_proc", str(min(8, usable_cores()))),
                "nnUNet_n_proc_DA": "1" if "plan" in command else os.environ.get("nnUNet_n_proc_DA", "1"),
                "PYTHONUNBUFFERED": "1",
            }
        process = subprocess.Popen(
            [str(beside_python) if beside_python.exists() else command, *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdout is not None
        try:
            with self._new_log(command) as out:
                for line in process.stdout:
                    out.write(line)
                    if progress is not None and (shown := progress(line)) is not None:
                        print(f"    {shown}", flush=True)  # noqa: T201 - shows progress
        except BaseException:
            process.kill()
            raise
        if process.wait() != 0:
            raise CommandError(f"{command} failed with status {process.returncode}. See its log: {out.name}")

    def _new_log(self, command: str) -> TextIO:
        """Open a new log file, also if several commands run at once."""
        number = len(list(self.logs.iterdir()))
        while True:
            try:
                return (self.logs / f"{number}_{command}.log").open("x", encoding="utf-8")
            except FileExistsError:
                number += 1
