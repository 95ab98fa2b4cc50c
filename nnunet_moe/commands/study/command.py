"""Run `nnunet_moe study`, and define its options."""

import argparse
import importlib.util
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_moe.errors import JobsFailedError, NnunetMoeError, SettingsError
from nnunet_moe.runtime import options
from nnunet_moe.runtime.devices import default_device, device_option
from nnunet_moe.runtime.options import option, read_request

if TYPE_CHECKING:
    from nnunet_moe.commands.study.machine import Machine
    from nnunet_moe.commands.study.plan import StudyPlan


def _gpu_numbers(text: str) -> tuple[int, ...]:
    """Read the numbers of GPUs from a text such as `0,1`.

    Raises:
        SettingsError: it holds anything but whole numbers, or a number twice.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch("[0-9]+", part) for part in parts):
        raise SettingsError(f"-gpus is {text!r}. It must be whole numbers with commas between them, for example 0,1.")
    numbers = tuple(map(int, parts))
    if twice := [str(number) for number in dict.fromkeys(numbers) if numbers.count(number) > 1]:
        raise SettingsError(
            f"-gpus is {text!r}, which names {', '.join(twice)} twice. Name each GPU once. For several jobs on each "
            "GPU, use -jobs."
        )
    return numbers


@dataclass(frozen=True, kw_only=True)
class Request:
    """The options of `nnunet_moe study`: which study to run, and where its jobs run.

    Raises:
        SettingsError: an option is out of range.
    """

    file: Path = option(
        "FILE", type=Path, group="input and output", help="read the definition of the study from this YAML file"
    )
    out: Path = option(
        "-o",
        type=Path,
        group="input and output",
        help="write the results to this folder; rerun the same command to resume",
    )
    dry_run: bool = option(
        "-n",
        "--dry_run",
        action="store_true",
        group="jobs",
        help="list the jobs and estimate their time, without running them",
    )
    device: str | None = device_option(
        default=None, help="compute on this device (default: cuda if a GPU is available or with --profile, else cpu)"
    )
    """None: a GPU if available. With a profile always a GPU, because the machine that submits jobs often has none."""
    jobs: int | None = option(
        "-jobs",
        type=int,
        default=None,
        group="jobs",
        help="run this many jobs at a time on this machine (default: as many as fit on its GPUs, else 1)",
    )
    gpus: tuple[int, ...] = option(
        "-gpus",
        type=_gpu_numbers,
        default=(),
        metavar="NUMBERS",
        group="jobs",
        help="use these GPUs, for example 0,1; each job sees one of them (default: those in CUDA_VISIBLE_DEVICES, or "
        "all)",
    )
    profile: str | None = option(
        "--profile",
        default=None,
        group="jobs",
        help="run on a cluster with this Snakemake profile: slurm, which is included, or a folder (default: "
        "this machine)",
    )
    only: str | None = option(
        "--only",
        choices=("plans", "report"),
        default=None,
        group="jobs",
        help="do only this, without Snakemake (default: the whole study)",
    )

    def __post_init__(self) -> None:
        if self.jobs is not None and self.jobs < 1:
            raise SettingsError(f"-jobs is {self.jobs}. It must be at least 1.")
        if self.gpus and self.profile is not None:
            raise SettingsError(
                "-gpus is for this machine. With --profile, the cluster assigns the GPUs. Remove one of these options."
            )
        if self.gpus and self.machine_device != "cuda":
            raise SettingsError(
                f"-gpus needs -device cuda. Here the device is {self.machine_device}. Remove -gpus, or change -device."
            )

    @property
    def machine_device(self) -> str:
        """The device of the jobs."""
        return self.device or ("cuda" if self.profile is not None else default_device())


EXAMPLE = "nnunet_moe study study.yaml -o results --dry_run"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    options.add_options(parser, Request)


def run(namespace: argparse.Namespace) -> None:
    """Run the jobs of the study, list them, or do only one part of the work."""
    if importlib.util.find_spec("yaml") is None:
        raise SettingsError("A study needs PyYAML, which is missing. Install it with: pip install pyyaml")
    request = read_request(Request, namespace)
    if request.only is None and not request.dry_run and importlib.util.find_spec("fcntl") is None:
        raise SettingsError(
            "This system cannot run a study, because its jobs need the file locks of Linux or macOS. On Windows, use "
            "the Windows Subsystem for Linux, or run nnUNetv2_train and `nnunet_moe evaluate` for each trainer."
        )

    from nnunet_moe.commands.study.machine import Machine
    from nnunet_moe.commands.study.models import write_plans
    from nnunet_moe.commands.study.plan import make_plan
    from nnunet_moe.commands.study.report import write_report

    machine = Machine(request.machine_device, request.jobs, request.profile, tuple(namespace.more), gpus=request.gpus)
    plan = make_plan(request.file, request.out.resolve(), machine.device)
    if request.dry_run:
        _list_jobs(plan, machine)
    elif request.only == "plans":
        _write_folds(plan)
        print(f"Wrote {write_plans(plan.study, plan.trained)}")
    elif request.only == "report":
        print(f"Report: {write_report(plan)}")
    else:
        _run_jobs(plan, machine)


def _list_jobs(plan: "StudyPlan", machine: "Machine") -> None:
    from nnunet_moe.commands.study.needs import describe_needs
    from nnunet_moe.commands.study.run import require_runnable

    require_runnable(plan, machine)
    print(plan.describe(machine.jobs_at_a_time))
    print("\n".join(f"  {line}" for line in describe_needs(plan, machine)))
    done = plan.done()
    for job in [job for name, job in plan.jobs.items() if name not in done]:
        print(shlex.join(job.command))


def _run_jobs(plan: "StudyPlan", machine: "Machine") -> None:
    from nnunet_moe.commands.study.needs import NO_GPU
    from nnunet_moe.commands.study.report import write_report
    from nnunet_moe.commands.study.run import require_runnable, run_plan

    require_runnable(plan, machine)
    if machine.lacks_a_gpu:
        raise SettingsError(NO_GPU)
    _write_folds(plan)
    try:
        run_plan(plan, machine)
    except JobsFailedError as failure:  # still report the finished evaluations
        try:
            report = f"Report: {write_report(plan)}"
        except NnunetMoeError as error:
            report = str(error)
        raise JobsFailedError(f"{failure}\n{report}") from failure
    print(f"Report: {write_report(plan)}")


def _write_folds(plan: "StudyPlan") -> None:
    from nnunet_moe.commands.study.splits import write_splits_and_patients

    study = plan.study
    for line in write_splits_and_patients(study.dataset, study.splits, study.groups, plan.training_cases):
        print(line)
