"""Run a study's jobs by Snakemake, on this machine or on a cluster."""

import csv
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from nnunetv2.paths import nnUNet_preprocessed, nnUNet_raw
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_moe.environment import trainers_known
from nnunet_moe.errors import ModelError, NnunetMoeError, SettingsError
from nnunet_moe.files import dataset_name, nnunet_folder, written_whole
from nnunet_moe.study.definition import Study, read_study
from nnunet_moe.study.job import hold
from nnunet_moe.study.jobs import KINDS, Job, jobs_of
from nnunet_moe.study.models import Trained, read_plans, trained_methods

JOBS, RUNNING, SNAKEMAKE_LOG = "jobs.json", "running.lock", "snakemake.log"
PROFILES = Path(__file__).parent / "profiles"
SECONDS_TO_STOP = 60


class StudyError(NnunetMoeError):
    """A study whose jobs cannot be run, or of which some failed."""


@dataclass(frozen=True)
class Request:
    """What to run, in the words of the command's options."""

    file: Path
    out: Path
    device: str
    num_jobs: int | None = None
    """That run at the same time on this machine; by default as many as fit its GPUs, or one."""
    profile: str | None = None
    """Of Snakemake, for a cluster: one that comes with this package, or a folder."""
    more: tuple[str, ...] = ()
    """Options of Snakemake."""


@dataclass(frozen=True)
class Plan:
    """A study with all that it takes."""

    study: Study
    trained: list[Trained]
    jobs: dict[str, Job]
    out: Path

    def is_done(self, job: str) -> bool:
        return _done(self.out, job).exists()

    def missing(self, kind: str) -> list[str]:
        return [job for job in self.jobs if job.startswith(f"{kind}/") and not self.is_done(job)]

    def seconds(self, kind: str) -> list[float]:
        """What jobs of a kind took, as far as they are done."""
        times = []
        for job in self.jobs:
            file = self.out / "times" / f"{job}.tsv"
            if job.startswith(f"{kind}/") and self.is_done(job) and file.exists():
                with file.open() as opened:
                    times += [float(row["s"]) for row in csv.DictReader(opened, delimiter="\t")]
        return times


def make_plan(request: Request) -> Plan:
    """Read and check a study, and list its jobs; nothing is written.

    Raises:
        ModelError: a dataset or a trainer that is not there.
        SettingsError: a mistake in the study's file.
    """
    study = read_study(request.file)
    study = Study(**{**vars(study), "dataset": dataset_name(study.dataset)})
    dataset_file = nnunet_folder(nnUNet_raw) / study.dataset / "dataset.json"
    if not dataset_file.exists():
        raise ModelError(f"{dataset_file} is not there. Name a raw dataset in {request.file}.")
    trained = trained_methods(study, study.codes(json.loads(dataset_file.read_text())))
    preprocess = not _is_preprocessed(study)
    jobs = jobs_of(study, trained, request.file.resolve(), request.device, preprocess=preprocess)
    return Plan(study, trained, jobs, request.out)


def describe(plan: Plan, num_jobs: int | None) -> str:
    """How many jobs there are and are left, by kind, and how long they will take, as far as that can be told."""
    lines = [f"Study {plan.study.name} of {plan.study.dataset}, in {plan.out}"]
    seconds, unknown = 0.0, []
    for kind in KINDS:
        total = sum(job.startswith(f"{kind}/") for job in plan.jobs)
        if not total:
            continue
        missing, times = len(plan.missing(kind)), plan.seconds(kind)
        each = f", {_duration(sum(times) / len(times))} each" if times else ""
        lines.append(f"  {kind:10} {total - missing:4} of {total} done{each}")
        if times:
            seconds += missing * sum(times) / len(times)
        elif missing and kind in ("train", "evaluate"):
            unknown.append(kind)
    left = sum(len(plan.missing(kind)) for kind in KINDS)
    if not left:
        return "\n".join([*lines, "All jobs are done."])
    parallel = "" if num_jobs is None else f", {num_jobs} at a time"
    lines.append(f"  {left} of {len(plan.jobs)} jobs are left{parallel}.")
    if seconds:
        at_once = "of computing, divided by the jobs at a time" if num_jobs is None else "to go"
        lines.append(f"  About {_duration(seconds / (num_jobs or 1))} {at_once}.")
    if unknown:
        lines.append(f"  The time of {' and '.join(unknown)} will be known when the first of its jobs is done.")
    return "\n".join(lines)


def run_plan(plan: Plan, request: Request) -> None:
    """Run all jobs that are not done yet; progress goes to the screen, what Snakemake says into a log.

    Jobs that have nothing to do with one that failed go on.

    Raises:
        SettingsError: the folder holds something else, or there is no such profile.
        StudyError: no Snakemake, another run of the study, or jobs that failed.
    """
    if importlib.util.find_spec("snakemake") is None:
        raise StudyError("A study needs Snakemake: pip install 'nnunet-moe[study]'")
    num_jobs = jobs_at_a_time(request, plan.study)
    with _only_run_of(plan) as lock:
        _write_jobs(plan, request, num_jobs)
        print(describe(plan, num_jobs), flush=True)
        begun = time.time()
        status = _snakemake(plan, request, num_jobs, lock)
    if status == 0:
        return
    logs = {job: plan.out / "logs" / f"{job}.log" for job in plan.jobs if not plan.is_done(job)}
    failed = {job: log for job, log in logs.items() if log.exists() and log.stat().st_mtime >= begun}
    listed = [f"  {job}: {_last_line(log)}\n    {log}" for job, log in failed.items()]
    raise StudyError(
        f"{len(failed)} jobs failed, {len(logs)} are not done. Mend what the logs tell and run it again: what is done "
        "stays.\n" + "\n".join([*listed, f"  Snakemake: {plan.out / SNAKEMAKE_LOG}"])
    )


