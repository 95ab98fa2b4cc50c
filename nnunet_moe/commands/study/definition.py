"""Read and check the file that defines a study."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from nnunet_moe.commands.evaluate.metric_settings import MetricSettings
from nnunet_moe.commands.study.patients import read_groups
from nnunet_moe.commands.study.published import Published, read_published
from nnunet_moe.commands.study.splits import Split, read_split
from nnunet_moe.commands.study.values import (
    checked,
    file_name,
    filled_list,
    is_number,
    load_yaml,
    path_in,
    text,
    unset_variable,
)
from nnunet_moe.errors import SettingsError
from nnunet_moe.models.choice import DEFAULT_PLANS, Fold
from nnunet_moe.models.prediction_settings import DEFAULT_STEP_SIZE, require_step_size
from nnunet_moe.quality.settings import DEFAULT_FAILURE_DSC, FAST, OFF, require_quality_settings
from nnunet_moe.reports.table import short_name
from nnunet_moe.settings.plans import PLANS_KEY, require_allowed

VALIDATION, TEST = "validation cases", "test cases"
"""The cases of the folds that a study scores: those of the part `val`, or of the part `test` if the split has one."""


@dataclass(frozen=True)
class Method:
    """A trainer with its own settings."""

    name: str
    """The name in tables and file names."""
    trainer: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings for the key `nnunet_moe` of the plans, in addition to those of the study."""
    seeds: Sequence[int] = (0,)


@dataclass(frozen=True)
class CaseSet:
    """Images to score with the ensemble of a model's folds, in addition to the folds' validation cases."""

    images: Path
    labels: Path
    patients: Path | None = None
    """The table of the cases' patients. None: that of the raw dataset for its own images, otherwise none."""


DEFAULT_METRICS = MetricSettings()


@dataclass(frozen=True)
class EvaluationOptions:
    """Options of `nnunet_moe evaluate`, under the same names."""

    codes: tuple[str, ...] | None = None
    connectivity: int = DEFAULT_METRICS.connectivity
    min_lesion: float = DEFAULT_METRICS.min_lesion_mm3
    tolerance: float = DEFAULT_METRICS.tolerance_mm
    step_size: float = DEFAULT_STEP_SIZE
    disable_tta: bool = False
    quality: str = FAST
    failure_dsc: float = DEFAULT_FAILURE_DSC


@dataclass(frozen=True)
class Study:
    """A study: the methods, the dataset, and how to score the models."""

    name: str
    """The name of the file, without ending. It is part of the name of the study's plans."""
    dataset: str
    configuration: str
    methods: tuple[Method, ...]
    plans: str = DEFAULT_PLANS
    folds: tuple[Fold, ...] = (0,)
    settings: Mapping[str, Any] = field(default_factory=dict)
    baseline: str = ""
    """The method that all others are compared with."""
    cases: Mapping[str, CaseSet] = field(default_factory=dict)
    evaluation: EvaluationOptions = field(default_factory=EvaluationOptions)
    splits: tuple[Split, ...] = ()
    """The folds of the dataset; empty for those that exist, or that nnU-Net draws."""
    groups: str | None = None
    """The pattern that gives the patient of a case. None: the table of the raw dataset, if there is one."""
    published: tuple[Published, ...] = ()
    """Tables of other publications, which the report shows next to the study's."""

    @property
    def scored_part(self) -> str:
        """The part of the folds whose cases are scored: `test` if the split of each fold has it, else `val`."""
        chosen = [self.splits[fold] for fold in self.folds if isinstance(fold, int) and fold < len(self.splits)]
        return "test" if chosen and all("test" in fold for fold in chosen) else "val"

    @property
    def of_folds(self) -> str:
        """The name of the set of cases that come from the folds."""
        return TEST if self.scored_part == "test" else VALIDATION

    @property
    def study_plans(self) -> str:
        """The identifier of the plans with the configurations of the study."""
        return f"{self.plans}_{self.name}"


def read_study(file: Path) -> Study:
    """Read the file that defines a study.

    Relative paths start at the folder of the file. Paths may contain environment variables, e.g. `$nnUNet_raw`.

    Raises:
        SettingsError: the file is missing or not YAML, a key is unknown, or a value is not allowed.
    """
    given = load_yaml(file, "the YAML file of a study")
    keys = {
        "dataset": text,
        "configuration": file_name,
        "plans": file_name,
        "trainers": filled_list,
        "folds": _folds,
        "seeds": _seeds,
        "settings": _settings,
        "baseline": text,
        "cases": lambda value, name: _cases(value, name, file.parent),
        "evaluation": _evaluation,
        "splits": lambda value, name: read_split(value, name, file.parent),
        "groups": read_groups,
        "published": lambda value, name: read_published(value, name, file.parent),
    }
    try:
        found = checked(given, "the file", keys, required=("dataset", "configuration", "trainers"))
        seeds = found.pop("seeds", (0,))
        methods = tuple(_method(entry, seeds) for entry in found.pop("trainers"))
        study = Study(name=file_name(file.stem, "its name without ending"), methods=methods, **found)
        _check(study)
    except SettingsError as error:
        raise SettingsError(f"{file}: {error}") from error
    return study if study.baseline else replace(study, baseline=methods[0].name)


def _method(entry: Any, seeds: tuple[int, ...]) -> Method:
    if isinstance(entry, str):
        return Method(file_name(entry, "a trainer"), entry, seeds=seeds)
    keys = {"trainer": text, "name": file_name, "settings": _settings, "seeds": _seeds}
    found = checked(entry, "an entry of trainers", keys, required=("trainer",))
    return Method(**{"name": file_name(found["trainer"], "a trainer"), "seeds": seeds, **found})


