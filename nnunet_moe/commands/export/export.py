"""`nnunet_moe export`: write a trained model as ordinary nnU-Net models for fixed modalities."""

from pathlib import Path

from tqdm import tqdm

from nnunet_moe.commands.export.model_folder import ExportedModel, WrittenFold
from nnunet_moe.commands.export.onnx_file import require_onnx
from nnunet_moe.commands.export.request import Request
from nnunet_moe.commands.export.source import Source
from nnunet_moe.errors import ModelError, SettingsError
from nnunet_moe.modalities.codes import code_text
from nnunet_moe.models.choice import Fold
from nnunet_moe.models.folders import ModelFolder
from nnunet_moe.reports.evaluation_folder import EvaluationFolder
from nnunet_moe.runtime.files import atomic_folder, folder_name, require_own_files


def export_models(request: Request) -> list[Path]:
    """Write the model folders, all of them or none.

    Returns:
        One folder a subset of the modalities.

    Raises:
        ModelError: the model was not trained, is damaged, is none of this package or cannot be exported; scores of
            other weights.
        ModalityError: an unknown or empty subset of the modalities.
        SettingsError: the output folder holds something, or a package is missing that the options need.
    """
    if request.onnx:
        require_onnx()
    model = request.model.find()
    _require_place_of_its_own(request.out, model)
    source = Source(model)
    if not source.becomes_ordinary and not request.onnx:
        raise ModelError(
            f"The network of {request.model.trainer} is none that nnU-Net plans, with whatever modalities: it cannot "
            "be exported as an ordinary nnU-Net. Export it as ONNX, with --onnx."
        )
    codes = source.codes(request.modalities)
    names = [code_text(code, source.modalities) for code in codes]
    require_own_files(names)
    evaluation = None if request.scores is None else EvaluationFolder(request.scores, model, request.model.folds)
    subfolders = [folder_name(name) for name in names] if request.modalities is None else [""]
    with atomic_folder(request.out) as folder:
        exports = [ExportedModel(source, code, folder / name) for code, name in zip(codes, subfolders, strict=True)]
        written: list[dict[Fold, WrittenFold]] = [{} for _ in exports]
        with tqdm(total=len(request.model.folds) * len(exports), unit="network", disable=None) as progress:
            for fold in request.model.folds:
                loaded = source.load(fold)
                for export, folds in zip(exports, written, strict=True):
                    folds[fold] = export.write_fold(loaded, onnx=request.onnx)
                    progress.update()
        for export, folds, name in zip(exports, written, names, strict=True):
            export.write_rest(folds, None if evaluation is None else evaluation.scores(name), onnx=request.onnx)
    return [request.out / subfolder for subfolder in subfolders]


def _require_place_of_its_own(out: Path, model: ModelFolder) -> None:
    """Among the results of the dataset it came from, an export would be taken for a model of all channels."""
    if model.folder.parent.resolve() in (out.resolve(), *out.resolve().parents):
        raise SettingsError(
            f"{out} lies among the results of {model.folder.parent.name}, where nnU-Net would take the export for a "
            "model of all its channels. Name a folder elsewhere by -o."
        )
