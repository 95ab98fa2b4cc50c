"""Run the jobs of a study with Snakemake, on this machine or on a cluster."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from nnunetv2.paths import nnUNet_results

from nnunet_moe.commands.study.jobs import ON_A_DEVICE, PLANS, PREPROCESS
from nnunet_moe.commands.study.machine import Machine
from nnunet_moe.commands.study.needs import describe_needs
from nnunet_moe.commands.study.plan import JOBS, StudyPlan
from nnunet_moe.errors import JobsFailedError, NnunetMoeError, SettingsError, StudyError
from nnunet_moe.runtime.environment import trainers_known
from nnunet_moe.runtime.files import atomic_write, nnunet_folder
from nnunet_moe.runtime.locks import hold

RUNNING, SNAKEMAKE_LOG = "running.lock", "snakemake.log"
FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
SECONDS_TO_STOP = 60
SNAKEMAKE = (9, 17)
"""The first version of Snakemake in which each job can have its own priority."""


def run_plan(plan: StudyPlan, machine: Machine) -> None:
    """Run all jobs that are not done yet.

    Progress goes to the screen, and Snakemake's output to a log. If a job fails, jobs that do not need it still run.

    Raises:
        JobsFailedError: jobs failed, or were not done for another reason.
        SettingsError: the output folder holds other files, or the profile does not exist.
        StudyError: Snakemake is missing, or the study is already running.
    """
    require_runnable(plan, machine)
    where = machine.options()
    with _only_run_of(plan) as lock:
        print(plan.describe(machine.jobs_at_a_time), flush=True)
        _print_needs(plan, machine)
        _write_jobs(plan, machine)
        begun = time.time()
        with _interruptible(), _snakemake(plan, [*where, *machine.more], lock) as process:
            _watch(process, plan, machine, begun)
    done = plan.done()
    logs = {job: plan.log(job) for job in plan.jobs if job not in done}
    if not logs:
        return
    failed = {job: log for job, log in logs.items() if log.exists() and log.stat().st_mtime >= begun}
    listed = [f"  {job}: {' | '.join(_last_lines(log, 2))}\n    {log}" for job, log in failed.items()]
    if not failed:
        listed = [f"  {line}" for line in _last_lines(plan.out / SNAKEMAKE_LOG, 10)]
    raise JobsFailedError(
        f"{len(failed)} jobs failed, {len(logs)} are not done. Fix the errors in the logs and rerun. Finished jobs are "
        "kept.\n" + "\n".join([*listed, f"  Snakemake: {plan.out / SNAKEMAKE_LOG}"])
    )


def require_runnable(plan: StudyPlan, machine: Machine) -> None:
    """Check all requirements that can be checked before the study runs.

    Raises:
        SettingsError: the output folder holds other files, or the profile or a GPU does not exist.
        StudyError: Snakemake is missing or too old.
    """
    _require_snakemake()
    machine.options()
    machine.require_gpus()
    out = plan.out
    if out.exists() and not out.is_dir():
        raise SettingsError(f"-o {out} is a file. Choose a folder.")
    if out.exists() and any(out.iterdir()) and not any((out / name).exists() for name in (JOBS, RUNNING)):
        raise SettingsError(f"-o {out} is not empty and holds no study. Choose another folder.")


def _require_snakemake() -> None:
    needed = ".".join(map(str, SNAKEMAKE))
    found = "missing"
    if importlib.util.find_spec("snakemake") is not None:
        installed = version("snakemake")
        if tuple(map(int, installed.split(".")[:2])) >= SNAKEMAKE:
            return
        found = f"installed as {installed}"
    raise StudyError(
        f"A study needs Snakemake {needed} or newer, which is {found}. It needs Python 3.11 or newer; this is Python "
        f"{sys.version_info.major}.{sys.version_info.minor}. Install it with: pip install 'snakemake>={needed},<10'"
    )


@contextmanager
def _only_run_of(plan: StudyPlan) -> Iterator[int]:
    lock = hold(plan.out / RUNNING)
    if lock is None:
        raise StudyError(
            f"Another run of this study is active in {plan.out}. Wait for it, or stop it first. If its terminal is "
            "closed, stop its process `snakemake`."
        )
    try:
        yield lock
    finally:
        os.close(lock)


def _write_jobs(plan: StudyPlan, machine: Machine) -> None:
    """Write Snakemake's configuration, and remove the markers of changed jobs so that they run again."""
    for name in plan.changed() | ({PLANS, PREPROCESS} & plan.jobs.keys()):  # the plans grow with the study
        plan.marker(name).unlink(missing_ok=True)
    locks = nnunet_folder(nnUNet_results) / plan.study.dataset / f"locks_{plan.study.study_plans}"
    content = {
        "jobs": {name: asdict(job) for name, job in plan.jobs.items()},
        "order": list(plan.jobs),
        "on_a_device": ON_A_DEVICE,
        "earlier": {name: command for name, command in plan.earlier_commands().items() if name not in plan.jobs},
        "devices": machine.devices,
        "threads": machine.threads,
        "locks": str(locks.resolve()),
        "python": sys.executable,
    }
    with atomic_write(plan.out / JOBS) as unfinished:
        unfinished.write_text(json.dumps(content, indent=4), encoding="utf-8")


