"""A study made ready: its models, its jobs, what is done and what is left."""

import csv
import json
from dataclasses import dataclass, replace
from pathlib import Path

from nnunetv2.paths import nnUNet_preprocessed, nnUNet_raw
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_moe.codes import channel_names
from nnunet_moe.errors import ModelError, SettingsError
from nnunet_moe.evaluation.evaluate import choose_codes
from nnunet_moe.files import dataset_name, nnunet_folder
from nnunet_moe.study.definition import Study, read_study
from nnunet_moe.study.jobs import KINDS, PREPROCESS, Job, jobs_of
from nnunet_moe.study.models import Trained, plans_of, read_plans, trained_methods

JOBS = "jobs.json"


@dataclass(frozen=True)
class Plan:
    """A study with all that it takes."""

    study: Study
    trained: list[Trained]
    jobs: dict[str, Job]
    out: Path

    def marker(self, job: str) -> Path:
        """The file that is there when a job is done."""
        return self.out / "done" / job

    def is_done(self, job: str) -> bool:
        return self.marker(job).exists()

    def missing(self, kind: str) -> list[str]:
        return [job for job in self.jobs if job.startswith(f"{kind}/") and not self.is_done(job)]

    def has_results(self) -> bool:
        """Whether any evaluation is finished."""
        return any(self.out.glob("evaluations/*/*/report.html"))

    def seconds(self, kind: str) -> list[float]:
        """What jobs of a kind took, as far as they are done."""
        times = []
        for job in self.jobs:
            file = self.out / "times" / f"{job}.tsv"
            if job.startswith(f"{kind}/") and self.is_done(job) and file.exists():
                with file.open() as opened:
                    times += [float(row["s"]) for row in csv.DictReader(opened, delimiter="\t")]
        return times

    def describe(self, num_jobs: int | None) -> str:
        """How many jobs there are and are left, by kind, and how long they will take, as far as that can be told.

        Args:
            num_jobs: that run at a time; None if a cluster decides.
        """
        lines = [f"Study {self.study.name} of {self.study.dataset}, in {self.out}"]
        seconds, unknown = 0.0, []
        for kind in KINDS:
            total = sum(job.startswith(f"{kind}/") for job in self.jobs)
            if not total:
                continue
            missing, times = len(self.missing(kind)), self.seconds(kind)
            each = f", {_duration(sum(times) / len(times))} each" if times else ""
            lines.append(f"  {kind:10} {total - missing:4} of {total} done{each}")
            if times:
                seconds += missing * sum(times) / len(times)
            elif missing and kind in ("train", "evaluate"):
                unknown.append(kind)
        left = sum(len(self.missing(kind)) for kind in KINDS)
        if not left:
            return "\n".join([*lines, "All jobs are done."])
        parallel = "" if num_jobs is None else f", {num_jobs} at a time"
        lines.append(f"  {left} of {len(self.jobs)} jobs are left{parallel}.")
        if seconds:
            at_once = "of computing, over all jobs that run at a time" if num_jobs is None else "to go"
            lines.append(f"  About {_duration(seconds / (num_jobs or 1))} {at_once}.")
        if unknown:
            lines.append(f"  The time of {' and '.join(unknown)} will be known when the first of its jobs is done.")
        return "\n".join(lines)


def make_plan(file: Path, out: Path, device: str) -> Plan:
    """Read and check a study, and list its jobs; nothing is written.

    Args:
        file: YAML that defines the study.
        out: the study's folder, absolute.
        device: `cpu`, `cuda` or `mps`.

    Raises:
        ModalityError: an unknown code.
        ModelError: a dataset or a trainer that is not there.
        SettingsError: a mistake in the study's file, or plans that it cannot use.
    """
    study = read_study(file)
    study = replace(study, dataset=dataset_name(study.dataset))
    dataset_file = nnunet_folder(nnUNet_raw) / study.dataset / "dataset.json"
    if not dataset_file.exists():
        raise ModelError(f"{dataset_file} is not there. Name a raw dataset in {file}.")
    modalities = channel_names(json.loads(dataset_file.read_text()))
    trained = trained_methods(study, choose_codes(modalities, study.evaluation.codes, None))
    preprocess = _needs_preprocessing(study, out)
    if not preprocess:
        plans_of(study, trained)
    return Plan(study, trained, jobs_of(study, trained, file.resolve(), device, preprocess=preprocess), out)


def _needs_preprocessing(study: Study, out: Path) -> bool:
    """Whether the study plans and preprocesses: it has begun to, or nobody has planned yet.

    Plans that there are stay as they are, since they may hold what someone has changed.
    """
    begun = json.loads((out / JOBS).read_text())["jobs"] if (out / JOBS).exists() else {}
    if PREPROCESS in begun and not (out / "done" / PREPROCESS).exists():
        return True
    file = nnunet_folder(nnUNet_preprocessed) / study.dataset / f"{study.plans}.json"
    if not file.exists() and study.plans == "nnUNetPlans":
        return True
    data = PlansManager(read_plans(file, study.configuration)).get_configuration(study.configuration).data_identifier
    raw = nnunet_folder(nnUNet_raw) / study.dataset
    ending = json.loads((raw / "dataset.json").read_text())["file_ending"]
    cases = [label.name.removesuffix(ending) for label in (raw / "labelsTr").glob(f"*{ending}")]
    # of each case nnU-Net writes this file last
    if missing := [case for case in cases if not (file.parent / data / f"{case}.pkl").exists()]:
        raise SettingsError(
            f"{len(missing)} of {len(cases)} training cases are not preprocessed in {file.parent / data}, {missing[0]} "
            f"among them. Preprocess them with the plans {study.plans} (nnUNetv2_preprocess, or nnunet_moe "
            "plan_and_preprocess where files are missing)."
        )
    return False


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
