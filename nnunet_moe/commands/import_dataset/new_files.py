"""Make the files of a case that are not placed as they are: images of DICOM series, and files on another grid."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nnunet_moe.commands.import_dataset.companions import require_own_voxels
from nnunet_moe.commands.import_dataset.filled import ReadCase, read_whole
from nnunet_moe.images.alignment.aligned import write_alignments
from nnunet_moe.images.alignment.case import align_case
from nnunet_moe.images.alignment.labels import align_label
from nnunet_moe.images.alignment.settings import AlignmentSettings
from nnunet_moe.images.dicom import images_of_series
from nnunet_moe.layouts.found import LABEL, FoundCase

TABLE = "alignment.csv"


def read_with_new_files(
    images: Mapping[str, str],
    label: str | None,
    reader_class: Any,
    modalities: Sequence[str],
    originals: Sequence[int],
    alignment: AlignmentSettings,
    target: Path,
    ending: str,
) -> ReadCase:
    """Read all files of a case, after DICOM series became images, and after an alignment if it is on.

    Args:
        images: modality -> file, or folder with a DICOM series, in channel order.
        label: the segmentation, or None.
        reader_class, modalities, originals: as in `read_whole`.
        alignment: whether and how to align.
        target: path of the new files without channel and ending.
        ending: the file ending of the dataset.

    Raises:
        ModalityError: files cannot be used, or cannot be aligned.
    """
    all_files = dict(images) if label is None else {**images, LABEL: label}
    numbers = {name: f"_{modalities.index(name):04d}" if name in images else "" for name in all_files}
    series = images_of_series(
        all_files, {name: Path(f"{target}_dicom{number}{ending}") for name, number in numbers.items()}
    )
    used, names, aligned = series.files, series.names, None
    with series.names.in_errors():
        for file in used.values():
            require_own_voxels(file)
        if alignment.is_on:
            targets = {name: Path(f"{target}{number}{ending}") for name, number in numbers.items()}
            aligned = align_case({name: used[name] for name in images}, targets, alignment, series.frames)
            used, names = {**used, **aligned.files}, names.before(aligned.names.originals)
            if label is not None:
                moved = align_label(series.files[LABEL], aligned, alignment, targets[LABEL])
                aligned, used[LABEL] = replace(aligned, label=moved), moved.file
                names = names.before({moved.file: label})
            aligned = aligned.with_names(names)
    channels = {modalities.index(name): used[name] for name in images}
    with names.in_errors():
        read = read_whole(channels, used.get(LABEL), reader_class, modalities, originals)
    of_series = [(all_files[name], note) for name, notes in series.notes.items() for note in notes]
    suspect = ((names.in_text(file), names.in_text(note)) for file, note in read.suspect)
    return replace(read, files=used, aligned=aligned, suspect=(*of_series, *suspect))


def with_new_files(cases: Mapping[str, FoundCase], read: Mapping[str, ReadCase]) -> dict[str, FoundCase]:
    """Return the cases with the files to place: the new ones where there are any."""
    found = {}
    for name, case in cases.items():
        files = read[name].files
        images = {modality: Path(files[modality]) for modality in case.images}
        found[name] = FoundCase(case.fields, images, None if case.label is None else Path(files[LABEL]))
    return found


def write_table(file: Path, cases: Mapping[str, FoundCase], read: Mapping[str, ReadCase]) -> None:
    """Write how each file was aligned."""
    rows = []
    for name, case in cases.items():
        if (aligned := read[name].aligned) is not None:
            files = case.images if case.label is None else {**case.images, LABEL: case.label}
            rows.append((name, {modality: str(path) for modality, path in files.items()}, aligned))
    write_alignments(file, rows, LABEL)
