"""Segment cases with every code and score the segmentations."""

import json
import os
import platform
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from nnunetv2.evaluation.evaluate_predictions import region_or_label_to_mask
from tqdm import tqdm

from nnunet_moe.commands.evaluate.metric_settings import MetricSettings
from nnunet_moe.commands.evaluate.metrics import METRICS, score_segmentation
from nnunet_moe.commands.evaluate.models import ScoredCase
from nnunet_moe.commands.evaluate.overlay import overlay_index
from nnunet_moe.commands.evaluate.records import Record, Records, file_state, key_of
from nnunet_moe.errors import ModalityError, NnunetMoeError
from nnunet_moe.images.geometry import require_same_geometry
from nnunet_moe.images.reading import CaseImages, read_segmentation
from nnunet_moe.labels.label_sets import LabelSets, labels_in
from nnunet_moe.labels.labels import labels_of
from nnunet_moe.labels.volumes import axes_in_space
from nnunet_moe.modalities.codes import Code, channel_names, code_digits, code_of_digits, code_text, is_within
from nnunet_moe.models.choice import Fold
from nnunet_moe.models.folders import ModelFolder
from nnunet_moe.models.prediction_settings import PredictionSettings
from nnunet_moe.models.segmenter import Segmenter
from nnunet_moe.runtime.environment import versions
from nnunet_moe.runtime.files import atomic_write, digest, folder_name
from nnunet_moe.runtime.memory import memory_for
from nnunet_moe.runtime.precision import uses_cpu_bfloat16

T = TypeVar("T")


def versions_of_figures() -> dict[str, str]:
    """Return the versions of Python and of the packages that the scores depend on."""
    packages = versions("nnunet-moe", "nnunetv2", "torch", "numpy", "scipy", "surface-distance")
    return {"python": platform.python_version(), **packages}


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


@dataclass(frozen=True)
class OpenedCase:
    """The images of a case and its reference segmentation."""

    loaded: CaseImages
    reference: np.ndarray
    """Labels, `(*space)`."""
    spacing: tuple[float, ...]


class ModelRun:
    """The run of one model over the cases of one part.

    Raises:
        ModelError: the model cannot be loaded.
    """

    def __init__(self, scorer: Scorer, model: ModelFolder, part: Part) -> None:
        self.scorer, self.model, self.part = scorer, model, part
        self.segmenter = Segmenter(model, part.folds, scorer.prediction)
        self.labels = labels_of(self.segmenter.dataset_json)
        self.modalities = channel_names(self.segmenter.dataset_json)
        self.codes = [code for code in scorer.codes if self.segmenter.takes(code)]
        self._described: set[Path] = set()
        """Folders of segmentations to which this run has written dataset.json and plans.json."""
        self.model_state = {
            "files": _digests(model, part.folds),
            "bfloat16": uses_cpu_bfloat16(torch.device(scorer.prediction.device)),
            "metrics": asdict(scorer.metrics),
            "prediction": asdict(scorer.prediction),
            "versions": versions_of_figures(),
        }

    def rows(self) -> Iterator[dict]:
        """Yield rows for `Results`. Scores of an earlier run are not recomputed."""
        total = sum(is_within(code, self._named(case)) for case in self.part.cases for code in self.codes)
        about = f"{self.model.trainer} {self.model.configuration} fold {self.part.fold_text}"
        with tqdm(total=total, desc=about, unit="segmentation", mininterval=1) as progress:
            for case in self.part.cases:
                progress.set_postfix_str(case.name)
                yield from self._case_rows(case, progress)

    def gates(self) -> dict[str, np.ndarray]:
        """Return the gate weights of every mixture without noise: layer -> `(codes, experts)`.

        Called before `rows`, it returns the weights of the first fold.
        """
        table = self.segmenter.network.gate_table(self.codes)
        return {layer: weights.cpu().numpy() for layer, weights in table.items()}

    def _case_rows(self, case: ScoredCase, progress: tqdm) -> Iterator[dict]:
        files = sorted(os.path.abspath(file) for file in (*case.images, case.label))
        annotation = list(self._annotated_labels(case, self._named(case)))
        key = key_of([self.model_state, [(file, file_state(file)) for file in files], annotation])
        records = {code: self._stored(key, case, code) for code in self.codes}
        known = next((code_of_digits(record.available) for record in records.values() if record is not None), None)
        pending = [code for code in self.codes if records[code] is None and is_within(code, known or self._named(case))]
        for code in pending:  # it would differ from the scores of this run
            self._prediction_file(case, code).unlink(missing_ok=True)
        opened, unopened = self._attempt(case, self._named(case), lambda: self.open(case)) if pending else (None, "")
        for code in self.codes:
            record, failure = records[code], unopened if code in pending else ""
            if code in pending and opened is not None and is_within(code, opened.loaded.available):
                record, failure = self._attempt(case, code, lambda code=code: self._make(case, opened, code, key))
            if is_within(code, self._named(case)):
                progress.update()
            if record is not None or failure:
                yield from self._record_rows(case, code, record, failure)

    def _named(self, case: ScoredCase) -> Code:
        """Return the code of a case according to its file names."""
        return tuple(channel in case.channels for channel in range(len(self.modalities)))

    def _stored(self, key: str, case: ScoredCase, code: Code) -> Record | None:
        record = self.scorer.records.load(key, self.model.trainer, self.part.fold_text, case.name, code)
        if record is None or not self.scorer.save_predictions:
            return record
        is_kept = record.kept is not None and record.kept == file_state(self._prediction_file(case, code))
        return record if is_kept else None

    def open(self, case: ScoredCase) -> OpenedCase:
        """Read a case.

        Raises:
            ModalityError: an image or the label cannot be used.
        """
        loaded = self.segmenter.read(case.images)
        for line in loaded.log_lines:
            tqdm.write(line)
        if not os.path.exists(case.label):
            raise ModalityError(f"{case.label} is missing. Each case needs a reference segmentation. Add the file.")
        reference, properties = read_segmentation(case.label, self.segmenter.reader)
        require_same_geometry(
            min(case.images), case.label, (loaded.image.shape[1:], loaded.properties), (reference.shape, properties)
        )
        allowed = np.unique(np.hstack([0, *self.segmenter.dataset_json["labels"].values()]))
        if unknown := sorted(set(np.unique(reference)) - set(allowed)):
            raise ModalityError(
                f"{case.label} has voxels with {', '.join(f'{value:g}' for value in unknown)}. The labels of "
                f"dataset.json are {', '.join(str(value) for value in allowed)}. Correct the file."
            )
        return OpenedCase(loaded, reference, tuple(float(step) for step in loaded.properties["spacing"]))

    def _make(self, case: ScoredCase, opened: OpenedCase, code: Code, key: str) -> Record:
        segmentation = self.segmenter.segment(opened.loaded, code)
        ignore_label, settings = self.segmenter.label_manager.ignore_label, self.scorer.metrics
        scored = self._annotated_labels(case, opened.loaded.available)
        scores = score_labels(segmentation, opened.reference, opened.spacing, scored, ignore_label, settings)
        scores |= {name: dict.fromkeys(METRICS) for name in self.labels if name not in scored}
        file = self._prediction_file(case, code)
        if self.scorer.save_predictions:
            self._write(segmentation, file, opened.loaded)
        overlay = segmentation[overlay_index(opened.reference)]
        record = Record(code_digits(opened.loaded.available), scores, overlay, file_state(file))
        self.scorer.records.save(record, key, self.model.trainer, self.part.fold_text, case.name, code)
        return record

    def _attempt(self, case: ScoredCase, code: Code, work: Callable[[], T]) -> tuple[T | None, str]:
        """Do some work on a case, and explain a lack of memory. See `_attempt`."""

        def with_memory() -> T:
            with memory_for(case.name, code_text(code, self.modalities), self.scorer.prediction.device):
                return work()

        return _attempt(with_memory)

    def _annotated_labels(self, case: ScoredCase, available: Code) -> dict[str, int | tuple[int, ...]]:
        """Return the labels that were annotated in a case. Only these are scored, with every code."""
        if self.scorer.label_sets is None:
            return self.labels
        is_scored = self.scorer.label_sets.of_items(torch.tensor([available]), [case.name])[0]
        return labels_in(self.segmenter.dataset_json, is_scored)

    def _prediction_file(self, case: ScoredCase, code: Code) -> Path:
        folder = self.scorer.predictions / self.model.trainer / folder_name(code_text(code, self.modalities))
        return folder / f"{case.name}{self.segmenter.dataset_json['file_ending']}"

    def _write(self, segmentation: np.ndarray, file: Path, loaded: CaseImages) -> None:
        """Write a segmentation, dataset.json and plans.json, as `nnUNetv2_predict` does."""
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.parent not in self._described:
            for name, content in (
                ("dataset", self.segmenter.dataset_json),
                ("plans", self.segmenter.context.plans.plans),
            ):
                with atomic_write(file.with_name(f"{name}.json")) as unfinished:
                    unfinished.write_text(json.dumps(content, indent=4), encoding="utf-8")
            self._described.add(file.parent)
        with atomic_write(file) as unfinished:
            self.segmenter.write(segmentation, str(unfinished), loaded)

    def _record_rows(self, case: ScoredCase, code: Code, record: Record | None, failure: str) -> Iterator[dict]:
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
            }


