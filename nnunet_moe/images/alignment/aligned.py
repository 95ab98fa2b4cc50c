"""What the alignment of a case found, for messages and tables."""

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from nnunet_moe.images.alignment.resampling import IDENTITY
from nnunet_moe.images.alignment.volumes import Space
from nnunet_moe.images.geometry import ReadFile
from nnunet_moe.images.new_files import OriginalNames
from nnunet_moe.runtime.files import open_text

How: TypeAlias = Literal["reference", "unchanged", "resampled", "registered"]
COLUMNS = ("alignment", "motion_mm", "motion_degrees", "covered", "similarity_before", "similarity_after")
"""The columns of a table on aligned files."""
KEPT = "kept_labels"
"""The column that says which share of its volume each label keeps."""


@dataclass(frozen=True)
class FileAlignment:
    """How a file was brought onto the reference's grid."""

    how: How
    read: ReadFile
    """What nnU-Net's reader found in the header of the original file."""
    motion: np.ndarray = field(default_factory=lambda: IDENTITY)
    """`(4, 4)`, maps positions in the reference to positions in the file, in mm."""
    shift: float = 0.0
    """How far the motion moves the middle of the reference's foreground, in mm."""
    angle: float = 0.0
    """How far the motion turns, in degrees."""
    covered: float | None = 1.0
    """The share of the reference's foreground that the file covers; None for a placeholder, which shows nothing."""
    similarity: tuple[float, float] | None = None
    """Mutual information only by the headers and with the registered motion, in nats; None without a registration."""

    @property
    def space(self) -> Space:
        """The file's own grid."""
        return Space.of_read(self.read)

    @property
    def columns(self) -> dict[str, str]:
        """The cells of a table: column -> text."""
        before, after = ("", "") if self.similarity is None else (f"{value:.4f}" for value in self.similarity)
        covered = "" if self.covered is None else f"{self.covered:.4f}"
        cells = (self.how, f"{self.shift:.2f}", f"{self.angle:.2f}", covered, before, after)
        return dict(zip(COLUMNS, cells, strict=True))


@dataclass(frozen=True)
class AlignedLabel:
    """A segmentation on the grid of the aligned images."""

    file: str
    """The file to use: the original, or a new one."""
    alignment: FileAlignment
    kept: Mapping[int, float]
    """Label -> its volume on the new grid, as a share of its volume before."""
    notes: tuple[str, ...]

    @property
    def columns(self) -> dict[str, str]:
        """The cells of a table: column -> text."""
        return {**self.alignment.columns, KEPT: " ".join(f"{label}={share:.4f}" for label, share in self.kept.items())}


@dataclass(frozen=True)
class AlignedCase:
    """The files of a case on one grid."""

    reference: str
    """The modality whose grid it is."""
    files: Mapping[str, str]
    """Modality -> the file to use: the original, or a new one."""
    alignments: Mapping[str, FileAlignment]
    """Modality -> how its file was aligned."""
    notes_on: Mapping[str, tuple[str, ...]]
    """Modality -> messages on its file."""
    names: OriginalNames
    """From which original each new file was made."""
    label: AlignedLabel | None = None
    """The segmentation; None if there is none, or if it was not aligned."""

    @property
    def notes(self) -> tuple[str, ...]:
        """All messages, in channel order, those on the segmentation last."""
        on_images = (note for notes in self.notes_on.values() for note in notes)
        return (*on_images, *(() if self.label is None else self.label.notes))

    def with_names(self, names: OriginalNames) -> "AlignedCase":
        """Return the same with messages that name originals instead of new files."""

        def renamed(notes: tuple[str, ...]) -> tuple[str, ...]:
            return (*map(names.in_text, notes),)

        label = None if self.label is None else replace(self.label, notes=renamed(self.label.notes))
        return replace(self, notes_on={name: renamed(notes) for name, notes in self.notes_on.items()}, label=label)

    @property
    def columns(self) -> dict[str, dict[str, str]]:
        """The cells of a table on each file: modality -> column -> text."""
        return {modality: alignment.columns for modality, alignment in self.alignments.items()}

    @property
    def texts(self) -> dict[str, str]:
        """How a log says what happened to each file: modality -> text."""
        found = {}
        for modality, alignment in self.alignments.items():
            parts = [alignment.how]
            if alignment.how == "registered":
                parts.append(f"moved by {alignment.shift:.1f} mm and {alignment.angle:.1f} degrees")
            if modality != self.reference and alignment.covered is not None:
                parts.append(f"covers {alignment.covered:.0%} of {self.reference}")
            found[modality] = ", ".join(parts)
        return found

    @property
    def space(self) -> Space:
        """The grid on which the files lie."""
        return self.alignments[self.reference].space


def write_alignments(file: Path, cases: Iterable[tuple[str, Mapping[str, str], AlignedCase]], label: str) -> None:
    """Write a table with one row for each file, in channel order, the segmentation last.

    Args:
        file: the CSV file.
        cases: name, original files by modality, and alignment of each case. Modalities without a file have no row.
        label: how the column of modalities and the original files call the segmentation.
    """
    with open_text(file, "w") as opened:
        table = csv.DictWriter(
            opened, ["case", "modality", "file", *COLUMNS, KEPT, "notes"], restval="", lineterminator="\n"
        )
        table.writeheader()
        for case, originals, aligned in cases:
            rows = [(name, cells, aligned.notes_on.get(name, ())) for name, cells in aligned.columns.items()]
            if aligned.label is not None:
                rows.append((label, aligned.label.columns, aligned.label.notes))
            for name, cells, notes in rows:
                if name in originals:
                    row = {"case": case, "modality": name, "file": originals[name], "notes": "; ".join(notes)}
                    table.writerow({**row, **cells})
