"""Bring the files of each case onto one grid before they are placed."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nnunet_moe.commands.import_dataset.cases import FoundCase
from nnunet_moe.commands.import_dataset.companions import require_own_voxels
from nnunet_moe.commands.import_dataset.filled import ReadCase, read_whole
from nnunet_moe.errors import ModalityError
from nnunet_moe.images.alignment.aligned import write_alignments
from nnunet_moe.images.alignment.case import align_case, align_label
from nnunet_moe.images.alignment.settings import AlignmentSettings

TABLE = "alignment.csv"


def read_aligned(
    images: dict[int, str],
    label: str | None,
    reader_class: Any,
    modalities: Sequence[str],
    originals: Sequence[int],
    settings: AlignmentSettings,
    target: Path,
    ending: str,
) -> ReadCase:
    """Bring the files of a case onto one grid, and read them.

    Args:
        images: as in `read_whole`, like all up to `originals`.
        settings: how to align.
        target: path of the new files without channel and ending.
        ending: the file ending of the dataset.

    Raises:
        ModalityError: files cannot be used, or cannot be aligned.
    """
    for file in (*images.values(), *filter(None, [label])):
        require_own_voxels(file)
    named = {modalities[channel]: file for channel, file in sorted(images.items())}
    targets = {modalities[channel]: Path(f"{target}_{channel:04d}{ending}") for channel in images}
    aligned = align_case(named, targets, settings)
    used = {channel: aligned.files[modalities[channel]] for channel in images}
    used_label = None if label is None else align_label(label, aligned, Path(f"{target}{ending}"))
    try:
        read = read_whole(used, used_label, reader_class, modalities, originals)
    except ModalityError as error:
        text = aligned.in_original_names(str(error))
        raise ModalityError(text if label is None else text.replace(str(used_label), label)) from error
    original = {new: old for new, old in zip(used.values(), images.values(), strict=True)}
    if label is not None:
        original[str(used_label)] = label
    suspect = tuple((original[file], aligned.in_original_names(note)) for file, note in read.suspect)
    return replace(read, aligned=aligned, label_file=used_label, suspect=suspect)


def with_aligned_files(cases: Mapping[str, FoundCase], read: Mapping[str, ReadCase]) -> dict[str, FoundCase]:
    """Return the cases with the files to place: the aligned ones where there are any."""
    found = {}
    for name, case in cases.items():
        aligned, label = read[name].aligned, read[name].label_file
        images = case.images
        if aligned is not None:
            images = {modality: Path(aligned.files[modality]) for modality in images}
        found[name] = FoundCase(case.fields, images, case.label if label is None else Path(label))
    return found


def write_table(file: Path, cases: Mapping[str, FoundCase], read: Mapping[str, ReadCase]) -> None:
    """Write how each file was aligned."""
    rows = []
    for name, case in cases.items():
        if (aligned := read[name].aligned) is not None:
            rows.append((name, {modality: str(path) for modality, path in case.images.items()}, aligned))
    write_alignments(file, rows)