def score_labels(
    segmentation: np.ndarray,
    reference: np.ndarray,
    spacing: Sequence[float],
    labels: Mapping[str, int | tuple[int, ...]],
    ignore_label: int | None,
    settings: MetricSettings,
) -> dict[str, dict[str, float | None]]:
    """Score each label or region of a case.

    Args:
        segmentation: labels, `(*space)` as nnU-Net's readers return them. A 2D image has a first axis with one slice.
        reference: labels of the same shape. Voxels with the ignore label are not scored.
        spacing: spacing in mm, as the reader returned it.
        labels: name -> label or region.
        ignore_label: the ignore label of nnU-Net; None if the dataset has none.
        settings: the settings of the metrics.

    Returns:
        Name -> metric -> value, None if it is not defined.
    """
    annotated = np.ones(reference.shape, dtype=bool) if ignore_label is None else reference != ignore_label
    scores = {}
    for name, label in labels.items():
        predicted, true = (region_or_label_to_mask(array, label) & annotated for array in (segmentation, reference))
        space = axes_in_space(true.shape, spacing)
        if len(space) < true.ndim:
            predicted, true = predicted[0], true[0]
        values = asdict(score_segmentation(predicted, true, space, settings))
        scores[name] = {metric: None if np.isnan(value) else value for metric, value in values.items()}
    return scores


def _attempt(work: Callable[[], T]) -> tuple[T | None, str]:
    """Do some work on a case. Return its result, or None and the reason.

    It catches any error, because the error concerns only this case.
    """
    try:
        return work(), ""
    except NnunetMoeError as error:
        return None, str(error)
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        return None, f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"


def _digests(model: ModelFolder, folds: Sequence[Fold]) -> dict[str, str]:
    """Return the digests of all files of a model, including the previous stages of a cascade."""
    files = [*(model.folder / name for name in ("plans.json", "dataset.json")), *map(model.checkpoint_file, folds)]
    digests = {str(file.relative_to(model.folder.parent)): digest(file) for file in files}
    return digests | (_digests(model.previous_stage, folds) if model.previous_stage else {})
