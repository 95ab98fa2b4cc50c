"""`nnunet_moe predict`: nnU-Net's command for a folder in which some cases cannot be predicted."""

import json
import os
import re
import shutil
import time
import traceback
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from nnunet_moe.commands.predict.command import Request
from nnunet_moe.commands.predict.manifest import Failure, Manifest, Prediction, write_failures
from nnunet_moe.errors import ModalityError, ModelError, NnunetMoeError, SettingsError
from nnunet_moe.images.file_names import READABLE_ENDINGS, case_and_channel, files_by_channel, list_cases
from nnunet_moe.labels.labels import labels_of
from nnunet_moe.modalities.codes import code_text, parse_code
from nnunet_moe.models.folders import ModelFolder
from nnunet_moe.models.inference import (
    PROBABILITIES,
    CaseFiles,
    InferenceContext,
    PreparedCase,
    load_predictor,
    predict_logits,
    prepare,
    write,
)
from nnunet_moe.prediction import MissingModalityPredictor
from nnunet_moe.reports.evaluation_folder import EvaluationFolder
from nnunet_moe.runtime.environment import versions
from nnunet_moe.runtime.files import atomic_write, digest, remove_leftovers
from nnunet_moe.runtime.processes import Call, WorkError, Workers

MAY_DIFFER = ("device", "versions")
"""What a continued run may do otherwise than the one that began."""


@dataclass(frozen=True)
class Outcome:
    """What became of the cases."""

    predicted: tuple[str, ...]
    """Also those of the run that was continued."""
    failures: tuple[Failure, ...]
    failures_file: Path


def predict_cohort(request: Request) -> Outcome:
    """Predict every case that can be predicted.

    Raises:
        ModelError: the model was not trained or cannot take missing modalities; scores of other weights.
        ModalityError: no folder of images, or no image in it; a modality is required that the model does not know.
        SettingsError: an option out of range; the output folder was begun with other settings.
    """
    model = request.model.find()
    evaluation = None if request.scores is None else EvaluationFolder(request.scores, model, request.model.folds)
    if evaluation is not None:
        differing = evaluation.differences(
            step_size=request.prediction.step_size, mirroring=request.prediction.mirroring
        )
        if differing:
            print(f"WARNING: -scores are of predictions with {', '.join(differing)}; expect others of this run")
    predictor = _predictor(model, request)
    plan = InferenceContext.of(predictor)
    _require_fitting_options(request, plan)
    return _Run(request, model, predictor, plan, evaluation).finish()


