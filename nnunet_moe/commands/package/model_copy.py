"""Copy the parts of a trained model that a container needs."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from nnunetv2.paths import nnUNet_preprocessed

from nnunet_moe.commands.export.channels import dataset_json_of
from nnunet_moe.commands.export.export import export_models
from nnunet_moe.commands.export.request import Request as ExportRequest
from nnunet_moe.commands.export.source import STOCK_TRAINER
from nnunet_moe.commands.package.case_model import PackagedModel
from nnunet_moe.errors import ModalityError, ModelError
from nnunet_moe.modalities.availability import Availability
from nnunet_moe.modalities.codes import Code, channel_names, code_digits
from nnunet_moe.models.checkpoints import read_checkpoint
from nnunet_moe.models.choice import FINAL_CHECKPOINT, Fold, ModelChoice
from nnunet_moe.models.folders import ModelFolder
from nnunet_moe.models.networks import find_trainer
from nnunet_moe.runtime.json_files import read_json

FOR_INFERENCE = ("network_weights", "trainer_name", "inference_allowed_mirroring_axes")
"""What nnU-Net's predictor reads from a checkpoint, apart from the configuration.

Most of the rest is the state of the optimizer.
"""


def copy_model(
    model: ModelFolder, folder: Path, folds: Sequence[Fold], trained: Mapping[Fold, set[Code]] | None
) -> None:
    """Copy a trained model, without lists of cases or paths.

    The previous stages of a cascade are copied, too.

    Args:
        folder: the folder to write. It must not exist.
        trained: fold -> the codes of its training cases.

    Raises:
        ModelError: a file of the model is missing or damaged, or its trainer is missing in the container.
    """
    _require_trainer_in_container(model.trainer)
    folder.mkdir()
    for stage in _stages(model):
        target = folder / stage.folder.name
        target.mkdir()
        dataset_json, plans = stage.content("dataset"), stage.content("plans")
        dataset_json = dataset_json_of(dataset_json, tuple(True for _ in channel_names(dataset_json)))
        for name, kept in (("dataset", dataset_json), ("plans", plans)):
            (target / f"{name}.json").write_text(json.dumps(kept, indent=4), encoding="utf-8")
        for fold in folds:
            stage.require_checkpoint(fold)
            checkpoint = read_checkpoint(stage.checkpoint_file(fold))
            (target / f"fold_{fold}").mkdir()
            arguments = {
                "plans": plans,
                "configuration": stage.configuration,
                "fold": fold,
                "dataset_json": dataset_json,
            }
            read = {key: checkpoint[key] for key in FOR_INFERENCE if key in checkpoint}
            torch.save({**read, "init_args": arguments}, target / f"fold_{fold}" / stage.checkpoint)
    PackagedModel(model.folder.name, tuple(folds), model.checkpoint, _digits(trained)).write(folder)


def export_model(
    model: ModelFolder,
    folder: Path,
    folds: Sequence[Fold],
    trained: Mapping[Fold, set[Code]] | None,
    *,
    dataset: str,
    code: Code,
) -> None:
    """Export one subset of the modalities as an ordinary nnU-Net, with its previous stages.

    Args:
        dataset: the dataset of the model, by name or id.
        code: the subset.

    Raises:
        ModelError: the model cannot be exported.
    """
    folder.mkdir()
    for stage in _stages(model):
        target = folder / _ordinary_name(stage)
        choice = ModelChoice(
            dataset=dataset,
            configuration=stage.configuration,
            trainer=stage.trainer,
            plans=stage.plans,
            folds=tuple(folds),
            checkpoint=stage.checkpoint,
        )
        export_models(ExportRequest(model=choice, modalities=code_digits(code), out=target))
    if trained is not None:
        trained = {fold: {_reduced(found, code) for found in codes} for fold, codes in trained.items()}
    PackagedModel(_ordinary_name(model), tuple(folds), FINAL_CHECKPOINT, _digits(trained)).write(folder)


def training_codes(dataset: str, folds: Sequence[Fold], modalities: Sequence[str]) -> dict[Fold, set[Code]] | None:
    """Read the codes of the training cases of each fold from the preprocessed dataset.

    Args:
        dataset: the full name of the dataset.
        modalities: K names in channel order.

    Returns:
        Fold -> codes; None if the preprocessed dataset is missing or does not fit the model.
    """
    if not nnUNet_preprocessed.is_set():
        return None
    folder = Path(nnUNet_preprocessed) / dataset
    table, splits = folder / "availability.csv", folder / "splits_final.json"
    try:
        if not table.exists():  # nnU-Net's own command planned it, for complete cases only
            return {fold: {tuple(True for _ in modalities)} for fold in folds} if folder.is_dir() else None
        codes = Availability.from_csv(table.read_text(encoding="utf-8"), modalities).codes
        of_folds = read_json(splits, list) if splits.exists() else []
        cases = {fold: list(codes) if fold == "all" else of_folds[int(fold)]["train"] for fold in folds}
        return {fold: {codes[case] for case in of_fold} for fold, of_fold in cases.items()}
    except (
        ModalityError,
        OSError,
        ValueError,
        KeyError,
        IndexError,
        TypeError,
    ):  # the dataset changed since the training
        return None


def _stages(model: ModelFolder) -> list[ModelFolder]:
    stages = [model]
    while (previous := stages[-1].previous_stage) is not None:
        stages.append(previous)
    return stages


def _ordinary_name(model: ModelFolder) -> str:
    return f"{STOCK_TRAINER}__{model.plans}__{model.configuration}"


def _reduced(found: Code, code: Code) -> Code:
    return tuple(there for there, is_kept in zip(found, code, strict=True) if is_kept)


def _digits(trained: Mapping[Fold, set[Code]] | None) -> dict[str, list[str]] | None:
    if trained is None:
        return None
    return {str(fold): sorted(map(code_digits, codes)) for fold, codes in trained.items()}


def _require_trainer_in_container(name: str) -> None:
    module = find_trainer(name).__module__
    if module.partition(".")[0] not in ("nnunetv2", "nnunet_moe"):
        raise ModelError(
            f"{name} comes from the module {module}. The container contains only nnU-Net and nnunet_moe. Package a "
            "model of one of their trainers."
        )
