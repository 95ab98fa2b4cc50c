"""Run nnU-Net's own commands below one folder, with a log for each and a line of progress now and then."""

import copy
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from nnunet_moe.environment import trainers_known
from nnunet_moe.errors import NnunetMoeError
from nnunet_moe.settings import PLANS_KEY

Progress = Callable[[str], str | None]
"""Makes of a line of output what is to be shown of it, or None."""


class CommandError(NnunetMoeError):
    """A folder that cannot be used, or a command of nnU-Net that failed."""


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


def add_small_configuration(
    plans_file: Path,
    name: str,
    *,
    patch_size: list[int],
    features_per_stage: list[int],
    settings: dict,
    batch_size: int | None = None,
) -> None:
    """Add to the plans a configuration that a CPU can train: `2d` or `3d_fullres` with a small patch and network.

    Args:
        plans_file: an `nnUNetPlans.json` with a `2d` or `3d_fullres` of the plain U-Net.
        name: of the new configuration.
        patch_size: in pixels or voxels, two or three numbers; divisible by 2 once for each stage after the first.
        features_per_stage: also says how many stages there are.
        settings: what goes under the key `nnunet_moe`.
        batch_size: as planned if None.
    """
    plans = json.loads(plans_file.read_text())
    planned = "2d" if len(patch_size) == 2 else "3d_fullres"
    architecture = copy.deepcopy(plans["configurations"][planned]["architecture"])
    num_stages, dimensions = len(features_per_stage), len(patch_size)
    architecture["arch_kwargs"].update(
        n_stages=num_stages,
        features_per_stage=features_per_stage,
        kernel_sizes=[[3] * dimensions] * num_stages,
        strides=[[1] * dimensions] + [[2] * dimensions] * (num_stages - 1),
        n_conv_per_stage=[2] * num_stages,
        n_conv_per_stage_decoder=[2] * (num_stages - 1),
    )
    plans["configurations"][name] = {
        "inherits_from": planned,
        "patch_size": patch_size,
        "architecture": architecture,
        PLANS_KEY: settings,
        **({} if batch_size is None else {"batch_size": batch_size}),
    }
    plans_file.write_text(json.dumps(plans, indent=4))


def epoch_line(line: str) -> str | None:
    """The line of nnU-Net's training log that closes an epoch, without its time stamp."""
    match = re.search(r"(Epoch \d+|Pseudo dice \[.*\]|predicting \S+)\s*$", line)
    return match[1] if match else None


def case_line(line: str) -> str | None:
    """The line of nnU-Net's prediction that names the case."""
    match = re.match(r"Predicting \S+:", line)
    return match[0] if match else None


def machine() -> str:
    """This machine in words, to stand beside what was measured on it."""
    cpuinfo = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.exists() else []
    return f"{platform.platform()}, {f'{len(names)} x {names[0]}' if names else platform.processor()}"
