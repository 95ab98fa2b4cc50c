"""Write a folder to build, test and submit a container of a trained model."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_moe.commands.package.case_model import CaseModel
from nnunet_moe.commands.package.mapping import InputMapping
from nnunet_moe.commands.package.model_copy import copy_model, export_model, training_codes
from nnunet_moe.commands.package.naming import make_mapping, slug
from nnunet_moe.commands.package.program import log_lines, read_options
from nnunet_moe.commands.package.request import Request
from nnunet_moe.commands.package.sample import sample_arguments, sample_result, write_sample
from nnunet_moe.commands.package.sent import sent_cases
from nnunet_moe.commands.package.wheel import CPU_INDEX, constraints, write_wheel
from nnunet_moe.errors import SettingsError
from nnunet_moe.labels.labels import labels_of
from nnunet_moe.modalities.codes import channel_names, code_text, parse_code
from nnunet_moe.models.folders import ModelFolder
from nnunet_moe.quality.file import FILE as QUALITY
from nnunet_moe.quality.file import as_json
from nnunet_moe.quality.label_calibration import LabelCalibration
from nnunet_moe.reports.evaluation_folder import EvaluationFolder
from nnunet_moe.reports.templates import templates
from nnunet_moe.runtime.environment import versions
from nnunet_moe.runtime.files import atomic_folder


@dataclass(frozen=True)
class Packaged:
    """What `package_model` wrote."""

    mapping: InputMapping
    takes: str
    """The cases that the container takes, in words."""
    said: tuple[str, ...]
    """The log lines of the sample case."""
    knows_training: bool
    """Whether the container can warn of subsets of the modalities that no training case had."""


def package_model(request: Request) -> Packaged:
    """Write the folder, after its program has segmented the sample case. On an error, write nothing.

    Raises:
        ModelError: the model was not trained, is damaged or cannot be exported, or its trainer is missing in the
            container.
        ModalityError: the subset of the modalities is unknown or empty.
        SettingsError: the output folder is not empty, the inputs do not fit the model, or an option is out of range.
    """
    model = request.model.find()
    dataset_json, plans = model.content("dataset"), model.content("plans")
    names = channel_names(dataset_json)
    code = tuple(True for _ in names) if request.modalities is None else parse_code(request.modalities, names)
    trained = training_codes(model.folder.parent.name, request.model.folds, names)
    calibrations = _calibrations(request, model)
    with atomic_folder(request.out) as folder:
        if request.modalities is None:
            copy_model(model, folder / "model", request.model.folds, trained)
            if calibrations:
                content = json.dumps(as_json({model.trainer: calibrations}))
                (folder / "model" / QUALITY).write_text(content, encoding="utf-8")
        else:
            export_model(
                model, folder / "model", request.model.folds, trained, dataset=request.model.dataset, code=code
            )
        packaged = CaseModel(folder / "model", request.prediction)
        mapping = make_mapping(
            request.target,
            request.inputs,
            request.output,
            modalities=names,
            kept=packaged.used,
            file_ending=dataset_json["file_ending"],
            step_size=request.prediction.step_size,
            mirroring=request.prediction.mirroring,
        )
        mapping.write(folder / "mapping.json")
        (folder / "constraints.txt").write_text("\n".join(constraints(cpu=request.cpu)) + "\n", encoding="utf-8")
        wheel = write_wheel(folder)
        has = [name for name, is_there in zip(packaged.modalities, packaged.largest_code(), strict=True) if is_there]
        write_sample(folder / "sample" / "input", mapping, has, PlansManager(plans), dataset_json["file_ending"])
        said = _said_of_sample(folder, mapping, has, packaged)
        about = {
            "dataset": model.folder.parent.name,
            "source": model,
            "modalities": None if request.modalities is None else code_text(code, names),
            "takes": packaged.takes,
            "several": packaged.takes_several_subsets,
            "folds": request.model.folds,
            "labels": labels_of(dataset_json),
            "said": said,
            "device": request.prediction.device,
            "cpu": request.cpu,
            "knows_training": trained is not None,
        }
        _write_texts(folder, request.out, mapping, has, wheel.name, about)
        for path in folder.rglob("*"):  # readable for any user of the container
            path.chmod(0o755 if path.is_dir() or path.suffix == ".sh" else 0o644)
    return Packaged(mapping, packaged.takes, tuple(said), trained is not None)


def _calibrations(request: Request, model: ModelFolder) -> dict[str, LabelCalibration]:
    """Return label -> calibration from `-scores`; empty without this option.

    Raises:
        SettingsError: the evaluation measured no signals of trust.
    """
    if request.scores is None:
        return {}
    found = EvaluationFolder(request.scores, model, request.model.folds).calibrations
    if not found:
        raise SettingsError(
            f"-scores {request.scores} has no signals of trust. Rerun `nnunet_moe evaluate` with --quality fast, or "
            "omit -scores."
        )
    return found


def _said_of_sample(folder: Path, mapping: InputMapping, has: Sequence[str], model: CaseModel) -> list[str]:
    """Segment the sample case as the program does, and return the log lines."""
    with TemporaryDirectory() as output:
        options = read_options(mapping, sample_arguments(mapping, has, str(folder / "sample" / "input"), output))
        (case,) = sent_cases(mapping, options)
        return log_lines(case.name, model.predict(case.files(mapping), case.out))


def _write_texts(
    folder: Path, out: Path, mapping: InputMapping, has: Sequence[str], wheel: str, about: Mapping[str, object]
) -> None:
    """Write the files that come from templates.

    Args:
        out: the final folder. The image gets its name.
        has: the modalities of the sample case.
        about: facts on the model, for the README.
    """
    environment = templates("nnunet_moe.commands.package", keep_trailing_newline=True)
    values = {
        "mapping": mapping,
        "key": {"grand-challenge": "socket", "fomo": "flag"}.get(mapping.target, "suffix"),
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        "app": "/app" if mapping.target == "fomo" else "/opt/app",
        "image": slug(out.resolve().name) or "nnunet-moe",
        "wheel": wheel,
        "cpu_index": CPU_INDEX,
        "index": f"--extra-index-url {CPU_INDEX} " if about["cpu"] else "",
        "arguments": " ".join(sample_arguments(mapping, has, "/input", "/output")),
        "here": " ".join(sample_arguments(mapping, has, "sample/input", "sample/output")),
        "result": sample_result(mapping),
        "versions": versions("nnunet-moe", "nnunetv2", "torch"),
        **about,
    }
    names = [".dockerignore", "Dockerfile", "README.md", "predict.py", "test.sh"]
    for name in [*names, "Apptainer.def"] if mapping.target == "fomo" else names:
        (folder / name).write_text(
            environment.get_template(f"{name.lstrip('.')}.jinja").render(values), encoding="utf-8"
        )
