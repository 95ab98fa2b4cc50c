"""`nnunet_moe predict`: nnU-Net's command for a folder in which some cases cannot be predicted."""

import os
import time
import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from nnunet_moe.commands.predict.cases import CaseFiles, find_cases
from nnunet_moe.commands.predict.manifest import Failure, Prediction, write_failures
from nnunet_moe.commands.predict.output_folder import OutputFolder
from nnunet_moe.commands.predict.request import Request
from nnunet_moe.commands.predict.steps import PreparedCase, prepare, write
from nnunet_moe.errors import ModalityError, ModelError, NnunetMoeError, SettingsError
from nnunet_moe.modalities.codes import code_text
from nnunet_moe.models.folders import ModelFolder
from nnunet_moe.models.inference import InferenceContext, load_predictor, predict_logits
from nnunet_moe.prediction import MissingModalityPredictor
from nnunet_moe.reports.evaluation_folder import EvaluationFolder
from nnunet_moe.runtime.processes import Call, WorkError, Workers


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
    context = InferenceContext.of(predictor)
    _require_fitting_options(request, context)
    output = OutputFolder(request, model, context, evaluation)
    return _Run(request, predictor, context, output).finish()


class _Run:
    def __init__(self, request: Request, predictor: Any, context: InferenceContext, output: OutputFolder) -> None:
        self._request, self._predictor, self._context, self._output = request, predictor, context, output
        self._cases, self._failures = find_cases(
            request.images,
            context.dataset_json["file_ending"],
            request.previous_stage,
            num_parts=request.num_parts,
            part_id=request.part_id,
        )
        self._found: dict[str, Prediction] = {}

    def finish(self) -> Outcome:
        """Predict what there is to do."""
        request = self._request
        with Workers(request.preprocessing_processes) as preparing, Workers(request.export_processes) as writing:
            todo = self._output.begin(self._cases)
            print(f"{len(self._cases)} cases, {len(self._cases) - len(todo)} of them predicted before", flush=True)
            with tqdm(total=len(todo), unit="case", disable=not request.show_progress) as progress:
                exports: list[tuple[CaseFiles, Call]] = []
                for case, call in self._preparing(todo, preparing):
                    if (export := self._predicted(case, call, writing)) is not None:
                        exports.append((case, export))
                    progress.update()
                    exports = self._concluded(exports, leave=request.export_processes)
                self._concluded(exports, leave=0)
        self._output.remove_unfinished()
        write_failures(self._output.failures_file, self._failures)
        self._output.manifest.write()
        names = {case.name for case in self._cases} & self._output.manifest.predictions.keys()
        return Outcome(tuple(sorted(names)), tuple(self._failures), self._output.failures_file)

    def _preparing(
        self, cases: Sequence[CaseFiles], workers: Workers
    ) -> Iterator[tuple[CaseFiles, Call[PreparedCase]]]:
        """Cases as they are wanted, with some more under way."""
        waiting: deque[tuple[CaseFiles, Call[PreparedCase]]] = deque()
        for case in cases:
            if len(waiting) == self._request.preprocessing_processes + 1:
                yield waiting.popleft()
            waiting.append((case, workers.submit(prepare, case, self._context, self._request.requirement)))
        yield from waiting

    def _predicted(self, case: CaseFiles, preparing: Call[PreparedCase], writing: Workers) -> "Call | None":
        """Predict a prepared case, and hand it over to be written; None if that failed."""
        try:
            prepared, start = preparing.result(), time.perf_counter()
            logits = predict_logits(self._predictor, prepared.data)
            folder = self._output.unfinished / case.name
            folder.mkdir(parents=True)
            np.save(folder / "logits.npy", logits.numpy())
            self._found[case.name] = Prediction(
                code_text(prepared.code, self._context.modalities),
                prepared.files,
                prepared.seconds + time.perf_counter() - start,
                {},
                prepared.notes,
            )
            to_write = (
                folder / "logits.npy",
                prepared.properties,
                prepared.code,
                self._context,
                self._output.target(case.name),
            )
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
            self._output.manifest.add(case.name, prediction)
            notes = f" ({prediction.notes})" if prediction.notes else ""
            tqdm.write(f"{case.name}: {prediction.modalities}, {prediction.seconds:.1f} s{notes}")
        return waiting

    def _fail(self, case: CaseFiles, error: Exception) -> None:
        self._output.remove_outputs(case.name)
        told = isinstance(error, (NnunetMoeError, WorkError))
        reason = str(error) if told else f"{type(error).__name__}: {error}"
        self._failures.append(Failure(case.name, case.images, reason))
        write_failures(self._output.failures_file, self._failures)
        tqdm.write(f"{case.name}: FAILED. {reason}")
        if self._request.verbose:
            traceback.print_exception(error)


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


def _require_fitting_options(request: Request, context: InferenceContext) -> None:
    requirement, modalities = request.requirement, context.modalities
    if unknown := [name for name in requirement.required if name not in modalities]:
        raise ModalityError(f"--require {' '.join(unknown)}: the model's modalities are {', '.join(modalities)}.")
    if not 1 <= requirement.min_modalities <= len(modalities):
        raise SettingsError(f"--min_modalities is {requirement.min_modalities}; allowed is 1 to {len(modalities)}.")
    needed, configuration = context.configuration.previous_stage_name, request.model.configuration
    if (needed is None) != (request.previous_stage is None):
        raise SettingsError(
            f"{configuration} takes no segmentations of a previous stage; leave -prev_stage_predictions out."
            if needed is None
            else f"{configuration} takes segmentations of {needed}: name their folder, -prev_stage_predictions."
        )


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