@contextmanager
def _snakemake(plan: StudyPlan, options: Sequence[str], lock: int) -> Iterator[subprocess.Popen]:
    """Run Snakemake during the block. If the block ends with an error, stop Snakemake and its jobs.

    Snakemake inherits the lock, so the study counts as running as long as Snakemake runs.
    """
    arguments = ["--snakefile", str(Path(__file__).parent / "Snakefile"), "--directory", str(plan.out)]
    arguments += ["--configfile", str(plan.out / JOBS), "--keep-going", "--rerun-incomplete", "--nocolor"]
    arguments += ["--rerun-triggers", "mtime", "--nolock"]  # our own lock is used, which ends with its process
    with trainers_known(), (plan.out / SNAKEMAKE_LOG).open("a", encoding="utf-8") as log:
        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
        environment |= {name: str(Path(os.environ[name]).resolve()) for name in FOLDERS if name in os.environ}
        process = subprocess.Popen(
            [sys.executable, "-m", "snakemake", *arguments, *options],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=(lock,),
            start_new_session=True,  # so that an interruption reaches it and its jobs only once, from here
        )
    try:
        yield process
    except BaseException:
        try:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(SECONDS_TO_STOP)  # so that the jobs of a cluster can be canceled
        finally:  # also after a second interruption
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        raise


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let SIGTERM, Ctrl-C and a closed terminal interrupt the block.

    A shell lets background processes ignore some of these signals. Here they interrupt anyway, except for a closed
    terminal under `nohup`. Processes that start inside the block do not ignore these signals either.
    """
    heeded = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        heeded.append(signal.SIGHUP)
    before = {number: signal.signal(number, signal.default_int_handler) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _print_needs(plan: StudyPlan, machine: Machine) -> None:
    """Print what the trainings that are left need, with warnings. An error does not stop the jobs."""
    if not any(job.startswith("train/") for job in plan.jobs.keys() - plan.done()):
        return
    try:
        lines = describe_needs(plan, machine)
    except NnunetMoeError as error:
        lines = [f"Memory and disk could not be estimated: {error}"]
    print("\n".join(f"  {line}" for line in lines), flush=True)


def _watch(process: subprocess.Popen, plan: StudyPlan, machine: Machine, begun: float) -> None:
    """Print each job that finishes and a new estimate of the remaining time, until Snakemake ends.

    Once the dataset is planned, also print what the trainings need.

    Args:
        begun: the time at which Snakemake started. A job's log that was written since shows that the job has started.
    """
    done, started = plan.done(), {}
    while True:
        has_ended, now = process.poll() is not None, time.time()
        for job in [job for job in plan.jobs if job not in done and job not in started]:
            if (log := plan.log(job)).exists() and log.stat().st_mtime >= begun:
                started[job] = now
        for job in [job for job in plan.jobs if job not in done and plan.marker(job).exists()]:
            done.add(job)
            running = {job: now - start for job, start in started.items() if job not in done}
            left = plan.time_left(machine.jobs_at_a_time, done, running)
            left = left or ["All jobs are done."] * (len(done) == len(plan.jobs))
            print(" ".join([f"[{len(done)} of {len(plan.jobs)}] {job} done.", *left]), flush=True)
            if job == PREPROCESS:
                _print_needs(plan, machine)
        if has_ended:
            return
        time.sleep(1)


def _last_lines(log: Path, number: int) -> list[str]:
    """Return the last nonempty lines of a log."""
    return [line.strip() for line in log.read_text(errors="replace", encoding="utf-8").split("\n") if line.strip()][
        -number:
    ]