def jobs_at_a_time(request: Request, study: Study) -> int | None:
    """On this machine; None on a cluster, whose profile says it."""
    if request.profile is not None:
        return None
    if request.num_jobs is not None:
        return request.num_jobs
    return max(1, len(_devices(request, study)))


def _devices(request: Request, study: Study) -> list[str]:
    """The CUDA devices that jobs share, each as often as it takes a job; none on a cluster, which gives its own."""
    if request.device != "cuda" or request.profile is not None:
        return []
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = given.split(",") if given else [str(number) for number in range(torch.cuda.device_count())]
    return [device.strip() for device in devices] * study.jobs_per_gpu


def _is_preprocessed(study: Study) -> bool:
    """Whether the plans have the configuration and each training case its preprocessed file."""
    folder = nnunet_folder(nnUNet_preprocessed) / study.dataset
    file = folder / f"{study.plans}.json"
    if not file.exists():
        return False
    plans = PlansManager(read_plans(file, study.configuration))
    data = folder / plans.get_configuration(study.configuration).data_identifier
    if not data.is_dir():
        return False
    raw = nnunet_folder(nnUNet_raw) / study.dataset
    ending = json.loads((raw / "dataset.json").read_text())["file_ending"]
    labelled = {file.name.removesuffix(ending) for file in (raw / "labelsTr").glob(f"*{ending}")}
    return labelled <= set(infer_dataset_class(str(data)).get_identifiers(str(data)))


@contextmanager
def _only_run_of(plan: Plan) -> Iterator[int]:
    out = plan.out
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / JOBS).exists())):
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


def _write_jobs(plan: Plan, request: Request, num_jobs: int | None) -> None:
    """Write Snakemake's configuration; what a changed job has done before does not count any more."""
    file = plan.out / JOBS
    before = json.loads(file.read_text())["jobs"] if file.exists() else {}
    again = {"report/report"}  # quick, and it depends on what else there is
    for name, job in plan.jobs.items():
        has_changed = name in before and before[name]["command"] != list(job.command)
        if has_changed or again & set(job.needs):
            again.add(name)
    for name in (*again, "plans/plans"):  # plans grow with the study, and what stands in them stays
        _done(plan.out, name).unlink(missing_ok=True)
    content = {
        "jobs": {name: asdict(job) for name, job in plan.jobs.items()},
        "devices": _devices(request, plan.study),
        "python": sys.executable,
    }
    with written_whole(file) as unfinished:
        unfinished.write_text(json.dumps(content, indent=4))


def _snakemake(plan: Plan, request: Request, num_jobs: int | None, lock: int) -> int:
    """Its exit status. It inherits the lock, so that the study counts as running as long as Snakemake does."""
    options = ["--snakefile", str(Path(__file__).parent / "Snakefile"), "--directory", str(plan.out)]
    options += ["--configfile", str(plan.out / JOBS), "--keep-going", "--rerun-incomplete", "--nocolor"]
    options += ["--rerun-triggers", "mtime", "--nolock"]  # the lock is ours, and ends with its process
    if request.profile is None:
        options += ["--cores", str(max(num_jobs or 1, os.cpu_count() or 1)), "--resources", f"devices={num_jobs}"]
    else:
        options += ["--profile", _profile(request.profile)]
    with trainers_known(), (plan.out / SNAKEMAKE_LOG).open("a") as log:
        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
        process = subprocess.Popen(
            [sys.executable, "-m", "snakemake", *options, *request.more],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=(lock,),
        )
    before = signal.signal(signal.SIGTERM, _interrupted)
    try:
        return _watched(process, plan, num_jobs)
    except BaseException:
        process.send_signal(signal.SIGINT)  # it stops its jobs, also those of a cluster
        try:
            process.wait(SECONDS_TO_STOP)
        except subprocess.TimeoutExpired:
            process.kill()
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupted(*_: Any) -> None:
    raise KeyboardInterrupt


def _watched(process: subprocess.Popen, plan: Plan, num_jobs: int | None) -> int:
    """Say which jobs get done until Snakemake ends."""
    done = {job for job in plan.jobs if plan.is_done(job)}
    while True:
        ended = process.poll()
        for job in [job for job in plan.jobs if job not in done and plan.is_done(job)]:
            done.add(job)
            left = describe(plan, num_jobs).splitlines()[-1].strip()
            print(f"[{len(done)} of {len(plan.jobs)}] {job} done. {left}", flush=True)
        if ended is not None:
            return ended
        time.sleep(1)


def _profile(name: str) -> str:
    if (PROFILES / name).is_dir():
        return str(PROFILES / name)
    if Path(name).is_dir():
        return str(Path(name).resolve())
    known = ", ".join(sorted(folder.name for folder in PROFILES.iterdir()))
    raise SettingsError(f"--profile {name} is neither a folder nor one of those that come with the package: {known}.")


def _done(out: Path, job: str) -> Path:
    return out / "done" / job


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
