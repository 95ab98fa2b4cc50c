"""Bring the files of a case onto the grid of one of them."""

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import SimpleITK as sitk

from nnunet_moe.errors import ModalityError
from nnunet_moe.images.alignment.registration import Registration, mean_shift, register, share_covered, turn
from nnunet_moe.images.alignment.resampling import IDENTITY, fill_value, resampled, resampled_labels
from nnunet_moe.images.alignment.settings import RIGID, AlignmentSettings
from nnunet_moe.images.alignment.volumes import LabelVolume, Space, Volume
from nnunet_moe.images.case_images import CaseImages
from nnunet_moe.images.geometry import ROUNDED, Grid

How: TypeAlias = Literal["reference", "unchanged", "resampled", "registered"]
ABOUT_EQUAL = 1.01
"""Ratio of the edges of two voxels up to which they count as equally fine."""
NO_MOTION = 0.5
"""A registered motion below so many voxels of the reference, in the mean over its foreground, counts as none."""
ALMOST_ALL = 0.99
"""A share above which no message says how much of the reference a file covers."""


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
        return {
            "alignment": self.how,
            "motion_mm": f"{self.shift:.2f}",
            "motion_degrees": f"{self.angle:.2f}",
            "covered": f"{self.covered:.4f}",
            "similarity_before": before,
            "similarity_after": after,
        }


COLUMNS = ("alignment", "motion_mm", "motion_degrees", "covered", "similarity_before", "similarity_after")


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
    originals: Mapping[str, str]
    """New file -> original file."""

    def in_original_names(self, text: str) -> str:
        """Return a message that names the original files instead of the new ones."""
        for new, original in self.originals.items():
            text = text.replace(new, original)
        return text

    def with_original_names(self, images: CaseImages) -> CaseImages:
        """Return what was read from the new files with the names of the original ones and all messages."""
        notes = dict.fromkeys((*self.notes, *map(self.in_original_names, images.notes)))
        return replace(
            images,
            notes=(*notes,),
            copies=(*map(self.in_original_names, images.copies),),
            files={channel: self.in_original_names(file) for channel, file in images.files.items()},
        )

    @property
    def columns(self) -> dict[str, dict[str, str]]:
        """The cells of a table on each file: modality -> column -> text."""
        return {modality: alignment.columns for modality, alignment in self.alignments.items()}

    @property
    def space(self) -> Space:
        """The grid on which the files lie."""
        return self.alignments[self.reference].space


def align_case(
    files: Mapping[str, str],
    targets: Mapping[str, Path],
    settings: AlignmentSettings,
    frames: Mapping[str, str] | None = None,
) -> AlignedCase:
    """Bring the files of a case onto the grid of one of them.

    A file that lies on this grid is used as it is. With `rigid`, all other files are registered to the reference first,
    also those on its grid. Files of one frame of reference move together, and those of the reference's not at all.

    Args:
        files: modality -> file, in channel order.
        targets: modality -> the file to write if the original cannot be used.
        settings: how to align.
        frames: modality -> the frame of reference that its header names, for those that name one.

    Raises:
        ModalityError: a file cannot be used, is not a volume, or covers too little of the reference.
    """
    notes: list[str] = []
    volumes = {modality: Volume.of_file(modality, file, notes) for modality, file in files.items()}
    reference = _reference(volumes, settings.reference)
    if settings.reference not in (None, reference.modality):
        notes.append(f"no usable {settings.reference}: aligned to {reference.modality}")
    motions = _motions(reference, volumes, settings, frames or {}, notes) if settings.align == RIGID else {}
    used, alignments, originals = {}, {}, {}
    for modality, volume in volumes.items():
        alignment = _alignment(reference, volume, motions.get(modality))
        _require_covered(reference, volume, alignment, settings.least_covered, notes)
        used[modality], alignments[modality] = volume.file, alignment
        if alignment.how in ("resampled", "registered"):
            used[modality] = str(targets[modality])
            originals[used[modality]] = volume.file
            sitk.WriteImage(_on_reference(reference, volume, alignment), used[modality], useCompression=True)
    return AlignedCase(reference.modality, used, alignments, tuple(notes), originals)


def align_label(file: str, aligned: AlignedCase, target: Path) -> str:
    """Bring a segmentation onto the grid of the aligned images.

    A segmentation that lies on the grid of one of the original images moves with this image. Any other one is resampled
    by its header.

    Returns:
        The file to use: the original, or the target, which was written.

    Raises:
        ModalityError: the segmentation cannot be used.
    """
    label = LabelVolume.of_file(file)
    if _is_on(label.space, aligned.space):
        return file
    moved_with = [alignment.motion for alignment in aligned.alignments.values() if _is_on(label.space, alignment.space)]
    motion = moved_with[0] if moved_with else IDENTITY
    write_labels(resampled_labels(label.labels, label.space, aligned.space, motion), aligned.space, target)
    return str(target)


def to_space_of(segmentation: Path, aligned: AlignedCase, modality: str) -> Space:
    """Replace a segmentation on the grid of the aligned images by one on the original grid of a file.

    Returns:
        The grid of the result.
    """
    label, alignment = LabelVolume.of_file(str(segmentation)), aligned.alignments[modality]
    back = np.linalg.inv(alignment.motion)
    write_labels(resampled_labels(label.labels, label.space, alignment.space, back), alignment.space, segmentation)
    return alignment.space


