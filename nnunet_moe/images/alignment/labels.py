"""Bring the segmentation of a case onto the grid of its aligned images, without losing labels unnoticed."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_moe.errors import ModalityError
from nnunet_moe.images.alignment.aligned import AlignedCase, AlignedLabel, FileAlignment
from nnunet_moe.images.alignment.registration import share_covered
from nnunet_moe.images.alignment.resampling import IDENTITY, covered, resampled_labels
from nnunet_moe.images.alignment.settings import AlignmentSettings
from nnunet_moe.images.alignment.volumes import LabelVolume, Space, Volume
from nnunet_moe.images.geometry import ROUNDED, Grid, label_note

MOST_CUT = 0.1
"""The largest share of a label's volume that may lie outside of the reference's grid. Headers and the borders of thick
slices cost less; a label that loses more teaches the network a wrong outline."""


def align_label(file: str, aligned: AlignedCase, settings: AlignmentSettings, target: Path) -> AlignedLabel:
    """Bring a segmentation onto the grid of the aligned images.

    A segmentation that lies on the grid of one of the original images was drawn on this image, so it moves with it; its
    voxels and those of the image are pairs. Any other one is resampled by its header.

    Args:
        file: the segmentation.
        aligned: the images.
        settings: how they were aligned.
        target: the file to write if the original cannot be used.

    Raises:
        ModalityError: the segmentation cannot be used; it has the shape of an image, but lies elsewhere; it covers too
            little of the reference; or too much of a label lies outside of the reference's grid.
    """
    label = LabelVolume.of_file(file)
    drawn_on = _drawn_on(label, aligned)
    if drawn_on is None:
        notes = [f"{file} lies on the grid of none of the images. Its header decides where it lies"]
        alignment, space = _by_header(label, aligned, settings), label.space
    else:
        of_image = aligned.alignments[drawn_on]
        if of_image.how in ("reference", "unchanged"):
            return AlignedLabel(file, FileAlignment("unchanged", label.read), dict.fromkeys(label.volumes, 1.0), ())
        how = "registered" if of_image.how == "registered" else "resampled"
        alignment, space = replace(of_image, how=how, read=label.read, similarity=None), of_image.space
        notes = _notes_on_image(label, drawn_on, aligned)
    _require_inside(label, space, aligned, alignment.motion, settings)
    moved = resampled_labels(label.labels, space, aligned.space, alignment.motion)
    write_labels(moved, aligned.space, target)
    before, after = label.volumes, LabelVolume(aligned.alignments[aligned.reference].read, moved).volumes
    notes += [
        f"label {value} of {file} ({volume:.3g} mm3) has no voxel on the grid of {aligned.reference}, because it is "
        f"smaller than these voxels. A finer {settings.name('reference')} would keep it"
        for value, volume in before.items()
        if value not in after
    ]
    kept = {value: after.get(value, 0.0) / volume for value, volume in before.items()}
    return AlignedLabel(str(target), alignment, kept, tuple(notes))


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


def _drawn_on(label: LabelVolume, aligned: AlignedCase) -> str | None:
    """Return the image on whose grid a segmentation lies, the reference first; None if it has the shape of none.

    Raises:
        ModalityError: it has the shape of an image, but is shifted against it by more than half a voxel, so one of the
            headers is wrong.
    """
    shifts = _shifts(label, aligned)
    if not shifts:
        return None
    if on_it := [modality for modality, shift in shifts.items() if shift <= ROUNDED]:
        return aligned.reference if aligned.reference in on_it else on_it[0]
    closest = min(shifts, key=lambda modality: shifts[modality])
    label_note(aligned.alignments[closest].read, label.read)  # which refuses large shifts
    return closest


def _shifts(label: LabelVolume, aligned: AlignedCase) -> Mapping[str, float]:
    """Return how far a segmentation is shifted against each image of its shape: modality -> voxels."""
    grid = Grid.of(label.read)
    return {
        modality: Grid.of(alignment.read).shift(grid)[0]
        for modality, alignment in aligned.alignments.items()
        if alignment.read.shape == label.read.shape
    }


def _on_one_grid(modality: str, aligned: AlignedCase) -> list[str]:
    """Return the modalities whose original files lie on the grid of one of them, with this one."""
    grid = Grid.of(aligned.alignments[modality].read)
    return [name for name, alignment in aligned.alignments.items() if Grid.of(alignment.read).shift(grid)[0] <= ROUNDED]


def _notes_on_image(label: LabelVolume, drawn_on: str, aligned: AlignedCase) -> list[str]:
    """Return what is not certain about a segmentation that moves with an image."""
    of_image = aligned.alignments[drawn_on]
    note = label_note(of_image.read, label.read)
    notes = [] if note is None else [note]
    others = [
        name
        for name in _on_one_grid(drawn_on, aligned)
        if not np.array_equal(aligned.alignments[name].motion, of_image.motion)
    ]
    if others:
        notes.append(
            f"{label.read.file} lies on the grid of {drawn_on} and {', '.join(others)}, which move differently. It "
            f"moves with {drawn_on}"
        )
    return notes


def _by_header(label: LabelVolume, aligned: AlignedCase, settings: AlignmentSettings) -> FileAlignment:
    """Return the alignment of a segmentation on a grid of its own.

    Raises:
        ModalityError: it covers too little of the reference.
    """
    name = aligned.reference
    reference = Volume.of_file(name, aligned.files[name], [])
    share = share_covered(reference, label.space, IDENTITY)
    if share < settings.share:
        raise ModalityError(
            f"{label.read.file} covers {share:.0%} of the foreground of {name} ({reference.file}). "
            f"{settings.name('min_covered')} asks for {settings.share:.0%}. The shape of the segmentation is "
            "that of none of the images, so its header decides where it lies. Correct the header, or resample the "
            f"segmentation onto the grid of one of the images. If it is right, choose a lower "
            f"{settings.name('min_covered')}."
        )
    return FileAlignment("resampled", label.read, covered=share)


def _require_inside(
    label: LabelVolume, space: Space, aligned: AlignedCase, motion: np.ndarray, settings: AlignmentSettings
) -> None:
    """Refuse a segmentation if much of it lies outside of the reference's grid.

    Raises:
        ModalityError: a label loses more than `MOST_CUT` of its volume.
    """
    inside = LabelVolume(label.read, label.labels * covered(aligned.space, space, np.linalg.inv(motion))).volumes
    for value, volume in label.volumes.items():
        lost = 1 - inside.get(value, 0.0) / volume
        if lost > MOST_CUT:
            raise ModalityError(
                f"{label.read.file}: {lost:.0%} of label {value} lies outside of the grid of {aligned.reference} "
                f"({aligned.alignments[aligned.reference].read.file}). At most {MOST_CUT:.0%} of a label may be lost. "
                f"Check the header of the segmentation, or choose another {settings.name('reference')}, whose image "
                "covers the label."
            )
