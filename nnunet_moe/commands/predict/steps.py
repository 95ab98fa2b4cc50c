"""The steps for one case before and after the network, which can run in other processes."""

import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from nnunet_moe.commands.predict.cases import CaseFiles
from nnunet_moe.commands.predict.trust import measure
from nnunet_moe.errors import ModalityError
from nnunet_moe.images.alignment.aligned import AlignedCase
from nnunet_moe.images.alignment.case import align_case
from nnunet_moe.images.alignment.labels import to_space_of
from nnunet_moe.images.alignment.settings import AlignmentSettings
from nnunet_moe.images.case_images import CaseImages
from nnunet_moe.images.dicom import ImagesOfSeries, images_of_series
from nnunet_moe.images.reading import read_segmentation_of
from nnunet_moe.labels.voxels import require_known
from nnunet_moe.modalities.codes import Code, code_text
from nnunet_moe.models.inference import InferenceContext
from nnunet_moe.models.requirement import Requirement
from nnunet_moe.quality.signals import Signals
from nnunet_moe.runtime.file_state import FileState
from nnunet_moe.runtime.memory import memory_for


@dataclass(frozen=True)
class PreparedCase:
    """A case that is ready for the network."""

    data: np.ndarray
    """`(K, *space)` preprocessed, NaN in missing channels; in a cascade, with the previous segmentation appended."""
    properties: dict[str, Any]
    code: Code
    files: dict[str, str]
    """Modality -> its file or folder, including those that were not used."""
    notes: tuple[str, ...]
    """Messages of the preprocessing on files that it did not use, or that may be wrong."""
    has_copies: bool
    """Whether a file is a copy of another one."""
    states: dict[str, FileState]
    """Path -> the state of the file before it was read, for the images and the previous stage's segmentation."""
    seconds: float
    aligned: AlignedCase | None
    """How the files were brought onto one grid; None if they were used as they are."""


@dataclass(frozen=True)
class ReadSettings:
    """How the files of a case are read."""

    requirement: Requirement = field(default_factory=Requirement)
    alignment: AlignmentSettings = field(default_factory=AlignmentSettings)
    output_space: str | None = None
    """The modality on whose original grid the segmentation is written; None for the reference's."""


def prepare(case: CaseFiles, context: InferenceContext, settings: ReadSettings) -> PreparedCase:
    """Read, align and preprocess a case.

    Raises:
        ModalityError: a file cannot be used, files cannot be aligned, or required modalities are missing.
        OutOfMemoryError: memory ran out.
    """
    start = time.perf_counter()
    if case.previous_stage is not None and not Path(case.previous_stage).exists():
        raise ModalityError(f"{case.previous_stage} does not exist. Predict the cascade's previous stage first.")
    files = case.by_modality(context.dataset_json)
    code = tuple(modality in files for modality in context.modalities)
    with memory_for(case.name, code_text(code, context.modalities), "cpu"):
        return _prepared(case, files, context, settings, start)


def _prepared(
    case: CaseFiles, files: dict[str, str], context: InferenceContext, settings: ReadSettings, start: float
) -> PreparedCase:
    # what cannot be read is left to the reader, which says why
    states = {file: FileState.of(Path(file)) for file in case.read if os.path.exists(file) and os.access(file, os.R_OK)}
    images, aligned = _read(case, files, context, settings)
    if settings.requirement.refuse_copies:
        images.require_no_copies()
    first, of_model = min(case.images), (context.configuration, context.dataset_json)
    image, notes = context.preprocessor().used_channels(images, first, *of_model)
    previous = None
    if case.previous_stage is not None:
        previous, of_grid = read_segmentation_of(case.previous_stage, context.reader(), first, images)
        require_known(previous, case.previous_stage, context.dataset_json)
        notes = (*notes, *of_grid)
    data, properties, of_values = context.preprocess(image, images.properties, previous, images.files)
    code = tuple(not bool(np.isnan(channel).all()) for channel in data[: len(context.modalities)])
    settings.requirement.check(code, context.modalities)
    notes = (*case.notes, *images.ignored, *notes, *of_values)
    seconds = time.perf_counter() - start
    return PreparedCase(data, properties, code, files, notes, bool(images.copies), states, seconds, aligned)


