"""Bring the files of a case onto the grid of one of them."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_moe.errors import ModalityError
from nnunet_moe.images.alignment.aligned import AlignedCase, FileAlignment
from nnunet_moe.images.alignment.registration import Registration, compare, mean_shift, register, share_covered, turn
from nnunet_moe.images.alignment.resampling import IDENTITY, fill_value, resampled
from nnunet_moe.images.alignment.settings import RIGID, RIGID_ALL, AlignmentSettings
from nnunet_moe.images.alignment.volumes import Volume
from nnunet_moe.images.geometry import ROUNDED
from nnunet_moe.images.new_files import OriginalNames

ABOUT_EQUAL = 1.01
"""Ratio of the edges of two voxels up to which they count as equally fine."""
NO_MOTION = 0.5
"""A registered motion below so many voxels of the reference, in the mean over its foreground, counts as none."""
ALMOST_ALL = 0.99
"""A share above which no message says how much of the reference a file covers."""


def align_case(
    files: Mapping[str, str],
    targets: Mapping[str, Path],
    settings: AlignmentSettings,
    frames: Mapping[str, str] | None = None,
) -> AlignedCase:
    """Bring the files of a case onto the grid of one of them.

    A file that lies on this grid is used as it is. With `rigid`, all other files are registered to the reference first,
    also those on its grid. Files of one frame of reference move together, and those of the reference's not at all, with
    a note. With `rigid_all`, each file is registered.

    Args:
        files: modality -> file, in channel order.
        targets: modality -> the file to write if the original cannot be used.
        settings: how to align.
        frames: modality -> the frame of reference that its header names, for those that name one.

    Raises:
        ModalityError: a file cannot be used, is not a volume, or covers too little of the reference. A placeholder need
            not cover anything.
    """
    notes: dict[str, list[str]] = {modality: [] for modality in files}
    volumes = {modality: Volume.of_file(modality, file, notes[modality]) for modality, file in files.items()}
    reference = _reference(volumes, settings.reference)
    if settings.reference not in (None, reference.modality):
        notes[reference.modality].append(f"no usable {settings.reference}: aligned to {reference.modality}")
    frames = frames if frames is not None and settings.align == RIGID else {}
    motions = _motions(reference, volumes, settings, frames, notes) if settings.registers else {}
    used, alignments, originals = {}, {}, {}
    for modality, volume in volumes.items():
        alignment = _alignment(reference, volume, motions.get(modality))
        notes[modality] += _require_covered(reference, volume, alignment, settings)
        used[modality], alignments[modality] = volume.file, alignment
        if alignment.how in ("resampled", "registered"):
            used[modality] = str(targets[modality])
            originals[used[modality]] = volume.file
            sitk.WriteImage(_on_reference(reference, volume, alignment), used[modality], useCompression=True)
    notes_on = {modality: tuple(of_file) for modality, of_file in notes.items()}
    return AlignedCase(reference.modality, used, alignments, notes_on, OriginalNames(originals))


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
    notes: Mapping[str, list[str]],
) -> dict[str, Registration]:
    """Register all files to the reference, one of each frame of reference.

    Returns:
        Modality -> registration, for those that can be used or were at least tried. Files in the reference's frame do
        not move.
    """
    groups: dict[str, list[Volume]] = {}
    for modality, volume in volumes.items():
        if volume.value_everywhere is None:
            groups.setdefault(frames.get(modality, f"only {modality}"), []).append(volume)
    motions = {}
    for group in groups.values():
        if reference in group:
            for volume in group:
                if volume is not reference:
                    motions[volume.modality] = _in_same_frame(reference, volume, settings, notes[volume.modality])
            continue
        finest = min(group, key=lambda volume: volume.space.voxel)
        found = register(reference, finest, settings.share)
        if found.problem is not None:
            notes[finest.modality].append(
                f"{finest.file} was not registered to {reference.modality}: {found.problem}. Only the positions in the "
                "headers are used"
            )
        motions |= {volume.modality: found for volume in group}
    return motions


def _in_same_frame(reference: Volume, volume: Volume, settings: AlignmentSettings, notes: list[str]) -> Registration:
    """Compare a file with the reference in whose frame of reference it lies, and note that it is not registered."""
    found = compare(reference, volume)
    text = f"{volume.file} was not registered, because its header names the frame of reference of {reference.modality}"
    if found.problem is not None:
        remedy = f"{settings.name('align', RIGID_ALL)} registers them"
        text += f". But {found.problem}. If the patient moved between the two, {remedy}"
    notes.append(text)
    return found


def _alignment(reference: Volume, volume: Volume, found: Registration | None) -> FileAlignment:
    """Decide how a file comes onto the reference's grid."""
    if volume is reference:
        return FileAlignment("reference", volume.read)
    similarity = None if found is None else (found.before, found.after)
    if found is not None and found.problem is None and _is_motion(reference, found.motion):
        middle = reference.space.points(np.argwhere(reference.foreground)[:, ::-1].mean(0))
        shift = float(np.linalg.norm(found.motion[:3, :3] @ middle + found.motion[:3, 3] - middle))
        share, angle = share_covered(reference, volume.space, found.motion), turn(found.motion)
        return FileAlignment("registered", volume.read, found.motion, shift, angle, share, similarity)
    if volume.shift(reference) <= ROUNDED:
        return FileAlignment("unchanged", volume.read, similarity=similarity)
    is_placeholder = volume.value_everywhere is not None
    share = None if is_placeholder else share_covered(reference, volume.space, IDENTITY)
    return FileAlignment("resampled", volume.read, covered=share, similarity=similarity)


def _is_motion(reference: Volume, motion: np.ndarray) -> bool:
    return mean_shift(reference, motion) >= NO_MOTION * min(reference.space.spacing)


def _require_covered(
    reference: Volume, volume: Volume, alignment: FileAlignment, settings: AlignmentSettings
) -> list[str]:
    """Refuse a file that covers too little, and return messages on one that does not cover all."""
    if (share := alignment.covered) is None:
        return []
    slices = ", which has one slice," if min(volume.space.size) == 1 else ""
    text = f"{volume.file}{slices} covers {share:.0%} of the foreground of {reference.modality} ({reference.file})"
    if share < settings.share:
        least, reference_option = settings.name("min_covered"), settings.name("reference")
        raise ModalityError(
            f"{text}. {least} asks for {settings.share:.0%}. Check that both show the same part of the same patient. "
            f"Choose another {reference_option} or a lower {least}, or remove the file: a modality may be missing."
        )
    return [f"{text}. The rest counts as {fill_value(volume.modality):g}"] if share < ALMOST_ALL else []


def _on_reference(reference: Volume, volume: Volume, alignment: FileAlignment) -> sitk.Image:
    """Return the voxels of a file on the reference's grid; a placeholder has its value everywhere."""
    if (value := volume.value_everywhere) is not None:
        return reference.space.image(np.full(reference.array.shape, value, dtype=np.float32))
    return resampled(volume.image, reference.space, alignment.motion, fill_value(volume.modality))
