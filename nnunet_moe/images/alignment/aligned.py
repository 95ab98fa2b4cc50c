"""What the alignment of a case found, for messages and tables."""

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from nnunet_moe.images.alignment.resampling import IDENTITY
from nnunet_moe.images.alignment.volumes import Space
from nnunet_moe.images.new_files import OriginalNames

How: TypeAlias = Literal["reference", "unchanged", "resampled", "registered"]
COLUMNS = ("alignment", "motion_mm", "motion_degrees", "covered", "similarity_before", "similarity_after")
"""The columns of a table on aligned files."""


@dataclass(frozen=True)
class FileAlignment:
    """How a file was brought onto the reference's grid."""

    how: How
    space: Space
    """The file's own grid."""
    motion: np.ndarray = field(default_factory=lambda: IDENTITY)
    """`(4, 4)`, maps positions in the reference to positions in the file, in mm."""
    shift: float = 0.0
    """How far the motion moves the middle of the reference's foreground, in mm."""
    angle: float = 0.0
    """How far the motion turns, in degrees."""
    covered: float = 1.0
    """The share of the reference's foreground that the file covers."""
    similarity: tuple[float, float] | None = None
    """Mutual information only by the headers and with the registered motion, in nats; None without a registration."""

    @property
    def columns(self) -> dict[str, str]:
        """The cells of a table: column -> text."""
        before, after = ("", "") if self.similarity is None else (f"{value:.4f}" for value in self.similarity)
        cells = (self.how, f"{self.shift:.2f}", f"{self.angle:.2f}", f"{self.covered:.4f}", before, after)
        return dict(zip(COLUMNS, cells, strict=True))


@dataclass(frozen=True)
class AlignedCase:
    """The files of a case on one grid."""

    reference: str
    """The modality whose grid it is."""
    files: Mapping[str, str]
    """Modality -> the file to use: the original, or a new one."""
    alignments: Mapping[str, FileAlignment]
    """Modality -> how its file was aligned."""
    notes: tuple[str, ...]
    names: OriginalNames
    """From which original each new file was made."""

    @property
    def columns(self) -> dict[str, dict[str, str]]:
        """The cells of a table on each file: modality -> column -> text."""
        return {modality: alignment.columns for modality, alignment in self.alignments.items()}

    @property
    def space(self) -> Space:
        """The grid on which the files lie."""
        return self.alignments[self.reference].space


def write_alignments(file: Path, cases: Iterable[tuple[str, Mapping[str, str], AlignedCase]]) -> None:
    """Write a table with one row for each file.

    Args:
        file: the CSV file.
        cases: name, original files by modality, and alignment of each case. Modalities without a file have no row.
    """
    with file.open("w", newline="", encoding="utf-8") as opened:
        table = csv.writer(opened, lineterminator="\n")
        table.writerow(["case", "modality", "file", *COLUMNS, "notes"])
        for case, originals, aligned in cases:
            for modality, original in originals.items():
                others = [file for file in originals.values() if file != original]
                is_reference = modality == aligned.reference
                notes = "; ".join(
                    note
                    for note in aligned.notes
                    if note.startswith(original) or (is_reference and not note.startswith(tuple(others)))
                )
                table.writerow([case, modality, original, *aligned.columns[modality].values(), notes])
