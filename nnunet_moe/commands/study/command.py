"""The options of `nnunet_moe study`."""

import argparse
import importlib.util
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_moe.errors import JobsFailedError, NnunetMoeError, SettingsError
from nnunet_moe.runtime import options
from nnunet_moe.runtime.devices import default_device, device_option
from nnunet_moe.runtime.options import option, read_request

if TYPE_CHECKING:
    from nnunet_moe.commands.study.plan import StudyPlan
    from nnunet_moe.commands.study.run import Machine


@dataclass(frozen=True, kw_only=True)
class Request:
    """Which study, and where its jobs run.

    Raises:
        SettingsError: an option out of range.
    """

    file: Path = option("FILE", type=Path, help="YAML file that defines the study")
    out: Path = option("-o", type=Path, help="output folder; the same command goes on with what is there")
    dry_run: bool = option(
        "-n",
        "--dry_run",
        action="store_true",
        help="only tell how many jobs there are and how long they will take",
    )
    device: str | None = device_option(default=None)
    """None: a GPU where there is one, and always with a profile: where a job is sent off from has often none itself."""
    jobs: int | None = option(
        "-jobs", type=int, default=None, help="at a time on this machine (default: as many as fit its GPUs, or one)"
    )
    profile: str | None = option(
        "--profile",
        default=None,
        help="Snakemake's, to run on a cluster: slurm, which comes with the package, or a folder",
    )
    only: str | None = option(
        "--only", choices=("plans", "report"), default=None, help="do just this now, without Snakemake"
    )

    def __post_init__(self) -> None:
        if self.jobs is not None and self.jobs < 1:
            raise SettingsError(f"-jobs is {self.jobs}; it must be at least 1.")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    options.add_options(parser, Request)
    parser.epilog = "What stands after -- goes to Snakemake."


def run(namespace: argparse.Namespace) -> None:
    """Run the study's jobs, or list them, or do one part of its work."""
    if importlib.util.find_spec("yaml") is None:
        raise SettingsError("A study needs Snakemake and PyYAML: pip install 'nnunet-moe[study]'")
    request = read_request(Request, namespace)

    from nnunet_moe.commands.study.models import write_plans
    from nnunet_moe.commands.study.plan import make_plan
    from nnunet_moe.commands.study.report import write_report
    from nnunet_moe.commands.study.run import Machine

    device = request.device or ("cuda" if request.profile is not None else default_device())
    machine = Machine(device, request.jobs, request.profile, tuple(namespace.more))
    plan = make_plan(request.file, request.out.resolve(), device)
    if request.dry_run:
        _list_jobs(plan, machine)
    elif request.only == "plans":
        print(f"Wrote {write_plans(plan.study, plan.trained)}")
    elif request.only == "report":
        print(f"Report: {write_report(plan)}")
    else:
        _run_jobs(plan, machine)


def _list_jobs(plan: "StudyPlan", machine: "Machine") -> None:
    from nnunet_moe.commands.study.run import require_runnable

    require_runnable(plan, machine)
    print(plan.describe(machine.jobs_at_a_time))
    done = plan.done()
    for job in [job for name, job in plan.jobs.items() if name not in done]:
        print(shlex.join(job.command))


def _run_jobs(plan: "StudyPlan", machine: "Machine") -> None:
    from nnunet_moe.commands.study.report import write_report
    from nnunet_moe.commands.study.run import run_plan

    try:
        run_plan(plan, machine)
    except JobsFailedError as failure:  # a report of what is there all the same
        try:
            report = f"Report: {write_report(plan)}"
        except NnunetMoeError as error:
            report = str(error)
        raise JobsFailedError(f"{failure}\n{report}") from failure
    print(f"Report: {write_report(plan)}")
