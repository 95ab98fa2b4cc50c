"""Predict the cases of a folder, and record cases that cannot be predicted instead of stopping."""

import time
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from nnunet_moe.commands.predict.bids_cases import filters_of, find_bids_cases_to_predict, require_ending_of_bids
from nnunet_moe.commands.predict.cases import CaseFiles, find_cases, part_of
from nnunet_moe.commands.predict.dicom_cases import find_dicom_cases
from nnunet_moe.commands.predict.inputs import Remembered
from nnunet_moe.commands.predict.manifest import Failure, Prediction, write_failures
from nnunet_moe.commands.predict.output_folder import OutputFolder
from nnunet_moe.commands.predict.request import Request
from nnunet_moe.commands.predict.steps import PreparedCase, ReadSettings, prepare, write
from nnunet_moe.commands.predict.trust import Trust
from nnunet_moe.errors import ModalityError, ModelError, NnunetMoeError, SettingsError
from nnunet_moe.images.alignment.volumes import require_positions_for_dicom, require_positions_in
from nnunet_moe.images.notes import OncePerModality
from nnunet_moe.modalities.codes import code_text, parse_code
from nnunet_moe.models.folders import ModelFolder
from nnunet_moe.models.inference import InferenceContext, load_predictor, predict_logits
from nnunet_moe.models.network_input import with_only
from nnunet_moe.prediction import MissingModalityPredictor
from nnunet_moe.reports.evaluation_folder import EvaluationFolder
from nnunet_moe.runtime.memory import memory_for
from nnunet_moe.runtime.network_time import NetworkTime
from nnunet_moe.runtime.processes import Call, WorkError, Workers, in_advance


@dataclass(frozen=True)
class Outcome:
    """The result of a run."""

    predicted: tuple[str, ...]
    """The predicted cases, including those of the run that was resumed."""
    failures: tuple[Failure, ...]
    failures_file: Path
    network_time: NetworkTime
    doubtful: tuple[str, ...] = ()
    """The predicted cases of which less is expected than `--require_quality`."""


def predict_cohort(request: Request) -> Outcome:
    """Predict every case that can be predicted.

    Raises:
        ModelError: the model was not trained, does not accept missing modalities, or `scores` belong to other weights.
        ModalityError: the folder of images does not exist or has no image, or a required modality is unknown.
        SettingsError: an option is out of range, or the output folder was started with other settings.
    """
    network_time = NetworkTime()
    model = request.model.find()
    evaluation = None if request.scores is None else EvaluationFolder(request.scores, model, request.model.folds)
    if evaluation is not None:
        differing = evaluation.differences(
            step_size=request.prediction.step_size, mirroring=request.prediction.mirroring
        )
        if differing:
            print(
                f"WARNING: -scores come from predictions with {', '.join(differing)}. This run may have other scores."
            )
    calibrations = {} if evaluation is None else evaluation.calibrations
    is_cascade = request.previous_stage is not None
    trust = Trust.of(calibrations, request.quality, request.require_quality, is_cascade=is_cascade)
    for note in [] if trust is None else trust.notes():
        print(f"WARNING: -scores: {note}")
    predictor = _predictor(model, request)
    context = InferenceContext.of(predictor)
    request = replace(request, alignment=request.alignment.for_dataset(context.dataset_json, context.modalities))
    _require_fitting_options(request, context)
    if request.bids:
        request = replace(request, filters=filters_of(request.filters, context.dataset_json, context.modalities))
    output = OutputFolder(request, model, context, evaluation, trust)
    return _Run(request, predictor, context, output, network_time).finish()