def _read(
    case: CaseFiles, files: dict[str, str], context: InferenceContext, settings: ReadSettings
) -> tuple[CaseImages, AlignedCase | None]:
    """Read the images of a case, on one grid if the settings ask for it.

    Args:
        case: the case.
        files: modality -> file or folder.
        context: the inference context of the model.
        settings: how to read.
    """
    if settings.alignment.is_on and settings.output_space not in (None, *files):
        raise ModalityError(
            f"{case.name} has no {settings.output_space}, and --output_space asks for its grid. Predict this case "
            "without --output_space."
        )
    read = partial(context.read_files, case=case.name, folder=case.folder)
    names = {name: f"{channel}{context.dataset_json['file_ending']}" for channel, name in enumerate(files)}
    with TemporaryDirectory() as of_series, TemporaryDirectory() as of_alignment:
        series = (
            ImagesOfSeries(files)  # names in nnU-Net's scheme are those of files
            if case.channels is None
            else images_of_series(files, {name: Path(of_series) / file for name, file in names.items()})
        )
        notes = tuple(note for notes in series.notes.values() for note in notes)
        with series.names.in_errors():
            if not settings.alignment.is_on:
                return series.names.in_images(read(series.files), notes), None
            targets = {name: Path(of_alignment) / file for name, file in names.items()}
            aligned = align_case(series.files, targets, settings.alignment, series.frames)
        new = series.names.before(aligned.names.originals)
        with new.in_errors():
            images = read(aligned.files)
    return new.in_images(images, (*notes, *aligned.notes)), aligned


def write(
    logits_file: Path,
    properties: dict[str, Any],
    code: Code,
    context: InferenceContext,
    target: Path,
    save_probabilities: bool,
    aligned: AlignedCase | None = None,
    output_space: str | None = None,
    others: Sequence[Path] | None = None,
) -> tuple[dict[str, float], dict[str, Signals], dict[str, FileState], float]:
    """Write the files of a prediction as nnU-Net does, and move them when they are complete, the segmentation last.

    Args:
        logits_file: logits of the preprocessed image, `.npy`, in a separate folder, which is removed at the end.
        properties: the properties that the preprocessing returned.
        code: the available modalities.
        context: the inference context of the model.
        target: path of the segmentation without its ending.
        save_probabilities: whether to write the probabilities, too.
        aligned: how the files were brought onto one grid, or None.
        output_space: the modality on whose original grid the segmentation is written, or None for the reference's.
        others: files of logits without one modality after another, in the folder of `logits_file`, to measure how far
            the case can be trusted; None if that is not measured.

    Returns:
        The volume of each label or region that may appear (mm3; mm2 in 2D), its signals of trust, file name -> the
        state of each written file, and the duration in seconds.

    Raises:
        OutOfMemoryError: memory ran out.
    """
    start, unfinished, ending = time.perf_counter(), logits_file.parent, context.dataset_json["file_ending"]
    segmentation_file = unfinished / f"{target.name}{ending}"
    with memory_for(target.name, code_text(code, context.modalities), "cpu"):
        logits = np.load(logits_file)
        context.export(logits, properties, unfinished / target.name, save_probabilities=save_probabilities)
        spacing, signals = properties["spacing"], {}
        if others is not None:
            segmentation, _ = context.reader().read_seg(str(segmentation_file))
            signals = measure(logits, others, properties, segmentation[0], code, context)
        if aligned is not None and output_space is not None:
            spacing = to_space_of(segmentation_file, aligned, output_space).spacing
        segmentation, _ = context.reader().read_seg(str(segmentation_file))
        volumes = context.volumes(segmentation[0], spacing, code)
    written = set(unfinished.iterdir()) - {logits_file, *(others or ())}
    files = sorted(written, key=lambda file: file == segmentation_file)
    outputs = {file.name: FileState.of(file) for file in files}
    target.parent.mkdir(parents=True, exist_ok=True)
    for file in files:
        os.replace(file, target.with_name(file.name))
    shutil.rmtree(unfinished)
    return volumes, signals, outputs, time.perf_counter() - start
