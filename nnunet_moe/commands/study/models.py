"""Which models a study trains, and the plans that hold their configurations."""

import copy
import json
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.paths import nnUNet_preprocessed, nnUNet_results
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.utilities.crossval_split import generate_crossval_split
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_moe.commands.study.definition import Method, Study
from nnunet_moe.errors import SettingsError
from nnunet_moe.labels.label_sets import LabelSets
from nnunet_moe.modalities.codes import Code, code_digits
from nnunet_moe.models.networks import find_trainer
from nnunet_moe.runtime.files import atomic_write, nnunet_folder
from nnunet_moe.settings.base import Settings
from nnunet_moe.settings.plans import PLANS_KEY, read_settings, unread_settings

NUM_FOLDS = 5
"""Of the split that nnU-Net makes."""


@dataclass(frozen=True)
class SeededRun:
    """A method under one seed: one model, or a dedicated one for each code."""

    method: Method
    seed: int
    configuration: str
    """That `nnunet_moe evaluate` is told."""
    codes: tuple[Code, ...] = ()
    """Those that have a dedicated model, in a configuration of its own."""
    settings_class: type[Settings] = Settings
    """What the trainer reads."""
    fixed_settings: Mapping[str, Any] = field(default_factory=dict)
    """What the trainer forces, whatever the plans say."""

    @property
    def name(self) -> str:
        return f"{self.method.name}_seed{self.seed}"

    @property
    def configurations(self) -> dict[str, str]:
        """What each training is called -> its configuration."""
        if not self.codes:
            return {self.name: self.configuration}
        return {f"{self.name}_{code_digits(code)}": f"{self.configuration}_{code_digits(code)}" for code in self.codes}


def trained_methods(study: Study, codes: list[Code]) -> list[SeededRun]:
    """Every method under each of its seeds.

    A trainer that is not of this package reads neither settings nor seed: it is trained once, on the configuration as
    it is.

    Raises:
        ModelError: there is no such trainer.
        SettingsError: settings or seeds for a trainer that reads none.
    """
    found: list[SeededRun] = []
    for method in study.methods:
        trainer = find_trainer(method.trainer)
        if not hasattr(trainer, "settings_class"):
            if method.settings or len(method.seeds) != 1:
                raise SettingsError(
                    f"{method.trainer} is not of this package: it reads no settings and no seed. Name it with one "
                    f"seed, {{trainer: {method.trainer}, seeds: [0]}}; its own class says how long it trains."
                )
            if not all(map(all, codes[-1:])):
                raise SettingsError(f"{method.trainer} takes complete cases alone; 'codes' must hold the complete one.")
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
    """The study's plans: those it starts from, with a configuration for each of its models; nothing is written.

    Returns:
        The file that they belong in, and what belongs there.

    Raises:
        SettingsError: the plans are not there or lack the configuration, a new method is the same as another one or
            has settings that its trainer does not read, a trainer refuses its settings, or the study or one of its
            models has begun with other plans.
    """
    folder = nnunet_folder(nnUNet_preprocessed) / study.dataset
    plans = read_plans(folder / f"{study.plans}.json", study.configuration)
    plans["plans_name"] = study.study_plans
    dataset_json = json.loads((folder / "dataset.json").read_text())
    base = PlansManager(plans).get_configuration(study.configuration)
    settings = {**base.configuration.get(PLANS_KEY, {}), **study.settings}
    if base.previous_stage_name is not None or "modality_code" in settings:
        what = "for a dedicated model" if "modality_code" in settings else "the second stage of a cascade"
        raise SettingsError(f"{study.configuration} is {what}. Name a configuration that stands alone.")
    file = folder / f"{study.study_plans}.json"
    begun = json.loads(file.read_text()) if file.exists() else None
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
                    f"{method.trainer} is a pre-training, of which there is nothing to score. Train it by itself; "
                    "a study starts no training from -pretrained_weights."
                )
            trainer.checked(plans, configuration, dataset_json)
    plans = plans if begun is None else _continued(begun, plans, file)
    _require_models_of(study, trained, plans)
    return file, plans


