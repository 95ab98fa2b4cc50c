"""Find files that seem to be placeholders for a missing modality."""

import io
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nnunet_moe.errors import ModalityError
from nnunet_moe.images.alignment.aligned import AlignedCase
from nnunet_moe.images.case_images import CaseImages
from nnunet_moe.images.notes import ModalityNote
from nnunet_moe.images.reading import read_channels, read_segmentation_of
from nnunet_moe.modalities.codes import Code


@dataclass(frozen=True)
class ReadCase:
    """Results of reading all voxels of a case."""

    filled: dict[int, str]
    """Channel -> why its file seems to be a placeholder."""
    code: Code
    """The available modalities: those whose files have more than a single value."""
    labels: frozenset[int]
    """The values in the segmentation."""
    suspect: tuple[tuple[str, str], ...] = ()
    """Further files that look wrong, each with the message."""
    aligned: AlignedCase | None = None
    """How the files were brought onto one grid; None if they are placed as they are."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Modality, or `LABEL` -> the file to place: the original, or a new one."""


def read_whole(
    images: dict[int, str], label: str | None, reader_class: Any, modalities: Sequence[str], originals: Sequence[int]
) -> ReadCase:
    """Read all files of a case, and find files with a single value or with the voxels of another file.

    Args:
        images: channel -> file.
        label: the segmentation, or None.
        reader_class: returns one of nnU-Net's image readers.
        modalities: names in channel order.
        originals: all channels. If several are equal, the first one in this order counts as the original.

    Raises:
        ModalityError: a file cannot be used, every image holds a single value, or labels are not whole numbers.
    """
    reader = reader_class()
    read = read_channels(reader, images, modalities, originals)
    labels, notes = (frozenset(), ()) if label is None else _labels(label, reader, min(images.values()), read)
    suspect = (*_suspect(read), *((str(label), note) for note in notes))
    return ReadCase(dict(sorted(read.placeholders.items())), read.available, labels, suspect)


def _suspect(read: CaseImages) -> list[tuple[str, str]]:
    """Return each message about the images that says more than their placeholders do, with its file.

    Files with two values are often masks, so they are left to planning.
    """
    return [
        (file, note)
        for note in (*read.notes, *read.copies)
        for channel, file in read.files.items()
        if note.startswith((f"{file} ", f"{file}:"))
        and read.placeholders.get(channel, file + "\n") not in note
        and not isinstance(note, ModalityNote)
    ]


def _labels(file: str, reader: Any, first_image: str, images: CaseImages) -> tuple[frozenset[int], tuple[str, ...]]:
    with redirect_stdout(io.StringIO()):  # nnU-Net prints that it knows no spacing; the report lists these files
        segmentation, notes = read_segmentation_of(file, reader, first_image, images)
    values = np.unique(segmentation)
    if values.min() < 0:
        raise ModalityError(
            f"{file} holds {', '.join(f'{value:g}' for value in values)}. Labels must be whole numbers from 0. "
            "Correct the segmentation."
        )
    return frozenset(values.astype(int).tolist()), notes
