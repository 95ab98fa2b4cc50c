"""Find the trained models to score, and the cases to score them on."""

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
from nnunet_moe.patients import read_splits
from nnunet_moe.runtime.files import dataset_name, nnunet_folder, visible
from nnunet_moe.runtime.json_files import read_json
from nnunet_moe.settings.base import Settings
from nnunet_moe.settings.plans import read_settings

MOST_NAMED = 10
"""How many names a message lists."""


@dataclass(frozen=True)
class ScoredCase:
    """The files of a case: its available images and the reference segmentation."""

    name: str
    images: tuple[str, ...]
    label: str
    channels: frozenset[int]
    """The channels in the names of the images."""


def find_models(choice: ModelChoice) -> list[ModelFolder]:
    """Find the trained models of a choice.

    These are the model of the configuration, and dedicated models whose configuration inherits from it and has a
    `modality_code`.

    Raises:
        ModelError: no model was trained, or the checkpoint of a fold is missing.
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


def cases_of_fold(dataset: str, fold: Fold, part: str) -> list[ScoredCase]:
    """Return the cases of one part of a fold, from the raw dataset.

    Args:
        dataset: its full name.
        fold: the fold.
        part: `val` or `test`.

    Raises:
        ModelError: the fold is not in the split or has no such part, or a case is missing in the raw dataset.
    """
    file = nnunet_folder(nnUNet_preprocessed) / dataset / "splits_final.json"
    splits = read_splits(file) if file.exists() else []
    what = "test" if part == "test" else "validation"
    if not isinstance(fold, int) or fold >= len(splits) or part not in splits[fold]:
        raise ModelError(
            f"Fold {fold} has no {what} cases in {file} ({len(splits)} folds). Choose another fold with -f, or "
            "score other cases, that it was not trained on, with -i IMAGES -l LABELS."
        )
    cases = training_cases(dataset)
    if missing := [case for case in splits[fold][part] if case not in cases]:
        raise ModelError(
            f"{nnunet_folder(nnUNet_raw) / dataset} has no images of {', '.join(missing)}. {file} lists these cases "
            f"for fold {fold}. Add their images, or change the split and retrain."
        )
    return [cases[name] for name in sorted(splits[fold][part])]


def training_cases(dataset: str) -> dict[str, ScoredCase]:
    """Return the training and validation cases of the raw dataset, by name.

    Raises:
        ModelError: the raw dataset is missing.
    """
    raw = nnunet_folder(nnUNet_raw) / dataset
    if not (raw / "dataset.json").exists():
        raise ModelError(f"{raw / 'dataset.json'} is missing. The images are read from the raw dataset. Restore it.")
    files = get_filenames_of_train_images_and_targets(str(raw))
    file_ending = read_json(raw / "dataset.json")["file_ending"]
    return {name: _case(name, paths["images"], paths["label"], file_ending) for name, paths in files.items()}


def folder_cases(images: Path, labels: Path, file_ending: str) -> tuple[list[ScoredCase], list[str]]:
    """Return the cases of a folder of images and a folder of labels. Images may be missing.

    Returns:
        The cases that have an image and a label; and messages on all other files.

    Raises:
        ModalityError: a folder does not exist, or no case has an image and a label.
    """
    files, strays = list_cases(images, file_ending)
    if not labels.is_dir():
        raise ModalityError(f"-l {labels} is not a folder. Choose the folder of the labels.")
    labelled = {path.name.removesuffix(file_ending) for path in visible(labels) if path.name.endswith(file_ending)}
    wanted = f"Images must be named CASE_XXXX{file_ending}, where XXXX is the channel."
    notes = [
        f"{text} {', '.join(found[:MOST_NAMED])}{f' and {len(found) - MOST_NAMED} more' * (len(found) > MOST_NAMED)}. "
        f"{remedy}"
        for found, text, remedy in (
            (strays, "Not scored, because the names have no channel, or are not in UTF-8:", wanted),
            (sorted(labelled - files.keys()), f"{images} has no image of these cases, which {labels} has:", wanted),
            (sorted(files.keys() - labelled), f"{labels} has no label CASE{file_ending} of these cases:", "Add them."),
        )
        if found
    ]
    notes += [
        f"{images / name} and {labels / other} differ only in upper and lower case. Give both the same name."
        for name in sorted(files.keys() - labelled)
        for other in sorted(labelled - files.keys())
        if name.lower() == other.lower()
    ]
    notes += _labels_with_other_endings(labels, sorted(files.keys() - labelled), file_ending)
    if not files.keys() & labelled:
        listed = "".join(f"\n  {note}" for note in notes)
        raise ModalityError(f"No case has an image in {images} and a label in {labels}. {wanted}{listed}")
    cases = {name: paths for name, paths in files.items() if name in labelled}
    return [
        _case(name, paths, str(labels / f"{name}{file_ending}"), file_ending) for name, paths in cases.items()
    ], notes


def _labels_with_other_endings(labels: Path, without: Sequence[str], file_ending: str) -> list[str]:
    """Return a message on files that look like the labels of cases without a label, but have another ending."""
    meant = [path.name for path in visible(labels) if path.name.partition(".")[0] in without]
    if not meant:
        return []
    more = f" and {len(meant) - MOST_NAMED} more" * (len(meant) > MOST_NAMED)
    listed = ", ".join(meant[:MOST_NAMED]) + more
    return [f"{labels} has files that look like labels, but do not end in {file_ending}: {listed}. Convert them."]


def _case(name: str, images: Sequence[str], label: str, file_ending: str) -> ScoredCase:
    found = [case_and_channel(image, file_ending) for image in images]
    return ScoredCase(name, tuple(images), label, frozenset(channel for _, channel in filter(None, found)))


def _stands_for(plans_file: Path, name: str, configuration: str) -> bool:
    """Return whether a trained configuration is the requested one, or a dedicated one that inherits from it."""
    if name == configuration:
        return True
    configurations = read_json(plans_file)["configurations"]
    parents, parent = [], name
    while (parent := configurations.get(parent, {}).get("inherits_from")) is not None and parent not in parents:
        parents.append(parent)
    if configuration not in parents:
        return False
    resolved = PlansManager(str(plans_file)).get_configuration(name).configuration
    return read_settings(Settings, resolved).modality_code is not None
