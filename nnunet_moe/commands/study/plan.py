"""The plan of a study: its models and jobs, which jobs are done, and which are left."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from nnunetv2.paths import nnUNet_preprocessed, nnUNet_raw
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_moe.commands.evaluate.evaluate import choose_codes
from nnunet_moe.commands.evaluate.models import folder_cases, training_cases
from nnunet_moe.commands.study.definition import Study, read_study
from nnunet_moe.commands.study.estimate import duration, expected_seconds, mean, seconds_left
from nnunet_moe.commands.study.jobs import (
    KINDS,
    ON_A_DEVICE,
    PLANS,
    PREPROCESS,
    Job,
    case_sets,
    evaluation_folder,
    evaluation_job,
    jobs_of,
)
from nnunet_moe.commands.study.models import SeededRun, plans_of, read_plans, trained_methods
from nnunet_moe.commands.study.patients import count_patients, source_of
from nnunet_moe.commands.study.published import require_known
from nnunet_moe.commands.study.splits import require_usable
from nnunet_moe.errors import ModelError, SettingsError
from nnunet_moe.labels.labels import labels_of
from nnunet_moe.modalities.codes import Code, channel_names
from nnunet_moe.models.choice import DEFAULT_PLANS
from nnunet_moe.patients import NUM_FOLDS, read_patients, require_a_row
from nnunet_moe.runtime.files import dataset_name, nnunet_folder, visible
from nnunet_moe.runtime.json_files import read_json

JOBS = "jobs.json"
PLANNED = ("2d", "3d_lowres", "3d_fullres")  # nnU-Net's configurations that do not need another one


@dataclass(frozen=True)
class StudyPlan:
    """A study with its models and jobs."""

    study: Study
    codes: list[Code]
    """The codes to score. Some case has each of them."""
    trained: list[SeededRun]
    jobs: dict[str, Job]
    out: Path
    training_cases: tuple[str, ...] = ()
    """The names of the cases of the raw dataset."""
    patients: Mapping[str, str] = field(default_factory=dict)
    """Case -> patient; empty if the patients are not known."""

    def marker(self, job: str) -> Path:
        """Return the marker file of a job. It exists once the job is done."""
        return self.out / "done" / job

    def log(self, job: str) -> Path:
        """Return the file with the output of a job."""
        return self.out / "logs" / f"{job}.log"

    def done(self) -> set[str]:
        """Return the jobs that are done and have not changed since."""
        changed = self.changed()
        return {job for job in self.jobs if self.marker(job).exists() and job not in changed}

    def changed(self) -> set[str]:
        """Return the jobs that must run again, although they may have been done before.

        A job must run again if its command changed, its evaluation was removed, or a job that it needs must run again.
        Another device is not a change. Plans and preprocessing never run again, because existing plans are kept.
        """
        known = self.earlier_commands()
        reports = {
            evaluation_job(model, cases): self.out / evaluation_folder(model, cases) / "report.html"
            for model in self.trained
            for cases in case_sets(self.study)
        }
        found: set[str] = set()
        for name, job in self.jobs.items():
            is_another = name in known and _without_device(known[name]) != _without_device(job.command)
            is_gone = name in reports and not reports[name].exists()
            if name not in (PLANS, PREPROCESS) and (is_another or is_gone or found & set(job.needs)):
                found.add(name)
        return found

    def earlier_commands(self) -> dict[str, Sequence[str]]:
        """Return the command of each job in the last run, including jobs that are no longer part of the study."""
        file = self.out / JOBS
        if not file.exists():
            return {}
        earlier = read_json(file)
        return {**earlier["earlier"], **{name: job["command"] for name, job in earlier["jobs"].items()}}

    def seconds(self, job: str) -> list[float]:
        """Return the seconds from the last start of a job to its end; empty if unknown."""
        file = self.out / "times" / f"{job}.tsv"
        if not file.exists():
            return []
        with file.open(encoding="utf-8") as opened:
            return [float(row["s"]) for row in csv.DictReader(opened, delimiter="\t")]

    def describe(self, num_jobs: int | None) -> str:
        """Describe how many jobs of each kind are done and left, and estimate the remaining time.

        Args:
            num_jobs: number of jobs that run at a time; None if a cluster decides.
        """
        lines, done = [f"Study {self.study.name} of {self.study.dataset}, in {self.out}"], self.done()
        if self.patients:
            number, source = count_patients(self.training_cases, self.patients), source_of(self.study.groups)
            lines.append(f"  {number} patients in {len(self.training_cases)} cases, by {source}")
        for kind in KINDS:
            if of_kind := [job for job in self.jobs if job.startswith(f"{kind}/")]:
                finished = [job for job in of_kind if job in done]
                times = [time for job in finished for time in self.seconds(job)]
                each = f", {duration(mean(times))} each" if times else ""
                lines.append(f"  {kind:10} {len(finished):4} of {len(of_kind)} done{each}")
        left = len(self.jobs) - len(done)
        if not left:
            return "\n".join([*lines, "All jobs are done."])
        parallel = "" if num_jobs is None else f", {num_jobs} at a time"
        lines.append(f"  {left} of {len(self.jobs)} jobs are left{parallel}.")
        return "\n".join([*lines, *(f"  {line}" for line in self.time_left(num_jobs, done))])

    def time_left(self, num_jobs: int | None, done: set[str], running: Mapping[str, float] | None = None) -> list[str]:
        """Estimate the remaining time from the jobs that are done, in one or two sentences.

        Args:
            num_jobs: number of jobs that run at a time; None if a cluster decides.
            done: the jobs that are done.
            running: job that runs now -> seconds since its start.
        """
        running = running or {}
        expected = expected_seconds(self.jobs, {job: time for job in done for time in self.seconds(job)})
        left = [job for job in self.jobs if job not in done]
        lines = []
        if num_jobs is None:
            seconds = sum(max(0.0, expected.get(job, 0.0) - running.get(job, 0.0)) for job in left)
            at_once = "of computing time in total"
        else:
            seconds, at_once = seconds_left(self.jobs, done, expected, num_jobs, running), "to go"
        if seconds:
            lines.append(f"About {duration(seconds)} {at_once}.")
        kinds = dict.fromkeys(job.split("/")[0] for job in left if job not in expected)
        if unknown := [kind for kind in ON_A_DEVICE if kind in kinds]:
            lines.append(f"The time for {' and '.join(unknown)} is known once the first such job is done.")
        return lines


def make_plan(file: Path, out: Path, device: str) -> StudyPlan:
    """Read and check a study, and plan its jobs, without writing files.

    Args:
        file: the YAML file that defines the study.
        out: the output folder, as an absolute path.
        device: `cpu`, `cuda` or `mps`.

    Raises:
        ModalityError: a code is unknown, or images cannot be scored.
        ModelError: the dataset or a trainer does not exist.
        SettingsError: the file has a mistake, or its plans cannot be used.
    """
    study = read_study(file)
    study = replace(study, dataset=dataset_name(study.dataset))
    dataset_file = nnunet_folder(nnUNet_raw) / study.dataset / "dataset.json"
    if not dataset_file.exists():
        raise ModelError(f"{dataset_file} does not exist. Give an existing raw dataset in {file}.")
    dataset_json = read_json(dataset_file)
    modalities = channel_names(dataset_json)
    require_known(study.published, modalities, labels_of(dataset_json))
    training = list(training_cases(study.dataset).values())
    cases = list(training)
    names = tuple(case.name for case in training)
    patients = require_usable(study.dataset, study.splits, study.groups, study.folds, names)
    _require_folds(study)
    for given in study.cases.values():
        of_folder = folder_cases(given.images, given.labels, dataset_json["file_ending"])[0]
        if given.patients is not None:
            require_a_row([case.name for case in of_folder], read_patients(given.patients), str(given.patients))
        cases += of_folder
    codes = choose_codes(modalities, study.evaluation.codes, None, cases)
    trained = trained_methods(study, codes)
    preprocess = _needs_preprocessing(study, out)
    if not preprocess:
        plans_of(study, trained)
    jobs = jobs_of(study, trained, file.resolve(), device, preprocess=preprocess)
    return StudyPlan(study, codes, trained, jobs, out, names, patients)


def _require_folds(study: Study) -> None:
    """Make sure that the split has the study's folds. For others, nnU-Net would train on an unknown random split."""
    splits = nnunet_folder(nnUNet_preprocessed) / study.dataset / "splits_final.json"
    drawn = len(read_json(splits, list)) if splits.exists() else NUM_FOLDS
    number = len(study.splits) or drawn
    if unknown := [fold for fold in study.folds if isinstance(fold, int) and fold >= number]:
        raise SettingsError(
            f"{study.dataset} has no fold {unknown[0]}. Its split has the folds 0 to {number - 1}. Choose from these."
        )