class _Run:
    def __init__(
        self,
        request: Request,
        model: ModelFolder,
        predictor: Any,
        plan: InferenceContext,
        evaluation: EvaluationFolder | None,
    ) -> None:
        self._request, self._predictor, self._plan = request, predictor, plan
        self._settings = _settings(request, model)
        part = "" if request.num_parts == 1 else f"_{request.part_id}_of_{request.num_parts}"
        self._settings_file, manifest_file, self._failures_file = (
            request.out / name for name in (f"prediction{part}.json", f"manifest{part}.csv", f"failures{part}.csv")
        )
        self._manifest = Manifest(manifest_file, plan.modalities, tuple(labels_of(plan.dataset_json)), evaluation)
        self._cases, self._failures = self._listed()
        self._endings = (plan.dataset_json["file_ending"], *(PROBABILITIES if request.save_probabilities else ()))
        self._unfinished = request.out / f".unfinished{part}" / str(os.getpid())
        self._found: dict[str, Prediction] = {}

    def finish(self) -> Outcome:
        """Predict what there is to do."""
        request = self._request
        with Workers(request.preprocessing_processes) as preparing, Workers(request.export_processes) as writing:
            todo = self._begin()
            print(f"{len(self._cases)} cases, {len(self._cases) - len(todo)} of them predicted before", flush=True)
            with tqdm(total=len(todo), unit="case", disable=not request.show_progress) as progress:
                exports: list[tuple[CaseFiles, Call]] = []
                for case, call in self._preparing(todo, preparing):
                    if (export := self._predicted(case, call, writing)) is not None:
                        exports.append((case, export))
                    progress.update()
                    exports = self._concluded(exports, leave=request.export_processes)
                self._concluded(exports, leave=0)
        shutil.rmtree(self._unfinished.parent, ignore_errors=True)
        write_failures(self._failures_file, self._failures)
        self._manifest.write()
        names = {case.name for case in self._cases} & self._manifest.predictions.keys()
        return Outcome(tuple(sorted(names)), tuple(self._failures), self._failures_file)

    def _listed(self) -> tuple[list[CaseFiles], list[Failure]]:
        """This part's cases, and the files that are none."""
        request, ending = self._request, self._plan.dataset_json["file_ending"]
        files, strays = list_cases(request.images.resolve(), ending)
        if not files and not strays:
            raise ModalityError(f"{request.images} holds no images CASE_XXXX{ending}, where XXXX is the channel.")
        previous = request.previous_stage
        cases = [
            CaseFiles(name, tuple(images), None if previous is None else str(previous / f"{name}{ending}"))
            for name, images in list(files.items())[request.part_id :: request.num_parts]
        ]
        wanted = f"Images are named CASE_XXXX{ending}, where XXXX is the channel."
        failures = [
            Failure(Path(file).name, (file,), f"The name tells no channel, or is not in UTF-8. {wanted}")
            for file in strays
        ]
        for name, others in _of_other_endings(request.images.resolve(), set(files), ending).items():
            failures.append(Failure(name, tuple(others), f"No file of the case ends in {ending}. {wanted}"))
        return cases, failures if request.part_id == 0 else []

    def _begin(self) -> list[CaseFiles]:
        """Leave in the output folder what an earlier run finished, if it is continued; the cases that remain."""
        request = self._request
        request.out.mkdir(parents=True, exist_ok=True)
        begun = sorted(request.out.glob("prediction*.json"))
        if request.continue_prediction:
            for file in begun:
                _require_same_settings(file, self._settings)
            if not self._settings_file.exists():
                self._require_no_outputs()
            self._manifest.read()
        todo = [case for case in self._cases if not self._is_done(case)]
        if changed := {case.name for case in todo} & self._manifest.predictions.keys():
            print(f"{len(changed)} cases are predicted again, since their files or what is required of them changed")
        for case in todo:
            self._manifest.predictions.pop(case.name, None)
            self._remove_outputs(case.name)
        if not request.continue_prediction:
            _remove_tables(file for file in begun if _num_parts(file) != request.num_parts)
            _remove_tables([self._settings_file])
        shutil.rmtree(self._unfinished.parent, ignore_errors=True)
        remove_leftovers(request.out)
        contents = {self._settings_file.name: self._settings}
        if request.part_id == 0:  # as nnU-Net does, for its own evaluation and postprocessing
            contents |= {"dataset.json": self._plan.dataset_json, "plans.json": self._plan.plans.plans}
        for name, content in contents.items():
            with atomic_write(request.out / name) as unfinished:
                unfinished.write_text(json.dumps(content, indent=4))
        return todo

    def _require_no_outputs(self) -> None:
        """What this command did not begin it does not go on with, and does not remove either."""
        if there := [
            case.name for case in self._cases if Path(f"{self._target(case.name)}{self._endings[0]}").exists()
        ]:
            raise SettingsError(
                f"{self._request.out} holds segmentations of {len(there)} of the cases ({there[0]}, ...), but not of a "
                "run of this command. Predict into another folder, or without --continue_prediction: they are replaced."
            )

    def _is_done(self, case: CaseFiles) -> bool:
        """Whether an earlier run predicted a case from the files that there are, and it need not be done again."""
        prediction, modalities = self._manifest.predictions.get(case.name), self._plan.modalities
        outputs = [Path(f"{self._target(case.name)}{ending}") for ending in self._endings]
        if prediction is None or not all(output.exists() for output in outputs):
            return False
        inputs = (*case.images, *filter(None, [case.previous_stage]))
        try:
            files = files_by_channel(case.images, self._plan.dataset_json)
            self._request.requirement.check(parse_code(prediction.modalities, modalities), modalities)
            is_older = max(map(_modified, inputs)) <= min(map(_modified, outputs))
        except (ModalityError, OSError):
            return False
        return is_older and prediction.files == {modalities[channel]: file for channel, file in files.items()}

    def _preparing(
        self, cases: Sequence[CaseFiles], workers: Workers
    ) -> Iterator[tuple[CaseFiles, Call[PreparedCase]]]:
        """Cases as they are wanted, with some more under way."""
        waiting: deque[tuple[CaseFiles, Call[PreparedCase]]] = deque()
        for case in cases:
            if len(waiting) == self._request.preprocessing_processes + 1:
                yield waiting.popleft()
            waiting.append((case, workers.submit(prepare, case, self._plan, self._request.requirement)))
        yield from waiting

    def _predicted(self, case: CaseFiles, preparing: Call[PreparedCase], writing: Workers) -> "Call | None":
        """Predict a prepared case, and hand it over to be written; None if that failed."""
        try:
            prepared, start = preparing.result(), time.perf_counter()
            logits = predict_logits(self._predictor, prepared.data)
            folder = self._unfinished / case.name
            folder.mkdir(parents=True)
            np.save(folder / "logits.npy", logits.numpy())
            self._found[case.name] = Prediction(
                code_text(prepared.code, self._plan.modalities),
                prepared.files,
                prepared.seconds + time.perf_counter() - start,
                {},
                prepared.notes,
            )
            to_write = (folder / "logits.npy", prepared.properties, prepared.code, self._plan, self._target(case.name))
            return writing.submit(write, *to_write, self._request.save_probabilities)
        except Exception as error:  # whatever it is, it is this case's
            self._fail(case, error)
            _require_working(self._predictor.device)
            return None

    def _concluded(self, exports: Sequence[tuple[CaseFiles, Call]], *, leave: int) -> list[tuple[CaseFiles, Call]]:
        """Enter cases that were written into the manifest, and wait until so many are left."""
        waiting = sorted(exports, key=lambda export: not export[1].done())
        while waiting and (len(waiting) > leave or waiting[0][1].done()):
            case, call = waiting.pop(0)
            try:
                volumes, seconds = call.result()
            except Exception as error:  # whatever it is, it is this case's
                self._fail(case, error)
                continue
            found = self._found.pop(case.name)
            prediction = replace(found, volumes=volumes, seconds=found.seconds + seconds)
            self._manifest.add(case.name, prediction)
            notes = f" ({prediction.notes})" if prediction.notes else ""
            tqdm.write(f"{case.name}: {prediction.modalities}, {prediction.seconds:.1f} s{notes}")
        return waiting

    def _fail(self, case: CaseFiles, error: Exception) -> None:
        self._remove_outputs(case.name)
        told = isinstance(error, (NnunetMoeError, WorkError))
        reason = str(error) if told else f"{type(error).__name__}: {error}"
        self._failures.append(Failure(case.name, case.images, reason))
        write_failures(self._failures_file, self._failures)
        tqdm.write(f"{case.name}: FAILED. {reason}")
        if self._request.verbose:
            traceback.print_exception(error)

    def _target(self, case: str) -> Path:
        return self._request.out / case

    def _remove_outputs(self, case: str) -> None:
        for ending in (self._plan.dataset_json["file_ending"], *PROBABILITIES):
            Path(f"{self._target(case)}{ending}").unlink(missing_ok=True)


