"""The models that a study trains, and the plans with their configurations."""

import copy
import json
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnunetv2.paths import nnUNet_preprocessed, nnUNet_results
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_moe.commands.study.definition import Method, Study
from nnunet_moe.commands.study.patients import study_patients
from nnunet_moe.errors import SettingsError
from nnunet_moe.labels.label_sets import LabelSets
from nnunet_moe.modalities.codes import Code, code_digits
from nnunet_moe.models.networks import find_trainer
from nnunet_moe.patients import crossval_split
from nnunet_moe.runtime.files import atomic_write, nnunet_folder
from nnunet_moe.runtime.json_files import read_json
from nnunet_moe.settings.base import Settings
from nnunet_moe.settings.plans import PLANS_KEY, read_settings, unread_settings


@dataclass(frozen=True)
class SeededRun:
    """A method with one seed. It has one model, or a dedicated model for each code."""

    method: Method
    seed: int
    configuration: str
    """The configuration for `nnunet_moe evaluate`."""
    codes: tuple[Code, ...] = ()
    """The codes that have a dedicated model, each in its own configuration."""
    settings_class: type[Settings] = Settings
    """The settings that the trainer reads."""
    fixed_settings: Mapping[str, Any] = field(default_factory=dict)
    """The settings that the trainer fixes, regardless of the plans."""

    @property
    def name(self) -> str:
        return f"{self.method.name}_seed{self.seed}"

    @property
    def configurations(self) -> dict[str, str]:
        """Name of each training -> its configuration."""
        if not self.codes:
            return {self.name: self.configuration}
        return {f"{self.name}_{code_digits(code)}": f"{self.configuration}_{code_digits(code)}" for code in self.codes}


def trained_methods(study: Study, codes: list[Code]) -> list[SeededRun]:
    """Return every method with each of its seeds.

    A trainer from outside this package reads neither settings nor seeds. It is trained once, with the unchanged
    configuration.

    Raises:
        ModelError: a trainer does not exist.
        SettingsError: a trainer that reads no settings or seeds was given some.
    """
    found: list[SeededRun] = []
    for method in study.methods:
        trainer = find_trainer(method.trainer)
        if not hasattr(trainer, "settings_class"):
            if method.settings or len(method.seeds) != 1:
                raise SettingsError(
                    f"{method.trainer} does not come from this package, so it reads no settings and no seed. Give it "
                    f"one seed: {{trainer: {method.trainer}, seeds: [0]}}. Its class fixes the number of epochs."
                )
            if not all(map(all, codes[-1:])):
                raise SettingsError(
                    f"{method.trainer} takes only complete cases. Add the code of all modalities to 'codes'."
                )
            found.append(SeededRun(method, method.seeds[0], study.configuration))
            continue
        own = f"_{method.name}" if method.settings else ""
        for seed in method.seeds:
            configuration = f"{study.configuration}{own}_seed{seed}"
            own_codes = tuple(codes) if trainer.is_dedicated else ()
            read = trainer.settings_class, trainer.forced_settings
            found.append(SeededRun(method, seed, configuration, own_codes, *read))
    return found


def plans_of(study: Study, trained: list[SeededRun]) -> tuple[Path, dict[str, Any]]:
    """Make the study's plans, without writing them: the original plans and a configuration for each model.

    Returns:
        The file for the plans, and its content.

    Raises:
        SettingsError: for one of these reasons:
            - the plans are missing or lack the configuration;
            - a new method is the same as another one, or has settings that its trainer does not read;
            - a trainer refuses its settings;
            - the study or one of its models has begun with other plans.
    """
    folder = nnunet_folder(nnUNet_preprocessed) / study.dataset
    plans = read_plans(folder / f"{study.plans}.json", study.configuration)
    plans["plans_name"] = study.study_plans
    dataset_json = read_json(folder / "dataset.json")
    base = PlansManager(plans).get_configuration(study.configuration)
    settings = {**base.configuration.get(PLANS_KEY, {}), **study.settings}
    if base.previous_stage_name is not None or "modality_code" in settings:
        what = "for a dedicated model" if "modality_code" in settings else "the second stage of a cascade"
        raise SettingsError(f"{study.configuration} is {what}. Choose a configuration that needs no other one.")
    file = folder / f"{study.study_plans}.json"
    begun = read_json(file) if file.exists() else None
    _require_new_methods(study, trained, settings, () if begun is None else begun["configurations"])
    for model in trained:
        method = model.method
        if model.configuration == study.configuration:
            continue
        own = {**settings, **model.method.settings, "seed": model.seed}
        _add(plans, model.configuration, {"inherits_from": study.configuration, PLANS_KEY: own})
        for code in model.codes:
            dedicated = {**own, "modality_code": [int(available) for available in code]}
            name = f"{model.configuration}_{code_digits(code)}"
            _add(plans, name, {"inherits_from": model.configuration, PLANS_KEY: dedicated})
        for configuration in model.configurations.values():
            trainer = find_trainer(method.trainer)
            if trainer.is_pretraining:
                raise SettingsError(
                    f"{method.trainer} is a pre-training, which gives nothing to score. Train it outside the study. A "
                    "study cannot start trainings from -pretrained_weights."
                )
            trainer.checked(plans, configuration, dataset_json)
    plans = plans if begun is None else _continued(begun, plans, file)
    _require_models_of(study, trained, plans)
    return file, plans


