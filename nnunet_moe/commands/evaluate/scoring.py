"""Segment cases with every code and score the segmentations, several steps at a time."""

import json
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from tqdm import tqdm

from nnunet_moe.commands.evaluate.metric_settings import MetricSettings
from nnunet_moe.commands.evaluate.metrics import METRICS
from nnunet_moe.commands.evaluate.model_state import state_of
from nnunet_moe.commands.evaluate.models import ScoredCase
from nnunet_moe.commands.evaluate.records import Record, Records, content_of, file_state, key_of
from nnunet_moe.commands.evaluate.steps import Prediction, PreparedCase, finish, prepare
from nnunet_moe.errors import NnunetMoeError
from nnunet_moe.images.file_names import files_of
from nnunet_moe.images.notes import OncePerModality
from nnunet_moe.labels.label_sets import LabelSets, labels_in
from nnunet_moe.labels.labels import labels_of
from nnunet_moe.modalities.codes import (
    Code,
    all_codes,
    channel_names,
    code_digits,
    code_of_digits,
    code_text,
    is_within,
)
from nnunet_moe.models.choice import Fold
from nnunet_moe.models.folders import ModelFolder
from nnunet_moe.models.network_input import with_only
from nnunet_moe.models.prediction_settings import PredictionSettings
from nnunet_moe.models.segmenter import Segmenter
from nnunet_moe.quality.measuring import leave_one_out
from nnunet_moe.quality.settings import FULL, OFF
from nnunet_moe.quality.signals import Signals, with_agreement
from nnunet_moe.runtime.files import atomic_write, folder_name
from nnunet_moe.runtime.memory import memory_for
from nnunet_moe.runtime.network_time import NetworkTime
from nnunet_moe.runtime.processes import Call, WorkError, Workers, in_advance, where_and_why

T = TypeVar("T")


@dataclass(frozen=True)
class Part:
    """The cases that the model of one fold, or an ensemble of folds, segments."""

    folds: tuple[Fold, ...]
    cases: tuple[ScoredCase, ...]

    @property
    def fold_text(self) -> str:
        return "+".join(str(fold) for fold in self.folds)


@dataclass(frozen=True)
class Scorer:
    """The settings for making, scoring and keeping segmentations."""

    codes: tuple[Code, ...]
    label_sets: LabelSets | None
    """The annotated labels of each case; None if dataset.json has no label sets."""
    metrics: MetricSettings
    prediction: PredictionSettings
    records: Records
    predictions: Path
    """The folder for segmentations that are kept."""
    save_predictions: bool
    preparing: Workers
    finishing: Workers
    network_time: NetworkTime
    arrays: Path
    """The folder for arrays that one step leaves for the next."""
    quality: str = OFF
    """Which signals of trust are measured, one of `LEVELS`."""
    once: OncePerModality = field(default_factory=OncePerModality)
    """Which messages the log contains."""


@dataclass(frozen=True)
class _PlannedCase:
    """What is left to do for a case."""

    case: ScoredCase
    key: str
    records: dict[Code, Record | None]
    pending: list[Code]
    call: Call[PreparedCase] | None
    """Prepares the case; None if nothing is left."""


@dataclass
class _Segmentation:
    """A case and a code whose rows are due next, or later."""

    case: ScoredCase
    code: Code
    call: Call[Record] | None = None
    """Makes the record; None if there is a record already or nothing to score."""
    record: Record | None = None
    failure: str = ""
    arrays: Path | None = None
    """What to remove afterwards: the file of the logits, or the folder of the case at its last code."""