class _Run:
    """One run of the command."""

    def __init__(
        self,
        request: Request,
        predictor: Any,
        context: InferenceContext,
        output: OutputFolder,
        network_time: NetworkTime,
    ) -> None:
        self._request, self._predictor, self._context, self._output = request, predictor, context, output
        self._network_time = network_time
        self._cases, self._failures = part_of(
            *_cases(request, context), num_parts=request.num_parts, part_id=request.part_id
        )
        self._read_settings = ReadSettings(request.requirement, request.alignment, request.output_space)
        self._found: dict[str, tuple[Prediction, tuple[str, ...], Remembered]] = {}
        self._once = OncePerModality()

    def finish(self) -> Outcome:
        """Predict the remaining cases, and write the tables."""
        request, device = self._request, self._request.prediction.device
        with (
            request.workers.workers("preparing", device) as preparing,
            request.workers.workers("finishing", device) as writing,
        ):
            todo = self._output.begin(self._cases)
            self._failures += [_altered(case, self._output) for case in self._output.altered]
            print(f"{len(self._cases)} cases, {len(self._cases) - len(todo)} of them predicted before", flush=True)
            exports: list[tuple[CaseFiles, Call]] = []

            def submit(case: CaseFiles, ahead: int) -> tuple[CaseFiles, Call[PreparedCase], int]:
                call = preparing.submit(prepare, case, self._context, self._read_settings, ahead=ahead)
                return case, call, ahead

            with tqdm(total=len(todo), unit="case", disable=not request.show_progress) as progress:
                for case, call, ahead in in_advance(todo, submit, preparing):
                    if (export := self._predicted(case, call, writing, ahead=ahead)) is not None:
                        exports.append((case, export))
                    progress.update()
                    exports = self._concluded(exports, leave=writing.in_advance)
                self._concluded(exports, leave=0)
        self._output.remove_unfinished()
        write_failures(self._output.failures_file, self._failures)
        self._output.manifest.write()
        self._output.inputs.write(self._output.manifest.predictions.keys())
        kept = {case.name for case in self._cases} - {case.name for case in self._output.altered}
        names = kept & self._output.manifest.predictions.keys()
        failures_file = self._output.failures_file
        doubtful = tuple(case for case in sorted(names) if self._is_doubtful(case))
        return Outcome(tuple(sorted(names)), tuple(self._failures), failures_file, self._network_time, doubtful)

    def _is_doubtful(self, case: str) -> bool:
        manifest = self._output.manifest
        return manifest.trust is not None and bool(manifest.trust.doubtful(manifest.predictions[case].trust))

    def _predicted(
        self, case: CaseFiles, preparing: Call[PreparedCase], writing: Workers, *, ahead: int
    ) -> "Call | None":
        """Predict a prepared case and submit it for writing; return None if the case failed."""
        try:
            prepared, start = preparing.result(), time.perf_counter()
            code = code_text(prepared.code, self._context.modalities)
            with memory_for(case.name, code, self._predictor.device), self._network_time.running():
                logits = predict_logits(self._predictor, prepared.data)
            folder = self._output.unfinished / case.name
            folder.mkdir(parents=True)
            np.save(folder / "logits.npy", logits.numpy())
            self._output.write_sidecar(case, prepared, folder)
            others = self._predict_others(prepared, folder)
            seconds = prepared.seconds + time.perf_counter() - start
            prediction = Prediction(
                code,
                prepared.files,
                seconds,
                {},
                _in_one_line(prepared.notes),
                {} if prepared.aligned is None else prepared.aligned.columns,
            )
            remembered = Remembered(prepared.states, None, prepared.has_copies)
            self._found[case.name] = prediction, prepared.notes, remembered
            to_write = (
                folder / "logits.npy",
                prepared.properties,
                prepared.code,
                self._context,
                self._output.target(case.name),
            )
            how = self._request.save_probabilities, prepared.aligned, self._request.output_space, others
            return writing.submit(write, *to_write, *how, ahead=ahead)
        except Exception as error:  # any error concerns only this case
            self._fail(case, error)
            _require_working(self._predictor.device)
            return None

    def _predict_others(self, prepared: PreparedCase, folder: Path) -> list[Path] | None:
        """Predict a case without one modality after another, if the options ask for that.

        Returns:
            The files of the logits; None if nothing is measured.
        """
        trust, files = self._output.manifest.trust, []
        for code in [] if trust is None else trust.passes(prepared.code):
            with self._network_time.running():
                logits = predict_logits(self._predictor, with_only(prepared.data, code))
            files.append(folder / f"without_{len(files)}.npy")
            np.save(files[-1], logits.numpy())
        return None if trust is None else files

    def _concluded(self, exports: Sequence[tuple[CaseFiles, Call]], *, leave: int) -> list[tuple[CaseFiles, Call]]:
        """Add written cases to the manifest, and wait until at most `leave` cases are left."""
        waiting = sorted(exports, key=lambda export: not export[1].done())
        while waiting and (len(waiting) > leave or waiting[0][1].done()):
            case, call = waiting.pop(0)
            try:
                volumes, signals, outputs, seconds = call.result()
            except Exception as error:  # any error concerns only this case
                self._fail(case, error)
                continue
            found, notes, remembered = self._found.pop(case.name)
            self._output.inputs.add(case.name, replace(remembered, outputs=outputs))
            seconds, trust = found.seconds + seconds, self._output.manifest.trust
            code = parse_code(found.modalities, self._context.modalities)
            cells = {} if trust is None else trust.cells(code, signals)
            prediction = replace(found, volumes=volumes, seconds=seconds, trust=cells)
            self._output.manifest.add(case.name, prediction)
            said = f" ({line})" if (line := _in_one_line(self._once.new(notes))) else ""
            tqdm.write(f"{case.name}: {prediction.modalities}, {prediction.seconds:.1f} s{said}")
        return waiting

    def _fail(self, case: CaseFiles, error: Exception) -> None:
        self._output.remove_outputs(case.name)
        is_message = isinstance(error, (NnunetMoeError, WorkError))
        reason = str(error) if is_message else f"{type(error).__name__}: {error}"
        self._failures.append(Failure(case.name, case.images, reason))
        write_failures(self._output.failures_file, self._failures)
        tqdm.write(f"{case.name}: FAILED. {reason}")
        if self._request.verbose:
            traceback.print_exception(error)