def write_plans(study: Study, trained: list[SeededRun]) -> Path:
    """Write the study's plans.

    If the splits of the folds are missing, they are written, too. Otherwise all trainings that start at the same time
    would write them.

    Raises:
        SettingsError: as for `plans_of`.
    """
    file, plans = plans_of(study, trained)
    _write_json(file, plans)
    if not (splits := file.with_name("splits_final.json")).exists():
        data = file.parent / PlansManager(plans).get_configuration(study.configuration).data_identifier
        cases = infer_dataset_class(str(data)).get_identifiers(str(data))
        # without patients, the same split as nnU-Net's
        patients = study_patients(study.dataset, study.groups, cases)
        if folds := list(study.splits) or crossval_split(cases, patients):
            _write_json(splits, folds)
    return file


def read_plans(file: Path, configuration: str) -> dict[str, Any]:
    """Read plans, and make sure that they have a configuration.

    Raises:
        SettingsError: the plans are missing, or lack the configuration.
    """
    if not file.exists():
        raise SettingsError(
            f"{file} does not exist. Plan and preprocess the dataset, or choose other plans with 'plans'."
        )
    plans = read_json(file)
    if configuration not in plans["configurations"]:
        raise SettingsError(
            f"{file} has no configuration {configuration!r}, only {', '.join(plans['configurations'])}. Choose one of "
            "them with 'configuration'."
        )
    return plans


def _require_new_methods(
    study: Study, trained: list[SeededRun], settings: Mapping[str, Any], begun: Container[str]
) -> None:
    """Make sure that each method differs from the others, and that its settings have an effect.

    Models that the study has already begun are not checked. An older version of this package, which read other
    settings, may have begun them.

    Args:
        study: the study.
        trained: its methods, each with each of its seeds.
        settings: the settings that all methods share.
        begun: the names of the configurations that the study's plans already contain.

    Raises:
        SettingsError: a new method is the same as another one, or has settings without effect.
    """
    same: dict[tuple[str, Settings], list[tuple[str, bool]]] = {}
    for model in trained:
        method = model.method
        is_new = model.configuration == study.configuration or model.configuration not in begun
        if is_new and (unread := unread_settings(method.settings, model.settings_class, model.fixed_settings)):
            raise SettingsError(
                f"{method.trainer} fixes {', '.join(unread)} or does not read it. Take it out of {method.name}."
            )
        given = {PLANS_KEY: {**settings, **method.settings}}
        others = same.setdefault((method.trainer, read_settings(model.settings_class, given, model.fixed_settings)), [])
        for other, other_is_new in others:
            if other != method.name and (is_new or other_is_new):
                raise SettingsError(
                    f"{other} and {method.name} are the same trainer with the same settings. Remove or change one."
                )
        others.append((method.name, is_new))


def _add(plans: dict[str, Any], name: str, configuration: dict[str, Any]) -> None:
    if plans["configurations"].setdefault(name, configuration) != configuration:
        raise SettingsError(
            f"The plans already have another configuration {name!r}. Rename it, or change the trainer's 'name'."
        )


def _continued(begun: dict[str, Any], plans: dict[str, Any], file: Path) -> dict[str, Any]:
    """Add new configurations to the plans with which a study has begun."""
    merged = copy.deepcopy(begun)
    for name, configuration in plans["configurations"].items():
        merged["configurations"].setdefault(name, configuration)
    changed = [*_differences(merged["configurations"], plans["configurations"]), *_differences(begun, plans)]
    if changed := [name for name in changed if name != "configurations"]:
        raise SettingsError(
            f"The study has begun with other plans ({file}): {', '.join(changed)} changed since. Undo the change, or "
            "rename the study's file to start a new study."
        )
    return merged


def _require_models_of(study: Study, trained: list[SeededRun], plans: dict[str, Any]) -> None:
    """Make sure that models that are trained or have begun to train used these plans."""
    sets = LabelSets.of(read_json(nnunet_folder(nnUNet_preprocessed) / study.dataset / "dataset.json"))
    label_sets_now = None if sets is None else [list(row) for row in sets.setting]
    for model in trained:
        for name in model.configurations.values():
            folder = model_folder(study, model, name)
            if not (folder / "plans.json").exists():
                continue
            try:
                begun = PlansManager(str(folder / "plans.json")).get_configuration(name).configuration
            except ValueError:
                begun = {}
            now = PlansManager(plans).get_configuration(name).configuration
            settings = dict(begun.get(PLANS_KEY, {}))
            label_sets = settings.pop("label_sets", None)  # the trainer took them from dataset.json
            if {**begun, PLANS_KEY: settings} != {PLANS_KEY: {}, **now} or label_sets not in (None, label_sets_now):
                raise SettingsError(
                    f"{folder} was trained with other settings than the study has now. Undo the change, remove the "
                    "folder, or rename the study's file to start a new study."
                )


def model_folder(study: Study, model: SeededRun, configuration: str) -> Path:
    """Return nnU-Net's folder of a model, which has a folder for each fold."""
    name = f"{model.method.trainer}__{study.study_plans}__{configuration}"
    return nnunet_folder(nnUNet_results) / study.dataset / name


def _differences(begun: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    return (name for name in now if begun.get(name) != now[name])


def _write_json(file: Path, content: Any) -> None:
    with atomic_write(file) as unfinished:
        unfinished.write_text(json.dumps(content, indent=4), encoding="utf-8")