def _check(study: Study) -> None:
    names = [method.name for method in study.methods]
    shown = list(map(short_name, names))
    if twice := {name for name in shown if shown.count(name) > 1}:
        raise SettingsError(
            f"Two trainers have the same name in tables: {', '.join(sorted(twice))}. Names must differ. Give one a "
            "'name': {trainer: ..., name: ..., settings: {...}}."
        )
    for method in study.methods:
        settings = {**study.settings, **method.settings}
        if reserved := {"seed", "modality_code"} & settings.keys():
            raise SettingsError(
                f"{method.name}: {', '.join(sorted(reserved))} is not allowed in 'settings'. Give seeds with 'seeds'. "
                "A dedicated trainer gets a model for each code automatically."
            )
        require_allowed(settings, "in 'settings'")
    if study.baseline and study.baseline not in names:
        raise SettingsError(f"baseline is {study.baseline!r}. It must be one of {', '.join(names)}.")
    if "all" in study.folds and (len(study.folds) > 1 or not study.cases):
        raise SettingsError(
            "Fold 'all' has no validation cases. Use it without other folds, and add images to score under 'cases'."
        )
    chosen = {fold: study.splits[fold] for fold in study.folds if isinstance(fold, int) and fold < len(study.splits)}
    without = [str(number) for number, fold in chosen.items() if "test" not in fold]
    if 0 < len(without) < len(chosen):
        raise SettingsError(
            f"splits has the part test for some folds of the study, but not for {', '.join(without)}. Give it to all "
            "of them or to none, or choose others with 'folds'."
        )
    if study.scored_part == "test" and folder_of(TEST) in map(folder_of, study.cases):
        raise SettingsError(f"cases has the name {TEST!r}, which is that of the test part of 'splits'. Rename it.")
    known = [study.of_folds, *study.cases]
    if unknown := [each.cases for each in study.published if each.cases is not None and each.cases not in known]:
        raise SettingsError(
            f"published names the cases {unknown[0]!r}. This study scores {', '.join(known)}. Use one of these names."
        )


def _folds(value: Any, key: str) -> tuple[Fold, ...]:
    return _different(value, key, lambda fold: fold == "all" or _is_whole(fold), "numbers from 0, or [all]")


def _seeds(value: Any, key: str) -> tuple[int, ...]:
    return _different(value, key, _is_whole, "numbers from 0")


def _different(value: Any, key: str, accepts: Any, allowed: str) -> tuple:
    if not all(map(accepts, filled_list(value, key))) or len(set(value)) < len(value):
        raise SettingsError(f"{key} is {value!r}. It must be a list of {allowed}, each only once.")
    return tuple(value)


def folder_of(cases: str) -> str:
    """Return the folder name of a set of cases."""
    return re.sub(r"\s+", "_", cases)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _settings(value: Any, key: str) -> dict:
    if not isinstance(value, dict):
        raise SettingsError(f"{key} is {value!r}. It must be an object of settings, as under {PLANS_KEY!r} in plans.")
    return value


def _cases(value: Any, key: str, folder: Path) -> dict[str, CaseSet]:
    if not isinstance(value, dict):
        raise SettingsError(f"{key} is {value!r}. It must be an object: NAME: {{images: FOLDER, labels: FOLDER}}.")
    found = {}
    for name, entry in value.items():
        if not re.fullmatch(r"\w[\w .+-]*", str(name)):
            raise SettingsError(f"{key} has the name {name!r}. Letters, digits, spaces and _ . + - are allowed.")
        if folder_of(str(name)) in map(folder_of, (VALIDATION, *found)):
            raise SettingsError(
                f"{key} has the name {name!r}, which becomes the same folder name as others. Choose another name."
            )
        kinds = {"images": text, "labels": text, "patients": text}
        given = checked(entry, f"{key} {name!r}", kinds, required=("images", "labels"))
        paths = {kind: path_in(folder, path) for kind, path in given.items()}
        for kind, path in paths.items():
            is_table = kind == "patients"
            if not (path.is_file() if is_table else path.is_dir()):
                what = "file" if is_table else "folder"
                raise SettingsError(f"{key} {name!r}: {path} is not a {what}.{unset_variable(path)} Correct the path.")
        found[str(name)] = CaseSet(**{kind: path.resolve() for kind, path in paths.items()})
    return found


def _evaluation(value: Any, key: str) -> EvaluationOptions:
    found = checked(value, key, {option.name: lambda option, _: option for option in fields(EvaluationOptions)})
    if "codes" in found:
        found["codes"] = tuple(str(code) for code in filled_list(found["codes"], "codes"))
    if found.get("quality") is False:  # how YAML reads the word off
        found["quality"] = OFF
    for name, option in found.items():
        if name == "disable_tta" and not isinstance(option, bool):
            raise SettingsError(f"{name} is {option!r}. It must be true or false.")
        if name in ("connectivity", "min_lesion", "tolerance", "failure_dsc") and not is_number(option):
            raise SettingsError(f"{name} is {option!r}. It must be a number.")
    options = EvaluationOptions(**found)
    require_step_size(options.step_size)
    require_quality_settings(options.quality, options.failure_dsc)
    MetricSettings(
        connectivity=options.connectivity, min_lesion_mm3=options.min_lesion, tolerance_mm=options.tolerance
    )  # refuses what `evaluate` refuses
    return options
