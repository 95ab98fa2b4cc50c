"""Which trained models are scored, and on which cases."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunetv2.paths import nnUNet_preprocessed, nnUNet_raw
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

from nnunet_moe.errors import ModalityError, ModelError
from nnunet_moe.images.file_names import case_and_channel, list_cases
from nnunet_moe.models.choice import Fold, ModelChoice
from nnunet_moe.models.folders import ModelFolder, not_trained, trained_models
from nnunet_moe.runtime.files import dataset_name, nnunet_folder
from nnunet_moe.settings.base import Settings
from nnunet_moe.settings.plans import read_settings


@dataclass(frozen=True)
class ScoredCase:
    """The files of a case: those images that there are, and the reference segmentation."""

    name: str
    images: tuple[str, ...]
    label: str
    channels: frozenset[int]
    """Those that the images' names tell."""


def find_models(choice: ModelChoice) -> list[ModelFolder]:
    """The trained models that a choice stands for.

    That is the one of the configuration; and every dedicated one, whose configuration inherits from it and has a
    `modality_code`.

    Raises:
        ModelError: none was trained, or a fold's checkpoint is missing.
    """
    dataset = dataset_name(choice.dataset)
    models = [
        model
        for model in trained_models(dataset, choice.trainer, choice.plans, choice.checkpoint)
        if (plans_file := model.folder / "plans.json").exists()
        and _stands_for(plans_file, model.configuration, choice.configuration)
    ]
    if not models:
        raise not_trained(dataset, choice.trainer, choice.plans, choice.configuration)
    for model in models:
        for needed in filter(None, (model, model.previous_stage)):
            for fold in choice.folds:
                needed.require_checkpoint(fold)
    return models


def validation_cases(dataset: str, fold: Fold) -> list[ScoredCase]:
    """The cases that a fold was not trained on, from the raw dataset.

    Raises:
        ModelError: the split has no such fold, or a case is not in the raw dataset.
    """
    file = nnunet_folder(nnUNet_preprocessed) / dataset / "splits_final.json"
    splits = json.loads(file.read_text()) if file.exists() else []
    if not isinstance(fold, int) or fold >= len(splits):
        raise ModelError(
            f"Fold {fold} has no validation cases in {file} ({len(splits)} folds). Name another by -f, or score cases "
            "that it was not trained on: -i IMAGES -l LABELS."
        )
    cases = training_cases(dataset)
    if missing := [case for case in splits[fold]["val"] if case not in cases]:
        raise ModelError(
            f"{nnunet_folder(nnUNet_raw) / dataset} has no images of {', '.join(missing)}, which {file} names for fold "
            f"{fold}."
        )
    return [cases[name] for name in sorted(splits[fold]["val"])]


def training_cases(dataset: str) -> dict[str, ScoredCase]:
    """The cases of the raw dataset that models are trained and validated on, by name.

    Raises:
        ModelError: the raw dataset is not there.
    """
    raw = nnunet_folder(nnUNet_raw) / dataset
    if not (raw / "dataset.json").exists():
        raise ModelError(f"{raw / 'dataset.json'} is not there: the training cases' images are read from there.")
    files = get_filenames_of_train_images_and_targets(str(raw))
    file_ending = json.loads((raw / "dataset.json").read_text())["file_ending"]
    return {name: _case(name, paths["images"], paths["label"], file_ending) for name, paths in files.items()}


def folder_cases(images: Path, labels: Path, file_ending: str) -> list[ScoredCase]:
    """The cases of a folder of images, some files of which may be missing, with a label each.

    Raises:
        ModalityError: no folder, no images, or images and labels that do not belong together.
    """
    files, strays = list_cases(images, file_ending)
    if strays:
        raise ModalityError(
            f"{strays[0]} names no channel, or is not in UTF-8: images are named CASE_XXXX{file_ending}. Rename or "
            "remove it."
        )
    if not labels.is_dir():
        raise ModalityError(f"{labels} is no folder.")
    if not files:
        raise ModalityError(f"{images} holds no images CASE_XXXX{file_ending}.")
    labelled = {path.name.removesuffix(file_ending) for path in labels.glob(f"[!.]*{file_ending}")}
    if alone := sorted(labelled ^ set(files)):
        raise ModalityError(
            f"{images} and {labels} do not hold the same cases: in one of them only are {', '.join(alone)}. Add what "
            "is missing or take the rest out."
        )
    return [_case(name, paths, str(labels / f"{name}{file_ending}"), file_ending) for name, paths in files.items()]


def _case(name: str, images: Sequence[str], label: str, file_ending: str) -> ScoredCase:
    found = [case_and_channel(image, file_ending) for image in images]
    return ScoredCase(name, tuple(images), label, frozenset(channel for _, channel in filter(None, found)))


def _stands_for(plans_file: Path, name: str, configuration: str) -> bool:
    """Whether a trained configuration is the one asked for, or a dedicated one that inherits from it."""
    if name == configuration:
        return True
    configurations = json.loads(plans_file.read_text())["configurations"]
    parents, parent = [], name
    while (parent := configurations.get(parent, {}).get("inherits_from")) is not None and parent not in parents:
        parents.append(parent)
    if configuration not in parents:
        return False
    resolved = PlansManager(str(plans_file)).get_configuration(name).configuration
    return read_settings(Settings, resolved).modality_code is not None