def _needs_preprocessing(study: Study, out: Path) -> bool:
    """Return whether the study must plan and preprocess: it began to, or there are no plans yet.

    Existing plans are kept, because someone may have changed them.
    """
    begun = read_json(out / JOBS)["jobs"] if (out / JOBS).exists() else {}
    if PREPROCESS in begun and not (out / "done" / PREPROCESS).exists():
        return True
    file = nnunet_folder(nnUNet_preprocessed) / study.dataset / f"{study.plans}.json"
    if not file.exists() and study.plans == DEFAULT_PLANS:
        if study.configuration not in PLANNED:
            raise SettingsError(
                f"{study.dataset} is not planned yet, and nnU-Net does not plan {study.configuration!r}. Use one of "
                f"{', '.join(PLANNED)}, or plan first and add your own configuration to the plans."
            )
        return True
    data = PlansManager(read_plans(file, study.configuration)).get_configuration(study.configuration).data_identifier
    raw = nnunet_folder(nnUNet_raw) / study.dataset
    ending = read_json(raw / "dataset.json")["file_ending"]
    cases = [label.name.removesuffix(ending) for label in visible(raw / "labelsTr") if label.name.endswith(ending)]
    # nnU-Net writes this file last for each case
    if missing := [case for case in cases if not (file.parent / data / f"{case}.pkl").exists()]:
        raise SettingsError(
            f"{len(missing)} of {len(cases)} training cases are not preprocessed in {file.parent / data}, e.g. "
            f"{missing[0]}. Run nnunet_moe plan_and_preprocess -d {study.dataset} -c {study.configuration}"
            + ("." if study.plans == DEFAULT_PLANS else f", with the options that gave {study.plans}.")
        )
    return False


def _without_device(command: Sequence[str]) -> list[str]:
    command = list(command)
    if "-device" in command:
        del command[command.index("-device") : command.index("-device") + 2]
    return command