def _predictor(model: ModelFolder, request: Request) -> Any:
    """nnU-Net's predictor with the folds loaded; threads as in nnU-Net's command."""
    device = torch.device(request.prediction.device)
    torch.set_num_threads(1 if device.type == "cuda" else os.cpu_count() or 1)
    return load_predictor(
        model,
        request.model.folds,
        MissingModalityPredictor,
        tile_step_size=request.prediction.step_size,
        use_mirroring=request.prediction.mirroring,
        perform_everything_on_device=request.on_device,
        device=device,
        verbose=request.verbose,
    )


def _require_fitting_options(request: Request, plan: InferenceContext) -> None:
    requirement, modalities = request.requirement, plan.modalities
    if unknown := [name for name in requirement.required if name not in modalities]:
        raise ModalityError(f"--require {' '.join(unknown)}: the model's modalities are {', '.join(modalities)}.")
    if not 1 <= requirement.min_modalities <= len(modalities):
        raise SettingsError(f"--min_modalities is {requirement.min_modalities}; allowed is 1 to {len(modalities)}.")
    needed, configuration = plan.configuration.previous_stage_name, request.model.configuration
    if (needed is None) != (request.previous_stage is None):
        raise SettingsError(
            f"{configuration} takes no segmentations of a previous stage; leave -prev_stage_predictions out."
            if needed is None
            else f"{configuration} takes segmentations of {needed}: name their folder, -prev_stage_predictions."
        )