def _cases(request: Request, context: InferenceContext) -> tuple[list[CaseFiles], list[Failure]]:
    """Return all cases, and a failure for all whose case is not clear."""
    ending = context.dataset_json["file_ending"]
    if request.bids:
        return find_bids_cases_to_predict(request.images, request.filters, request.previous_stage, ending)
    if request.dicom:
        return find_dicom_cases(request.images, context.modalities, request.previous_stage, ending)
    return find_cases(request.images, context.dataset_json, request.previous_stage)


def _in_one_line(notes: Iterable[str]) -> str:
    return "; ".join("\n".join(notes).splitlines())


def _altered(case: CaseFiles, output: OutputFolder) -> Failure:
    return Failure(
        case.name,
        case.images,
        f"{output.target(case.name)}{output.ending} is not what this command wrote. If it is damaged, remove it "
        "and rerun the command. If you corrected it, move it to another folder.",
    )


def _predictor(model: ModelFolder, request: Request) -> Any:
    """Return nnU-Net's predictor with the folds loaded."""
    return load_predictor(
        model,
        request.model.folds,
        MissingModalityPredictor,
        tile_step_size=request.prediction.step_size,
        use_mirroring=request.prediction.mirroring,
        perform_everything_on_device=request.on_device,
        device=torch.device(request.prediction.device),
        verbose=request.verbose,
    )


def _require_fitting_options(request: Request, context: InferenceContext) -> None:
    requirement, modalities = request.requirement, context.modalities
    if unknown := [name for name in requirement.required if name not in modalities]:
        raise ModalityError(
            f"--require {' '.join(unknown)}: the model does not know this. Choose from {', '.join(modalities)}."
        )
    if not 1 <= requirement.min_modalities <= len(modalities):
        raise SettingsError(
            f"--min_modalities is {requirement.min_modalities}. Choose a number from 1 to {len(modalities)}."
        )
    if request.output_space is not None and request.output_space not in modalities:
        raise ModalityError(
            f"--output_space {request.output_space}: the model does not know this. Choose from {', '.join(modalities)}."
        )
    if request.output_space is not None and not request.alignment.is_on:
        raise SettingsError("--output_space has an effect only with --align. Add --align grid or --align rigid.")
    require_positions_in(context.dataset_json["file_ending"], request.alignment)
    if request.bids:
        require_ending_of_bids(context.dataset_json["file_ending"])
    if request.dicom:
        require_positions_for_dicom(context.dataset_json["file_ending"])
    needed, configuration = context.configuration.previous_stage_name, request.model.configuration
    if (needed is None) != (request.previous_stage is None):
        raise SettingsError(
            f"{configuration} takes no segmentations of a previous stage. Remove -prev_stage_predictions."
            if needed is None
            else f"{configuration} needs the segmentations of {needed}. Give their folder with -prev_stage_predictions."
        )


def _require_working(device: torch.device) -> None:
    """Stop the run if the GPU failed, because every further case would fail, too.

    Raises:
        ModelError: the GPU no longer works.
    """
    if device.type == "cuda":
        try:
            torch.cuda.synchronize()
        except RuntimeError as error:
            raise ModelError(
                f"The GPU no longer works: {error}. Rerun the command with --continue_prediction."
            ) from error
