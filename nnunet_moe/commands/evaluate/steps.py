"""The steps for one case before and after the network, which can run in other processes.

Large arrays are passed in files, because a process that is killed must not leave another one waiting for them.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.evaluation.evaluate_predictions import region_or_label_to_mask

from nnunet_moe.commands.evaluate.metric_settings import MetricSettings
from nnunet_moe.commands.evaluate.metrics import METRICS, score_segmentation
from nnunet_moe.commands.evaluate.models import ScoredCase
from nnunet_moe.commands.evaluate.overlay import overlay_index
from nnunet_moe.commands.evaluate.records import Record, file_state
from nnunet_moe.errors import ModalityError
from nnunet_moe.images.case_images import CaseImages
from nnunet_moe.images.reading import read_segmentation_of
from nnunet_moe.labels.labels import labels_of
from nnunet_moe.labels.volumes import axes_in_space
from nnunet_moe.labels.voxels import require_known
from nnunet_moe.modalities.codes import Code, code_digits, code_text, is_within
from nnunet_moe.models.inference import InferenceContext
from nnunet_moe.models.network_input import NetworkInput
from nnunet_moe.quality.measuring import fast_signals
from nnunet_moe.quality.settings import FULL, OFF
from nnunet_moe.runtime.files import atomic_write
from nnunet_moe.runtime.memory import memory_for

REFERENCE = "reference.npy"


@dataclass(frozen=True)
class OpenedCase:
    """The images of a case and its reference segmentation."""

    loaded: CaseImages
    reference: np.ndarray
    """Labels, `(*space)`."""
    spacing: tuple[float, ...]


@dataclass(frozen=True)
class PreparedCase:
    """A case that is ready for the network."""

    folder: Path
    """It holds the arrays: `REFERENCE` and the network's inputs."""
    available: Code
    log_lines: tuple[str, ...]
    geometry: dict[str, Any]
    """The properties that the reader returned."""
    spacing: tuple[float, ...]
    inputs: dict[Code, tuple[Path, dict[str, Any]]]
    """Code -> the file of an input that contains the code's, and the properties that the preprocessing returned."""
    images: CaseImages | None
    """The images, if only the process of the network can make the inputs; else None."""

    def without_images(self) -> "PreparedCase":
        """Return the case without the large array, as an argument for another process."""
        return replace(self, images=None)


@dataclass(frozen=True)
class Prediction:
    """What the network predicted for one code."""

    code: Code
    logits: Path
    """The file of the logits."""
    properties: dict[str, Any]
    """The properties that the preprocessing returned."""
    scored: Mapping[str, int | tuple[int, ...]]
    """Name -> label or region, for those to score."""
    file: Path
    """The file of the segmentation."""
    is_kept: bool
    """Whether the segmentation is written to it."""
    save: Callable[[Record, np.ndarray | None], None]
    quality: str
    """Which signals of trust are measured, one of `LEVELS`."""


def open_case(case: ScoredCase, context: InferenceContext) -> OpenedCase:
    """Read a case.

    Raises:
        ModalityError: an image or the label cannot be used.
    """
    loaded = context.read(case.images)
    if not os.path.exists(case.label):
        raise ModalityError(f"{case.label} is missing. Each case needs a reference segmentation. Add the file.")
    reference, notes = read_segmentation_of(case.label, context.reader(), min(case.images), loaded)
    loaded = replace(loaded, notes=(*loaded.notes, *notes))
    require_known(reference, case.label, context.dataset_json)
    return OpenedCase(loaded, reference, tuple(float(step) for step in loaded.properties["spacing"]))