class ModelRun:
    """The run of one model over the cases of one part.

    Raises:
        ModelError: the model cannot be loaded.
    """

    def __init__(self, scorer: Scorer, model: ModelFolder, part: Part) -> None:
        self.scorer, self.model, self.part = scorer, model, part
        self.segmenter = Segmenter(model, part.folds, scorer.prediction, scorer.network_time)
        self.labels = labels_of(self.segmenter.dataset_json)
        self.modalities = channel_names(self.segmenter.dataset_json)
        self.codes = [code for code in scorer.codes if self.segmenter.takes(code)]
        self._segmented = self._all_codes()
        """The codes to score and, for the agreement, those with one modality less; the smallest first."""
        self._recorded: dict[str, set[Code]] = {}
        """Case -> the codes whose segmentations were scored."""
        self._described: set[Path] = set()
        """Folders of segmentations to which this run has written dataset.json and plans.json."""
        bfloat16 = self.segmenter.computes_in_bfloat16()
        self.model_state = state_of(model, part.folds, scorer.metrics, scorer.prediction, bfloat16=bfloat16)

    def rows(self) -> Iterator[dict]:
        """Yield rows for `Results`. Scores of an earlier run are not recomputed."""
        total = sum(is_within(code, self._named(case)) for case in self.part.cases for code in self._segmented)
        about = f"{self.model.trainer} {self.model.configuration} fold {self.part.fold_text}"
        finishing, waiting = self.scorer.finishing, deque[_Segmentation]()
        with tqdm(total=total, desc=about, unit="segmentation", mininterval=1) as progress:
            for case, ahead in in_advance(self.part.cases, self._prepared, self.scorer.preparing):
                progress.set_postfix_str(case.case.name)
                for segmentation in self._segmentations(case, ahead):
                    waiting.append(segmentation)
                    while waiting and (len(waiting) > finishing.in_advance or _is_done(waiting[0])):
                        yield from self._concluded(waiting.popleft(), progress)
            while waiting:
                yield from self._concluded(waiting.popleft(), progress)

    def gates(self) -> dict[str, np.ndarray]:
        """Return the gate weights of every mixture without noise: layer -> `(codes, experts)`.

        Called before `rows`, it returns the weights of the first fold.
        """
        table = self.segmenter.network.gate_table(self.codes)
        return {layer: weights.cpu().numpy() for layer, weights in table.items()}

    def _prepared(self, case: ScoredCase, ahead: int) -> tuple[_PlannedCase, int]:
        """Find what is left to do for a case, and begin to prepare it if anything is left."""
        files = sorted(map(os.path.abspath, files_of(case.images, case.label)))
        annotation = list(self._annotated_labels(case, self._named(case)))
        key = key_of([self.model_state, [(file, content_of(file)) for file in files], annotation])
        records = {code: self._stored(key, case, code) for code in self._segmented}
        known = next((code_of_digits(record.available) for record in records.values() if record is not None), None)
        pending = [
            code for code in self._segmented if records[code] is None and is_within(code, known or self._named(case))
        ]
        for code in pending:  # it would differ from the scores of this run
            self._prediction_file(case, code).unlink(missing_ok=True)
        call, segmenter = None, self.segmenter
        if pending:
            folder = self.scorer.arrays / self.model.folder.name / self.part.fold_text / case.name
            what = (case, pending, segmenter.input, folder, segmenter.is_second_stage)
            call = self.scorer.preparing.submit(prepare, *what, ahead=ahead)
        return _PlannedCase(case, key, records, pending, call), ahead

    def _segmentations(self, planned: _PlannedCase, ahead: int) -> Iterator[_Segmentation]:
        """Predict each code of a case that is left to do, and yield all codes of the case."""
        case, call = planned.case, planned.call
        prepared, unprepared = (None, "") if call is None else _attempt(call.result)
        for line in () if prepared is None else self.scorer.once.new(prepared.log_lines):
            tqdm.write(line)
        for number, code in enumerate(self._segmented, 1):
            found = _Segmentation(case, code, record=planned.records[code])
            if code in planned.pending:
                found.failure = unprepared
                if prepared is not None and is_within(code, prepared.available):
                    following = len(self._segmented) * (ahead + 1) - number
                    make = partial(self._predicted, planned, prepared, code, following)
                    found.call, found.failure = _attempt(make)
            if prepared is not None:
                found.arrays = prepared.folder if number == len(self._segmented) else _logits_file(prepared, code)
            yield found

    def _predicted(self, planned: _PlannedCase, prepared: PreparedCase, code: Code, ahead: int) -> Call[Record]:
        """Predict one code of a case, and submit the rest of the work on it."""
        scorer, case, context = self.scorer, planned.case, self.segmenter.context
        logits_file = _logits_file(prepared, code)
        with memory_for(case.name, code_text(code, self.modalities), scorer.prediction.device):
            if prepared.images is None:
                input_file, properties = prepared.inputs[code]
                data = with_only(np.load(input_file), code)
            else:
                data, properties = self.segmenter.input_of(prepared.images, code)
            np.save(logits_file, self.segmenter.logits(data).numpy())
        file = self._prediction_file(case, code)
        if is_kept := self._keeps(code):
            self._describe(file.parent)
        of_record = {"trainer": self.model.trainer, "fold": self.part.fold_text, "case": case.name, "code": code}
        prediction = Prediction(
            code,
            logits_file,
            properties,
            self._annotated_labels(case, prepared.available),
            file,
            is_kept,
            partial(scorer.records.save, key=planned.key, **of_record),
            scorer.quality,
        )
        what = (case.name, prediction, prepared.without_images(), context, scorer.metrics)
        return scorer.finishing.submit(finish, *what, ahead=ahead)

    def _concluded(self, found: _Segmentation, progress: tqdm) -> Iterator[dict]:
        """Yield the rows of a segmentation, when its scores are known."""
        if found.call is not None:
            found.record, found.failure = _attempt(found.call.result)
        if found.record is not None:
            self._recorded.setdefault(found.case.name, set()).add(found.code)
        if found.arrays is not None:
            shutil.rmtree(found.arrays) if found.arrays.is_dir() else found.arrays.unlink(missing_ok=True)
        if is_within(found.code, self._named(found.case)):
            progress.update()
        if found.code in self.codes and (found.record is not None or found.failure):
            yield from self._record_rows(found.case, found.code, found.record, found.failure)

    def _named(self, case: ScoredCase) -> Code:
        """Return the code of a case according to its file names."""
        return tuple(channel in case.channels for channel in range(len(self.modalities)))

    def _all_codes(self) -> list[Code]:
        """Return the codes to segment, see `_segmented`."""
        needed = set(self.codes)
        if self.scorer.quality == FULL:
            needed |= {other for code in self.codes for other in leave_one_out(code) if self.segmenter.takes(other)}
        return [code for code in all_codes(len(self.modalities)) if code in needed]

    def _keeps(self, code: Code) -> bool:
        """Return whether the segmentations of a code are kept."""
        return self.scorer.save_predictions and code in self.codes

    def _stored(self, key: str, case: ScoredCase, code: Code) -> Record | None:
        record = self.scorer.records.load(key, self.model.trainer, self.part.fold_text, case.name, code)
        quality = self.scorer.quality
        if record is not None and quality != OFF and record.signals is None:  # an earlier run did not measure them
            return None
        if record is not None and quality == FULL and not record.has_segmentation:
            return None
        if record is None or not self._keeps(code):
            return record
        is_kept = record.kept is not None and record.kept == file_state(self._prediction_file(case, code))
        return record if is_kept else None

    def _annotated_labels(self, case: ScoredCase, available: Code) -> dict[str, int | tuple[int, ...]]:
        """Return the labels that were annotated in a case. Only these are scored, with every code."""
        if self.scorer.label_sets is None:
            return self.labels
        is_scored = self.scorer.label_sets.of_items(torch.tensor([available]), [case.name])[0]
        return labels_in(self.segmenter.dataset_json, is_scored)

    def _prediction_file(self, case: ScoredCase, code: Code) -> Path:
        folder = self.scorer.predictions / self.model.trainer / folder_name(code_text(code, self.modalities))
        return folder / f"{case.name}{self.segmenter.dataset_json['file_ending']}"

    def _describe(self, folder: Path) -> None:
        """Write dataset.json and plans.json next to segmentations, as `nnUNetv2_predict` does."""
        if folder in self._described:
            return
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in (("dataset", self.segmenter.dataset_json), ("plans", self.segmenter.context.plans.plans)):
            with atomic_write(folder / f"{name}.json") as unfinished:
                unfinished.write_text(json.dumps(content, indent=4), encoding="utf-8")
        self._described.add(folder)

    def _record_rows(self, case: ScoredCase, code: Code, record: Record | None, failure: str) -> Iterator[dict]:
        signals = self._signals(case, code, record)
        for label in self.labels:
            scores = record.scores[label] if record is not None else dict.fromkeys(METRICS)
            yield {
                "trainer": self.model.trainer,
                "fold": self.part.fold_text,
                "case": case.name,
                "code": code_text(code, self.modalities),
                "label": label,
                **{metric: np.nan if value is None else value for metric, value in scores.items()},
                "configuration": self.model.configuration,
                "failure": failure,
                **signals.get(label, {}),
            }

    def _signals(self, case: ScoredCase, code: Code, record: Record | None) -> dict[str, Signals]:
        """Return the signals of trust that were measured. All codes with one modality less were concluded before."""
        if record is None or record.signals is None or self.scorer.quality == OFF:
            return {}
        of_record = self.model.trainer, self.part.fold_text, case.name
        others = leave_one_out(code)
        if self.scorer.quality != FULL or not others or not self._recorded[case.name].issuperset(others):
            return record.signals
        segmentation, *without = (self.scorer.records.segmentation(*of_record, each) for each in (code, *others))
        return with_agreement(record.signals, segmentation, without, self.labels)


def _attempt(work: Callable[[], T]) -> tuple[T | None, str]:
    """Do some work on a case. Return its result, or None and the reason.

    It catches any error, because the error concerns only this case.
    """
    try:
        return work(), ""
    except (NnunetMoeError, WorkError) as error:
        return None, str(error)
    except Exception as error:
        return None, where_and_why(error)


def _logits_file(case: PreparedCase, code: Code) -> Path:
    return case.folder / f"logits_{code_digits(code)}.npy"


def _is_done(segmentation: _Segmentation) -> bool:
    return segmentation.call is None or segmentation.call.done()
