"""Export a trained model as ordinary nnU-Net models, each for a fixed subset of the modalities."""

import re
from pathlib import Path

from tqdm import tqdm

from nnunet_moe.commands.export.model_folder import ExportedModel, WrittenFold
from nnunet_moe.commands.export.onnx_file import require_onnx
from nnunet_moe.commands.export.request import Request
from nnunet_moe.commands.export.source import STOCK_TRAINER, Source
from nnunet_moe.errors import ModelError, SettingsError
from nnunet_moe.modalities.codes import code_text
from nnunet_moe.models.choice import Fold
from nnunet_moe.models.folders import ModelFolder
from nnunet_moe.reports.evaluation_folder import EvaluationFolder
from nnunet_moe.runtime.files import atomic_folder, folder_name, require_own_files


def export_models(request: Request) -> list[Path]:
    """Write the model folders. If one fails, write none.

    Returns:
        The written folders, one for each subset of the modalities.

    Raises:
        ModelError: the model was not trained, is damaged, does not come from this package or cannot be exported, or
            the scores belong to other weights.
        ModalityError: the subset of the modalities is unknown or empty.
        SettingsError: the output folder is not empty, or a package that the options need is missing.
    """
    if request.onnx:
        require_onnx()
    model = request.model.find()
    source = Source(model)
    if not source.becomes_ordinary and not request.onnx:
        raise ModelError(
            f"nnU-Net cannot plan the network of {request.model.trainer} for any modalities, so it cannot become an "
            "ordinary nnU-Net. It can be exported as ONNX: add --onnx."
        )
    codes = source.codes(request.modalities)
    names = [code_text(code, source.modalities) for code in codes]
    require_own_files(names)
    out = _folder_of(request, model, names[0])
    _require_place_of_its_own(out, model)
    evaluation = None if request.scores is None else EvaluationFolder(request.scores, model, request.model.folds)
    subfolders = [folder_name(name) for name in names] if request.modalities is None else [""]
    with atomic_folder(out) as folder:
        exports = [ExportedModel(source, code, folder / name) for code, name in zip(codes, subfolders, strict=True)]
        written: list[dict[Fold, WrittenFold]] = [{} for _ in exports]
        with tqdm(total=len(request.model.folds) * len(exports), unit="network", disable=None) as progress:
            for fold in request.model.folds:
                loaded = source.load(fold)
                for export, folds in zip(exports, written, strict=True):
                    folds[fold] = export.write_fold(loaded, onnx=request.onnx)
                    progress.update()
        for export, folds, name in zip(exports, written, names, strict=True):
            scores = None if evaluation is None else evaluation.scores(name)
            export.write_rest(folds, scores, onnx=request.onnx, dataset_id=request.dataset_id)
    return [out / subfolder for subfolder in subfolders]


def _folder_of(request: Request, model: ModelFolder, modalities: str) -> Path:
    """Return the folder to write: `-o`, or the place of a dataset of its own below it.

    Raises:
        SettingsError: another dataset below `-o` has the number already.
    """
    if request.dataset_id is None:
        return request.out
    prefix = f"Dataset{request.dataset_id:03d}_"
    name = prefix + re.sub(r"\W+", "_", modalities)
    if taken := sorted(folder.name for folder in request.out.glob(f"{prefix}*") if folder.name != name):
        raise SettingsError(
            f"{request.out} has {taken[0]} already, and nnU-Net finds datasets by their number. Choose a free number "
            "with -dataset_id."
        )
    return request.out / name / f"{STOCK_TRAINER}__{model.plans}__{model.configuration}"


def _require_place_of_its_own(out: Path, model: ModelFolder) -> None:
    """Refuse a folder in the results of the source dataset: nnU-Net would expect a model of all its channels there."""
    if model.folder.parent.resolve() in (out.resolve(), *out.resolve().parents):
        raise SettingsError(
            f"{out} lies among the results of {model.folder.parent.name}. nnU-Net would take the export there for a "
            "model of all channels of that dataset. Choose a folder outside of it with -o."
        )
