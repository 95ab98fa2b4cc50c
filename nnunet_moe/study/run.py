"""Run a study's jobs by Snakemake, on this machine or on a cluster."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from nnunetv2.paths import nnUNet_results

from nnunet_moe.environment import trainers_known
from nnunet_moe.errors import NnunetMoeError, SettingsError
from nnunet_moe.files import nnunet_folder, written_whole
from nnunet_moe.study.job import hold
from nnunet_moe.study.jobs import PLANS, PREPROCESS, case_sets, evaluation_folder, evaluation_job
from nnunet_moe.study.plan import JOBS, Plan

RUNNING, SNAKEMAKE_LOG = "running.lock", "snakemake.log"
PROFILES = Path(__file__).parent / "profiles"
FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
SECONDS_TO_STOP = 60


class StudyError(NnunetMoeError):
    """A study whose jobs cannot be run, or of which some failed."""


@dataclass(frozen=True)
class Machine:
    """Where the jobs run."""

    device: str
    """`cpu`, `cuda` or `mps`."""
    num_jobs: int | None = None
    """That run at a time on this machine; by default one on each of its GPUs, or one."""
    profile: str | None = None
    """Of Snakemake, for a cluster: one that comes with this package, or a folder."""
    more: tuple[str, ...] = ()
    """Options of Snakemake."""

    @property
    def jobs_at_a_time(self) -> int | None:
        """None on a cluster, whose profile says it."""
        return None if self.profile is not None else self.num_jobs or max(1, len(self._gpus()))

    @property
    def devices(self) -> list[str]:
        """The CUDA device of each job that runs at a time; none on a cluster, which gives its own."""
        gpus = self._gpus()
        return [gpus[job % len(gpus)] for job in range(self.jobs_at_a_time or 0)] if gpus else []

    def options(self) -> list[str]:
        """What Snakemake is told of it.

        Raises:
            SettingsError: there is no such profile.
        """
        if self.profile is None:
            cores = max(self.jobs_at_a_time or 1, os.cpu_count() or 1)
            return ["--cores", str(cores), "--resources", f"devices={self.jobs_at_a_time}"]
        for folder in (PROFILES / self.profile, Path(self.profile)):
            if folder.is_dir():
                return ["--profile", str(folder.resolve())]
        known = ", ".join(sorted(folder.name for folder in PROFILES.iterdir()))
        raise SettingsError(f"--profile {self.profile} is neither a folder nor one of the package's own: {known}.")

    def _gpus(self) -> list[str]:
        if self.device != "cuda" or self.profile is not None:
            return []
        given = os.environ.get("CUDA_VISIBLE_DEVICES")
        return [gpu.strip() for gpu in given.split(",")] if given else list(map(str, range(torch.cuda.device_count())))


def run_plan(plan: Plan, machine: Machine) -> None:
    """Run all jobs that are not done yet; progress goes to the screen, what Snakemake says into a log.

    Jobs that have nothing to do with one that failed go on.

    Raises:
        SettingsError: the folder holds something else, or there is no such profile.
        StudyError: no Snakemake, another run of the study, or jobs that failed.
    """
    if importlib.util.find_spec("snakemake") is None:
        raise StudyError("A study needs Snakemake: pip install 'nnunet-moe[study]'")
    where = machine.options()
    with _only_run_of(plan) as lock:
        _write_jobs(plan, machine)
        print(plan.describe(machine.jobs_at_a_time), flush=True)
        begun = time.time()
        with _interruptible(), _snakemake(plan, [*where, *machine.more], lock) as process:
            status = _watched(process, plan, machine.jobs_at_a_time)
    if status == 0:
        return
    logs = {job: plan.out / "logs" / f"{job}.log" for job in plan.jobs if not plan.is_done(job)}
    failed = {job: log for job, log in logs.items() if log.exists() and log.stat().st_mtime >= begun}
    listed = [f"  {job}: {_last_line(log)}\n    {log}" for job, log in failed.items()]
    raise StudyError(
        f"{len(failed)} jobs failed, {len(logs)} are not done. Mend what the logs tell and run it again: what is done "
        "stays.\n" + "\n".join([*listed, f"  Snakemake: {plan.out / SNAKEMAKE_LOG}"])
    )


@contextmanager
def _only_run_of(plan: Plan) -> Iterator[int]:
    out = plan.out
    if out.exists() and not out.is_dir():
        raise SettingsError(f"{out} is a file. Name a folder by -o.")
    if out.exists() and any(out.iterdir()) and not any((out / name).exists() for name in (JOBS, RUNNING)):
        raise SettingsError(f"{out} is not empty and holds no study. Name another folder by -o.")
    lock = hold(out / RUNNING)
    if lock is None:
        raise StudyError(
            f"Another run of this study is going on in {out}. Wait for it, or stop it first: if its terminal is gone, "
            "look for a process `snakemake`."
        )
    try:
        yield lock
    finally:
        os.close(lock)


def _write_jobs(plan: Plan, machine: Machine) -> None:
    """Write Snakemake's configuration; what a changed job has done before does not count any more."""
    file = plan.out / JOBS
    earlier = json.loads(file.read_text()) if file.exists() else {"earlier": {}, "jobs": {}}
    known = {**earlier["earlier"], **{name: job["command"] for name, job in earlier["jobs"].items()}}
    reports = {
        evaluation_job(model, cases): plan.out / evaluation_folder(model, cases) / "report.html"
        for model in plan.trained
        for cases in case_sets(plan.study)
    }
    always = {PLANS, PREPROCESS}  # plans grow with the study, and what stands in them stays
    again: set[str] = set()
    for name, job in plan.jobs.items():
        has_changed = name in known and _without_device(known[name]) != _without_device(job.command)
        is_gone = name in reports and not reports[name].exists()
        if name not in always and (has_changed or is_gone or again & set(job.needs)):
            again.add(name)
    for name in again | (always & plan.jobs.keys()):
        plan.marker(name).unlink(missing_ok=True)
    locks = nnunet_folder(nnUNet_results) / plan.study.dataset / f"locks_{plan.study.study_plans}"
    content = {
        "jobs": {name: asdict(job) for name, job in plan.jobs.items()},
        "earlier": {name: command for name, command in known.items() if name not in plan.jobs},
        "devices": machine.devices,
        "threads": max(1, (os.cpu_count() or 1) // (machine.jobs_at_a_time or 1)) if machine.profile is None else 1,
        "locks": str(locks.resolve()),
        "python": sys.executable,
    }
    with written_whole(file) as unfinished:
        unfinished.write_text(json.dumps(content, indent=4))


def _without_device(command: Sequence[str]) -> list[str]:
    """On another device a job is still the same."""
    command = list(command)
    if "-device" in command:
        del command[command.index("-device") : command.index("-device") + 2]
    return command


@contextmanager
def _snakemake(plan: Plan, options: Sequence[str], lock: int) -> Iterator[subprocess.Popen]:
    """Snakemake at work; if the block ends with an error, it and its jobs are stopped.

    It inherits the lock, so that the study counts as running as long as Snakemake does.
    """
    arguments = ["--snakefile", str(Path(__file__).parent / "Snakefile"), "--directory", str(plan.out)]
    arguments += ["--configfile", str(plan.out / JOBS), "--keep-going", "--rerun-incomplete", "--nocolor"]
    arguments += ["--rerun-triggers", "mtime", "--nolock"]  # the lock is ours, and ends with its process
    with trainers_known(), (plan.out / SNAKEMAKE_LOG).open("a") as log:
        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
        environment |= {name: str(Path(os.environ[name]).resolve()) for name in FOLDERS if name in os.environ}
        process = subprocess.Popen(
            [sys.executable, "-m", "snakemake", *arguments, *options],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=(lock,),
            start_new_session=True,  # so that an interruption reaches it and its jobs once, from here
        )
    try:
        yield process
    except BaseException:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(SECONDS_TO_STOP)  # for the jobs of a cluster to be cancelled
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        raise


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM interrupts like Ctrl-C, and both do where a shell began this in the background, ignoring them.

    Processes that begin inside the block do not ignore them either.
    """
    before = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _watched(process: subprocess.Popen, plan: Plan, num_jobs: int | None) -> int:
    """Say which jobs get done until Snakemake ends; its exit status."""
    done = {job for job in plan.jobs if plan.is_done(job)}
    while True:
        ended = process.poll()
        for job in [job for job in plan.jobs if job not in done and plan.is_done(job)]:
            done.add(job)
            left = plan.describe(num_jobs).splitlines()[-1].strip()
            print(f"[{len(done)} of {len(plan.jobs)}] {job} done. {left}", flush=True)
        if ended is not None:
            return ended
        time.sleep(1)


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