def write_labels(labels: np.ndarray, space: Space, file: Path) -> None:
    """Write labels `(z, y, x)` in the smallest of the types that nnU-Net writes."""
    small = np.uint8 if labels.max(initial=0) < np.iinfo(np.uint8).max else np.uint16
    sitk.WriteImage(space.image(labels.astype(small)), str(file), useCompression=True)


def write_alignments(file: Path, cases: Iterable[tuple[str, Mapping[str, str], AlignedCase]]) -> None:
    """Write a table with one row for each file.

    Args:
        file: the CSV file.
        cases: name, original files by modality, and alignment of each case.
    """
    with file.open("w", newline="", encoding="utf-8") as opened:
        table = csv.writer(opened, lineterminator="\n")
        table.writerow(["case", "modality", "file", *COLUMNS, "notes"])
        for case, originals, aligned in cases:
            for modality, alignment in aligned.alignments.items():
                others = [file for name, file in originals.items() if name != modality]
                is_reference = modality == aligned.reference
                notes = "; ".join(
                    note
                    for note in aligned.notes
                    if note.startswith(originals[modality]) or (is_reference and not note.startswith(tuple(others)))
                )
                table.writerow([case, modality, originals[modality], *alignment.columns.values(), notes])


def _reference(volumes: Mapping[str, Volume], wanted: str | None) -> Volume:
    """Return the wanted modality, or the one with the smallest voxels; the first in channel order if several have."""
    usable = [volume for volume in volumes.values() if volume.value_everywhere is None] or [*volumes.values()]
    finest = min(volume.space.voxel for volume in usable)
    fine = [volume for volume in usable if volume.space.voxel <= ABOUT_EQUAL * finest]
    return next((volume for volume in usable if volume.modality == wanted), fine[0])


def _motions(
    reference: Volume,
    volumes: Mapping[str, Volume],
    settings: AlignmentSettings,
    frames: Mapping[str, str],
    notes: list[str],
) -> dict[str, Registration]:
    """Register all files to the reference, one of each frame of reference.

    Returns:
        Modality -> registration, for those that can be used or were at least tried.
    """
    groups: dict[str, list[Volume]] = {}
    for modality, volume in volumes.items():
        if volume.value_everywhere is None:
            groups.setdefault(frames.get(modality, f"only {modality}"), []).append(volume)
    motions = {}
    for group in groups.values():
        if reference in group:
            continue
        finest = min(group, key=lambda volume: volume.space.voxel)
        found = register(reference, finest, settings.least_covered)
        if found.problem is not None:
            notes.append(
                f"{finest.file} was not registered to {reference.modality}: {found.problem}. Only the positions in the "
                "headers are used"
            )
        motions |= {volume.modality: found for volume in group}
    return motions


def _alignment(reference: Volume, volume: Volume, found: Registration | None) -> FileAlignment:
    """Decide how a file comes onto the reference's grid."""
    if volume is reference:
        return FileAlignment("reference", volume.space)
    similarity = None if found is None else (found.before, found.after)
    if found is not None and found.problem is None and _is_motion(reference, found.motion):
        middle = reference.space.points(np.argwhere(reference.foreground)[:, ::-1].mean(0))
        shift = float(np.linalg.norm(found.motion[:3, :3] @ middle + found.motion[:3, 3] - middle))
        share, angle = share_covered(reference, volume.space, found.motion), turn(found.motion)
        return FileAlignment("registered", volume.space, found.motion, shift, angle, share, similarity)
    if volume.shift(reference) <= ROUNDED:
        return FileAlignment("unchanged", volume.space, similarity=similarity)
    share = share_covered(reference, volume.space, IDENTITY)
    return FileAlignment("resampled", volume.space, covered=share, similarity=similarity)


def _is_motion(reference: Volume, motion: np.ndarray) -> bool:
    return mean_shift(reference, motion) >= NO_MOTION * min(reference.space.spacing)


def _require_covered(
    reference: Volume, volume: Volume, alignment: FileAlignment, least: float, notes: list[str]
) -> None:
    share = alignment.covered
    text = f"{volume.file} covers {share:.0%} of the foreground of {reference.modality} ({reference.file})"
    if share < least:
        raise ModalityError(
            f"{text}. --min_covered asks for {least:.0%}. Check that both show the same part of the same patient. "
            "Choose another --reference or a lower --min_covered, or remove the file: a modality may be missing."
        )
    if share < ALMOST_ALL:
        notes.append(f"{text}. The rest counts as {fill_value(volume.modality):g}")


def _on_reference(reference: Volume, volume: Volume, alignment: FileAlignment) -> sitk.Image:
    """Return the voxels of a file on the reference's grid; a placeholder has its value everywhere."""
    if (value := volume.value_everywhere) is not None:
        return reference.space.image(np.full(reference.array.shape, value, dtype=np.float32))
    return resampled(volume.image, reference.space, alignment.motion, fill_value(volume.modality))


def _is_on(space: Space, other: Space) -> bool:
    return _grid(space).shift(_grid(other))[0] <= ROUNDED


def _grid(space: Space) -> Grid:
    matrix = np.reshape(space.direction, (3, 3)) * np.array(space.spacing)
    return Grid(space.size, matrix, np.array(space.origin), np.array(space.spacing))
