"""The jobs of a study. Each is an ordinary command with the jobs that it needs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_moe.commands.study.definition import CaseSet, EvaluationOptions, Study, folder_of
from nnunet_moe.commands.study.models import SeededRun

KINDS = ("preprocess", "plans", "train", "evaluate")
ON_A_DEVICE = ("train", "evaluate")
"""The kinds of jobs that need a device, so only a few of them run at a time."""
PREPROCESS, PLANS = "preprocess/preprocess", "plans/plans"


@dataclass(frozen=True)
class Job:
    """A command and the names of the jobs that must be done before it."""

    command: tuple[str, ...]
    needs: tuple[str, ...] = ()
    like: str = ""
    """Jobs of one kind with the same text are expected to take the same time."""


def jobs_of(study: Study, trained: Sequence[SeededRun], file: Path, device: str, *, preprocess: bool) -> dict[str, Job]:
    """Return all jobs as `KIND/NAME` -> job, in the order in which they start one after another.

    This is the order of the file: the first seed of every method, then the second seed of every method, and so on. The
    evaluations of a model follow its trainings directly, so that the first comparison comes early.

    Args:
        study: the study.
        trained: its methods, each with each of its seeds.
        file: the file that defines the study.
        device: `cpu`, `cuda` or `mps`.
        preprocess: whether the dataset must be planned and preprocessed first.
    """
    jobs = {}
    if preprocess:
        options = ("-d", study.dataset, "-c", study.configuration)
        jobs[PREPROCESS] = Job(("nnunet_moe", "plan_and_preprocess", *options, "--no_pbar"))
    jobs[PLANS] = Job(("nnunet_moe", "study", str(file), "-o", ".", "--only", "plans"), tuple(jobs))
    for model in _seed_by_seed(trained):
        like = model.method.name
        trainings = {}
        for name, configuration in model.configurations.items():
            for fold in study.folds:
                what = (study.dataset, configuration, str(fold), "-tr", model.method.trainer, "-p", study.study_plans)
                # --c resumes a killed training, and starts a new one otherwise
                command = ("nnUNetv2_train", *what, "-device", device, "--c")
                trainings[f"train/{name}_fold{fold}"] = Job(command, (PLANS,), like)
        jobs |= trainings
        for cases in case_sets(study):
            command = _evaluate(study, model, cases, device)
            jobs[evaluation_job(model, cases)] = Job(command, tuple(trainings), f"{like} on {cases}")
    return jobs


def _seed_by_seed(trained: Sequence[SeededRun]) -> list[SeededRun]:
    """Sort models by the place of their seed among the seeds of their method, and keep the order of the methods."""
    return sorted(trained, key=lambda model: model.method.seeds.index(model.seed))


def case_sets(study: Study) -> dict[str, CaseSet | None]:
    """Return the sets of cases to score: those of the folds, if any, and those of the study's file."""
    of_folds = {} if "all" in study.folds else {study.of_folds: None}
    return {**of_folds, **study.cases}


def evaluation_job(model: SeededRun, cases: str) -> str:
    """Return the name of the job that scores a model on a set of cases."""
    return f"evaluate/{model.name}__{folder_of(cases)}"  # unique, because the name of a method has no __


def evaluation_folder(model: SeededRun, cases: str) -> Path:
    """Return the output folder of `nnunet_moe evaluate`, relative to the study's folder."""
    return Path("evaluations") / folder_of(cases) / model.name


def _evaluate(study: Study, model: SeededRun, cases: str, device: str) -> tuple[str, ...]:
    options = ["-d", study.dataset, "-c", model.configuration, "-tr", model.method.trainer, "-p", study.study_plans]
    options += ["-f", *map(str, study.folds), "-o", str(evaluation_folder(model, cases)), "-device", device]
    if (folders := case_sets(study)[cases]) is not None:
        options += ["-i", str(folders.images), "-l", str(folders.labels)]
        options += [] if folders.patients is None else ["-patients", str(folders.patients)]
    elif study.scored_part != "val":
        options += ["-part", study.scored_part]
    return ("nnunet_moe", "evaluate", *options, *_options(study.evaluation))


def _options(evaluation: EvaluationOptions) -> list[str]:
    """Return the options that differ from the defaults of the command."""
    options: list[str] = []
    for name, value in vars(evaluation).items():
        if value == getattr(EvaluationOptions(), name):
            continue
        if isinstance(value, bool):
            options.append(f"--{name}")
        else:
            dashes = "--" if name == "quality" else "-"
            options += [f"{dashes}{name}", *(value if isinstance(value, tuple) else [str(value)])]
    return options