def write_plans(study: Study, trained: list[SeededRun]) -> Path:
    """Write the study's plans.

    The folds' splits are written, too, if they are not there: trainings that begin together would all write them.

    Raises:
        SettingsError: as `plans_of`.
    """
    file, plans = plans_of(study, trained)
    _write_json(file, plans)
    if not (splits := file.with_name("splits_final.json")).exists():
        data = file.parent / PlansManager(plans).get_configuration(study.configuration).data_identifier
        cases = infer_dataset_class(str(data)).get_identifiers(str(data))
        # as nnU-Net does
        _write_json(splits, generate_crossval_split(list(np.sort(cases)), seed=12345, n_splits=NUM_FOLDS))
    return file


def read_plans(file: Path, configuration: str) -> dict[str, Any]:
    """Plans that have a configuration.

    Raises:
        SettingsError: they are not there, or lack it.
    """
    if not file.exists():
        raise SettingsError(f"{file} is not there. Plan and preprocess the dataset, or name other plans by 'plans'.")
    plans = json.loads(file.read_text())
    if configuration not in plans["configurations"]:
        raise SettingsError(
            f"{file} has no configuration {configuration!r}, only {', '.join(plans['configurations'])}. Name one of "
            "them by 'configuration'."
        )
    return plans


def _require_new_methods(
    study: Study, trained: list[SeededRun], settings: Mapping[str, Any], begun: Container[str]
) -> None:
    """Make sure that each method differs from the others, and that its settings have an effect.

    Models that the study has begun stay as they are: an older version of this package may have begun them, which read
    other settings.

    Args:
        settings: of all methods, without their own.
        begun: the names of the configurations that the study's plans contain already.

    Raises:
        SettingsError: two methods of which one is new are the same, or a new one has settings without effect.
    """
    same: dict[tuple[str, Settings], list[tuple[str, bool]]] = {}
    for model in trained:
        method = model.method
        is_new = model.configuration == study.configuration or model.configuration not in begun
        if is_new and (unread := unread_settings(method.settings, model.settings_class, model.fixed_settings)):
            raise SettingsError(
                f"{method.trainer} fixes {', '.join(unread)} or does not read it: take it out of {method.name}."
            )
        given = {PLANS_KEY: {**settings, **method.settings}}
        others = same.setdefault((method.trainer, read_settings(model.settings_class, given, model.fixed_settings)), [])
        for other, other_is_new in others:
            if other != method.name and (is_new or other_is_new):
                raise SettingsError(f"{other} and {method.name} are the same trainer with the same settings.")
        others.append((method.name, is_new))


def _add(plans: dict[str, Any], name: str, configuration: dict[str, Any]) -> None:
    if plans["configurations"].setdefault(name, configuration) != configuration:
        raise SettingsError(
            f"The plans have another configuration called {name!r}. Rename it, or the trainer's 'name'."
        )


def _continued(begun: dict[str, Any], plans: dict[str, Any], file: Path) -> dict[str, Any]:
    """The plans with which a study has begun, and what is new."""
    merged = copy.deepcopy(begun)
    for name, configuration in plans["configurations"].items():
        merged["configurations"].setdefault(name, configuration)
    changed = [*_differences(merged["configurations"], plans["configurations"]), *_differences(begun, plans)]
    if changed := [name for name in changed if name != "configurations"]:
        raise SettingsError(
            f"The study has begun with other plans ({file}): {', '.join(changed)} changed since. Give the study's file "
            "another name to begin anew, or take the change back."
        )
    return merged


def _require_models_of(study: Study, trained: list[SeededRun], plans: dict[str, Any]) -> None:
    """Make sure that models that have been trained, or begun to, have been so by these plans."""
    sets = LabelSets.of(json.loads((nnunet_folder(nnUNet_preprocessed) / study.dataset / "dataset.json").read_text()))
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
            label_sets = settings.pop("label_sets", None)  # which the trainer has from dataset.json
            if {**begun, PLANS_KEY: settings} != {PLANS_KEY: {}, **now} or label_sets not in (None, label_sets_now):
                raise SettingsError(
                    f"{folder} was trained with other settings than the study has now. Give the study's file another "
                    "name to begin anew, take the change back, or remove the folder."
                )


def model_folder(study: Study, model: SeededRun, configuration: str) -> Path:
    """Where nnU-Net puts a model, with a folder for each fold."""
    name = f"{model.method.trainer}__{study.study_plans}__{configuration}"
    return nnunet_folder(nnUNet_results) / study.dataset / name


def _differences(begun: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    return (name for name in now if begun.get(name) != now[name])


def _write_json(file: Path, content: Any) -> None:
    with atomic_write(file) as unfinished:
        unfinished.write_text(json.dumps(content, indent=4))