def _settings(request: Request, model: ModelFolder) -> dict[str, Any]:
    """What the outputs depend on, besides the images."""
    return {
        "model": f"{model.folder.parent.name}/{model.folder.name}",
        "plans": digest(model.folder / "plans.json"),
        "checkpoints": {f"fold_{fold}": digest(model.checkpoint_file(fold)) for fold in request.model.folds},
        "checkpoint": request.model.checkpoint,
        "step_size": request.prediction.step_size,
        "mirroring": request.prediction.mirroring,
        "prev_stage_predictions": None if request.previous_stage is None else str(request.previous_stage.resolve()),
        "num_parts": request.num_parts,
        "device": request.prediction.device,
        "versions": versions("nnunet-moe", "nnunetv2", "torch"),
    }


def _require_same_settings(file: Path, settings: dict[str, Any]) -> None:
    try:
        before = json.loads(file.read_text())
        differing = [key for key, value in settings.items() if key not in MAY_DIFFER and before[key] != value]
    except (ValueError, KeyError, TypeError) as error:
        raise SettingsError(
            f"{file} cannot be read ({type(error).__name__}: {error}). Predict into another folder, or without "
            "--continue_prediction."
        ) from error
    if differing:
        raise SettingsError(
            f"{file.parent} was begun with other settings ({', '.join(differing)}; see {file.name}). Predict into "
            "another folder, or without --continue_prediction."
        )


def _of_other_endings(folder: Path, cases: set[str], ending: str) -> dict[str, list[str]]:
    """Cases all of whose files have another ending than the dataset's, of those that nnU-Net reads; and these files."""
    found: dict[str, list[str]] = {}
    others = READABLE_ENDINGS - {ending}
    for path in sorted(folder.glob("[!.]*")):
        names = {told[0] for other in others if (told := case_and_channel(path.name, other)) is not None} - cases
        if names and case_and_channel(path.name, ending) is None:
            found.setdefault(names.pop(), []).append(str(path))
    return found


def _remove_tables(settings_files: Iterable[Path]) -> None:
    """Of runs that are replaced: what `prediction*.json` says, and the tables beside it."""
    for file in settings_files:
        part = file.stem.removeprefix("prediction")
        for name in (f"manifest{part}.csv", f"failures{part}.csv", file.name):
            file.with_name(name).unlink(missing_ok=True)


def _num_parts(settings_file: Path) -> int:
    """Of how many parts a run was, by its file's name."""
    match = re.fullmatch(r"prediction_\d+_of_(\d+)\.json", settings_file.name)
    return 1 if match is None else int(match[1])


def _modified(file: str | Path) -> float:
    return Path(file).stat().st_mtime


def _require_working(device: torch.device) -> None:
    """A GPU that has failed once fails every case that follows; theirs is not the fault.

    Raises:
        ModelError: the GPU does not work.
    """
    if device.type == "cuda":
        try:
            torch.cuda.synchronize()
        except RuntimeError as error:
            raise ModelError(
                f"The GPU does not work any more: {error}. Go on with --continue_prediction in a new process."
            ) from error