def prepare(
    case: ScoredCase, codes: Sequence[Code], network_input: NetworkInput, folder: Path, is_second_stage: bool
) -> PreparedCase:
    """Read a case and preprocess it for those of the codes that it has.

    Args:
        case: the case.
        codes: codes.
        network_input: makes the network's inputs.
        folder: a new folder for arrays.
        is_second_stage: whether the inputs need the segmentations of a previous stage. Then this function makes no
            inputs.

    Raises:
        ModalityError: as in `open_case`, or the model does not take these modalities.
        OutOfMemoryError: memory ran out.
    """
    context = network_input.context
    named = tuple(channel in case.channels for channel in range(len(context.modalities)))
    folder.mkdir(parents=True, exist_ok=True)  # a process that was killed may have made it
    with memory_for(case.name, code_text(named, context.modalities), "cpu"):
        opened = open_case(case, context)
        loaded, available = opened.loaded, opened.loaded.available
        np.save(folder / REFERENCE, opened.reference)
        within = [code for code in codes if is_within(code, available)]
        inputs = {} if is_second_stage else _inputs(loaded, within, network_input, folder)
    images = loaded if is_second_stage else None
    log_lines = (*loaded.log_lines, *_unscored(case, opened.reference, context.label_manager.ignore_label))
    return PreparedCase(folder, available, log_lines, loaded.properties, opened.spacing, inputs, images)


def _unscored(case: ScoredCase, reference: np.ndarray, ignore_label: int | None) -> list[str]:
    """Return a message if no voxel of a case is annotated."""
    if ignore_label is None or (reference != ignore_label).any():
        return []
    return [f"{case.name}: all voxels have the ignore label, so its scores are not defined"]


def _inputs(
    case: CaseImages, codes: Sequence[Code], network_input: NetworkInput, folder: Path
) -> dict[Code, tuple[Path, dict[str, Any]]]:
    """Write the network's inputs for codes, one file for all that share it; see `PreparedCase`."""
    inputs, of_source = {}, {}
    for code, source in network_input.sources(case, codes).items():
        if source not in of_source:
            data, properties = network_input.preprocess(case, source)
            of_source[source] = folder / f"input_{code_digits(source)}.npy", properties
            np.save(of_source[source][0], data)
        inputs[code] = of_source[source]
    return inputs


def finish(
    name: str, prediction: Prediction, case: PreparedCase, context: InferenceContext, settings: MetricSettings
) -> Record:
    """Convert logits into a segmentation, keep it if wanted, and score it. Save and return the record.

    Args:
        name: name of the case.
        prediction: what the network predicted.
        case: the case.
        context: the inference context of the model.
        settings: the settings of the metrics.

    Raises:
        OutOfMemoryError: memory ran out.
    """
    with memory_for(name, code_text(prediction.code, context.modalities), "cpu"):
        logits = torch.from_numpy(np.load(prediction.logits))
        segmentation = context.segmentation(logits, prediction.properties)
        reference, ignore_label = np.load(case.folder / REFERENCE), context.label_manager.ignore_label
        scores = score_labels(segmentation, reference, case.spacing, prediction.scored, ignore_label, settings)
        of_model = context.label_manager, context.dataset_json
        found = logits, segmentation, case.spacing
        signals = None if prediction.quality == OFF else fast_signals(*found, *of_model)
        scores |= {label: dict.fromkeys(METRICS) for label in labels_of(context.dataset_json) if label not in scores}
    if prediction.is_kept:
        with atomic_write(prediction.file) as unfinished:
            context.reader().write_seg(segmentation, str(unfinished), case.geometry)
    overlay = segmentation[overlay_index(reference)]
    kept, is_full = file_state(prediction.file), prediction.quality == FULL
    record = Record(code_digits(case.available), scores, overlay, kept, signals, is_full)
    prediction.save(record, segmentation if is_full else None)
    return record


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
        Name -> metric -> value, None if it is not defined. Without any annotated voxel, none is defined.
    """
    annotated = np.ones(reference.shape, dtype=bool) if ignore_label is None else reference != ignore_label
    scores: dict[str, dict[str, float | None]] = {}
    if not annotated.any():
        return {name: dict.fromkeys(METRICS) for name in labels}
    for name, label in labels.items():
        predicted, true = (region_or_label_to_mask(array, label) & annotated for array in (segmentation, reference))
        space = axes_in_space(true.shape, spacing)
        if len(space) < true.ndim:
            predicted, true = predicted[0], true[0]
        values = asdict(score_segmentation(predicted, true, space, settings))
        scores[name] = {metric: None if np.isnan(value) else value for metric, value in values.items()}
    return scores
