"""Run nnU-Net's own commands below one folder, with a log for each and a line of progress now and then."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from nnunet_moe.errors import CommandError
from nnunet_moe.runtime.environment import trainers_known

Progress = Callable[[str], str | None]
"""Makes of a line of output what is to be shown of it, or None."""


class Workspace:
    """nnU-Net's three folders and the commands' logs, below one folder.

    Args:
        folder: made if it does not exist.
        reuse: go on in a folder that an earlier run has filled.

    Raises:
        CommandError: the folder holds something already and is not to be reused.
    """

    def __init__(self, folder: Path, *, reuse: bool = False) -> None:
        if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not reuse)):
            raise CommandError(f"{folder} is not an empty folder. Remove it, or name another one with -o.")
        self.folder = folder.resolve()
        self.raw, self.preprocessed, self.results, self.logs = (
            self.folder / name for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results", "logs")
        )
        for path in (self.raw, self.preprocessed, self.results, self.logs):
            path.mkdir(parents=True, exist_ok=True)

    def run(self, command: str, *arguments: str, progress: Progress | None = None) -> None:
        """Run one of nnU-Net's commands; all its output goes into `logs`.

        Raises:
            CommandError: the command did not succeed.
        """
        beside_python = Path(sys.executable).parent / command  # found also where no environment is activated
        with trainers_known():
            environment = {
                **os.environ,
                "nnUNet_raw": str(self.raw),
                "nnUNet_preprocessed": str(self.preprocessed),
                "nnUNet_results": str(self.results),
                # nnU-Net's own numbers are for workstations with a GPU; each of its processes imports torch
                "nnUNet_def_n_proc": os.environ.get("nnUNet_def_n_proc", str(min(8, os.cpu_count() or 1))),
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
                        print(f"    {shown}", flush=True)  # noqa: T201 - progress is what it is for
        except BaseException:
            process.kill()
            raise
        if process.wait() != 0:
            raise CommandError(f"{command} failed with status {process.returncode}. Its log: {out.name}")

    def _new_log(self, command: str) -> TextIO:
        """A file of its own, also where commands run at once."""
        number = len(list(self.logs.iterdir()))
        while True:
            try:
                return (self.logs / f"{number}_{command}.log").open("x")
            except FileExistsError:
                number += 1
