"""Read the available images and the segmentation of a case."""

import io
import os
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_moe.errors import ModalityError
from nnunet_moe.images.file_names import files_by_channel
from nnunet_moe.images.geometry import HALF_A_VOXEL, Grid, ReadFile, conflict_note, label_note, require_same_geometry
from nnunet_moe.images.headers import is_nifti, require_one_component, require_room, stored_voxels
from nnunet_moe.images.notes import ModalityNote
from nnunet_moe.images.placeholders import (
    constant_note,
    constant_text,
    copies,
    copy_text,
    single_value,
    suspicion,
    two_values_note,
)
from nnunet_moe.images.spacing_files import require_spacing
from nnunet_moe.images.unreadable import reading
from nnunet_moe.labels.voxels import whole_numbers
from nnunet_moe.modalities.codes import Code, channel_names
from nnunet_moe.runtime.files import visible

LARGEST = 1e14
"""The largest magnitude of a voxel. Above it, sums of squares over an image overflow in single precision, and nnU-Net's
normalization gives NaN."""
SMALLEST_RANGE = 1e-7
"""The smallest difference between the largest and the smallest voxel. nnU-Net's normalization divides by at least 1e-8,
so it does not scale such an image."""


@dataclass(frozen=True)
class CaseImages:
    """The images of a case, and notes on files that were ignored."""

    image: np.ndarray
    """`(K, *space)`, float32, NaN in missing channels."""
    properties: dict[str, Any]
    """The properties that nnU-Net's reader returned."""
    notes: tuple[str, ...] = ()
    """Messages on the files that were read: which of them count as missing, and why."""
    case: str = ""
    """Name of the case, if the file names follow nnU-Net's scheme."""
    missing: tuple[str, ...] = ()
    """Names of the missing modalities, if the dataset is known."""
    look_alikes: tuple[str, ...] = ()
    """Messages on files that were not read, but look as if they were meant for a missing modality."""
    placeholders: Mapping[int, str] = field(default_factory=dict)
    """Channel -> why its file seems to be a placeholder: it has a single value, or is equal to another one."""
    copies: tuple[str, ...] = ()
    """Messages on files that are copies of others, also with other gray values."""
    axis_codes: tuple[str, ...] = ()
    """The directions of the axes of the files, as in `Grid.axis_codes`."""

    @property
    def available(self) -> Code:
        return tuple(not bool(np.isnan(channel).any()) for channel in self.image)

    @property
    def ignored(self) -> tuple[str, ...]:
        """Return all messages on files that were not used, or perhaps should not be."""
        return (*self.notes, *self.copies, *self.look_alikes)

    @property
    def log_lines(self) -> tuple[str, ...]:
        """Return the lines that a log should contain about the case."""
        missing = [f"{self.case}: missing {', '.join(self.missing)}"] if self.missing else []
        return (*self.notes, *self.copies, *missing, *self.look_alikes)

    def require_no_copies(self) -> None:
        """Refuse a case in which a file is a copy of another one.

        Raises:
            ModalityError: there is such a file.
        """
        if self.copies:
            raise ModalityError(f"{'; '.join(self.copies)}. --refuse_copies was given. Remove this file.")


def read_case(
    image_files: Sequence[str], reader: Any, dataset_json: dict, training_axes: Sequence[str] = ()
) -> CaseImages:
    """Read the available files of a case.

    Args:
        image_files: as in `MissingModalityPreprocessor.run_case`.
        reader: one of nnU-Net's image readers.
        dataset_json: the content of dataset.json.
        training_axes: the directions of the axes of training images, such as `LPS`; empty if they are unknown.

    Raises:
        ModalityError: as in `MissingModalityPreprocessor.run_case`.
    """
    names, file_ending = channel_names(dataset_json), dataset_json["file_ending"]
    files = files_by_channel(image_files, dataset_json)
    images = read_channels(reader, files, names)
    missing = [channel for channel, values in enumerate(images.image) if np.isnan(values).all()]
    folder, name = os.path.split(next(iter(files.values())))
    case = name[: -len("_XXXX") - len(file_ending)]
    return replace(
        images,
        notes=(*images.notes, *axes_notes(case, images.axis_codes, training_axes)),
        case=case,
        missing=tuple(names[channel] for channel in missing),
        look_alikes=_look_alikes(folder, case, missing, file_ending),
    )


def read_segmentation(file: str, reader: Any) -> tuple[np.ndarray, dict]:
    """Read a segmentation without the rounding errors of its file, and refuse a damaged one.

    Args:
        file: the file, with one channel.
        reader: one of nnU-Net's image readers.

    Returns:
        Labels `(*space)` and the reader's properties.

    Raises:
        ModalityError: the file is damaged, has more than one channel, or has voxels that are not whole numbers.
    """
    with reading(file, "Copy or convert it again."):
        require_one_component(file, reader, is_segmentation=True)
        require_room(file)
        require_spacing(reader, segmentation=file)
        data, properties = reader.read_seg(file)
        num_bad = _count_not_finite(file, data, properties)
    if len(data) != 1 or num_bad:
        raise ModalityError(
            f"{file} has {len(data)} channels, and {num_bad} voxels are NaN or infinite. A segmentation has one "
            "channel of labels. Repair the file."
        )
    return whole_numbers(data[0], file), properties


def read_segmentation_of(
    file: str, reader: Any, first_image: str, images: CaseImages, *, largest_shift: float = HALF_A_VOXEL
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Read the segmentation of a case, and compare its grid with the images'.

    Args:
        file: the file, with one channel.
        reader: one of nnU-Net's image readers.
        first_image: a file of the case, named in errors.
        images: the images of the case.
        largest_shift: the largest shift of voxels, in voxels, at which the files can be used. nnU-Net trains at any.

    Returns:
        Labels `(*space)`, and messages on small differences of the grids.

    Raises:
        ModalityError: as in `read_segmentation`, or segmentation and images do not lie on the same grid.
    """
    segmentation, properties = read_segmentation(file, reader)
    note = label_note(
        ReadFile(first_image, images.image.shape[1:], images.properties),
        ReadFile(file, segmentation.shape, properties),
        largest_shift=largest_shift,
    )
    return segmentation, () if note is None else (note,)


def read_channels(
    reader: Any, files: dict[int, str], modalities: Sequence[str], originals: Sequence[int] = ()
) -> CaseImages:
    """Read each file into its channel.

    Args:
        reader: one of nnU-Net's image readers.
        files: channel -> file. Each file has one channel, and all lie on the same grid. A file with a single value
            counts as missing.
        modalities: names in channel order.
        originals: channels that count as the original if others are copies of them; then the other channels in order.

    Raises:
        ModalityError: the files cannot be used together, or each has a single value.
    """
    image, first = np.empty(0), None
    notes: list[str] = []
    constants: dict[int, str] = {}
    for channel, file in sorted(files.items()):
        data, read = _read_channel(reader, file, notes)
        if first is None:
            first, image = read, np.full((len(modalities), *read.shape), np.nan, dtype=np.float32)
        if (note := require_same_geometry(first, read)) is not None:
            notes.append(note)
        if (value := single_value(data)) is None:
            image[channel] = data
            if (text := two_values_note(data, file)) is not None:
                notes.append(ModalityNote(text, modalities[channel]))
            elif (why := suspicion(data)) is not None:
                notes.append(f"{file} {why}: perhaps a placeholder for a missing modality")
        else:
            constants[channel] = constant_text(value)
            notes.append(constant_note(value, file))
    assert first is not None
    if constants.keys() == files.keys():
        listed = ", ".join(f"{files[channel]} is {text}" for channel, text in constants.items())
        raise ModalityError(f"No usable image: {listed}. Add a file of at least one modality, or remove the case.")
    order = [channel for channel in dict.fromkeys((*originals, *sorted(files))) if channel in files.keys() - constants]
    found = {
        channel: (copy_text(modalities[original], is_equal=is_equal), is_equal)
        for channel, (original, is_equal) in copies(image, order).items()
    }
    return CaseImages(
        image,
        first.properties,
        tuple(notes),
        placeholders={**constants, **{channel: text for channel, (text, is_equal) in found.items() if is_equal}},
        copies=tuple(
            f"{files[channel]} is {text}: perhaps a placeholder for a missing modality"
            for channel, (text, _) in found.items()
        ),
        axis_codes=Grid.of(first).axis_codes,
    )


def _read_channel(reader: Any, file: str, notes: list[str]) -> tuple[np.ndarray, ReadFile]:
    """Read a file with one channel.

    Args:
        reader: one of nnU-Net's image readers.
        file: the file.
        notes: list to which the messages on the file are added.

    Returns:
        The voxels `(*space)`, and the other results of the reader.

    Raises:
        ModalityError: the file cannot be used.
    """
    data, properties, num_bad, said = _read_file(reader, file)
    if len(data) != 1:
        raise ModalityError(f"{file} has {len(data)} channels. A file must have one. Split it into _XXXX files.")
    if num_bad:
        raise ModalityError(
            f"{file} has {num_bad} voxels that are NaN or infinite. Repair the image, or remove the file, because "
            "a modality may be missing."
        )
    require_usable_values(data[0], file)
    read = ReadFile(file, data.shape[1:], properties)
    conflict = conflict_note(read)
    notes += said if conflict is None else [*said, conflict]
    return data[0], read


def require_usable_values(channel: np.ndarray, name: str) -> None:
    """Refuse values that nnU-Net's normalization turns into NaN or into almost nothing.

    Args:
        channel: its voxels, finite.
        name: name of its file or modality, for errors.

    Raises:
        ModalityError: values are too large, or differ too little.
    """
    lowest, highest = float(channel.min()), float(channel.max())
    if (largest := max(abs(lowest), abs(highest))) > LARGEST:
        raise ModalityError(
            f"{name} has voxels up to {largest:.2g}. nnU-Net's normalization needs voxels below {LARGEST:.0e}. "
            "Repair the image, or remove the file, because a modality may be missing."
        )
    if highest - lowest < SMALLEST_RANGE and single_value(channel) is None:
        raise ModalityError(
            f"{name} has voxels from {lowest:.3g} to {highest:.3g}. nnU-Net's normalization needs a range above "
            f"{SMALLEST_RANGE:.0e}. Multiply all images of this modality by the same number, or remove the file, "
            "because a modality may be missing."
        )


def is_available(channel: np.ndarray, name: str) -> bool:
    """Return whether a channel is available: it is neither NaN in all voxels nor has it a single value.

    Args:
        channel: its voxels.
        name: name of its file or modality, for errors.

    Raises:
        ModalityError: some voxels are NaN or infinite, but not all are NaN.
    """
    if np.isnan(channel).all():
        return False
    if not np.isfinite(channel).all():
        raise ModalityError(
            f"{name} is NaN or infinite in some voxels. A missing channel must be NaN in every voxel, and an available "
            "one in none. Repair it."
        )
    require_usable_values(channel, name)
    return single_value(channel) is None


def _read_file(reader: Any, file: str) -> tuple[np.ndarray, dict, int, list[str]]:
    """Return image `(channels, *space)`, properties, number of NaN or infinite voxels, and the reader's output."""
    with reading(file, "Copy or convert it again, or remove it, because a modality may be missing."):
        require_one_component(file, reader)
        require_room(file)
        require_spacing(reader, [file])
        with redirect_stdout(io.StringIO()) as said:  # nnU-Net's tif reader prints that it knows no spacing
            data, properties = reader.read_images([file])
        return data, properties, _count_not_finite(file, data, properties), said.getvalue().splitlines()


def axes_notes(case: str, axis_codes: Sequence[str], training_axes: Sequence[str]) -> tuple[str, ...]:
    """Return a message if the axes of a case have other directions than those of all training images.

    Args:
        case: its name.
        axis_codes: the directions, as in `Grid.axis_codes`.
        training_axes: those of the training images; empty if they are not known.
    """
    if not axis_codes or not training_axes or set(axis_codes) & set(training_axes):
        return ()
    return (
        f"{case}: the axes of its images point to {axis_codes[0]}, those of the training images to "
        f"{' or '.join(training_axes)}. nnU-Net does not reorient images, so the segmentation may be wrong. Reorient "
        "the images as the training images are",
    )


def _look_alikes(folder: str, case: str, missing: Sequence[int], file_ending: str) -> tuple[str, ...]:
    """Return a message on files that seem to be meant for missing channels, but have another ending."""
    if not missing:
        return ()
    meant = [
        other
        for other in (path.name for path in visible(Path(folder)))
        for channel in missing
        if other.startswith(f"{case}_{channel:04d}") and not other.lower().endswith(file_ending.lower())
    ]
    return (f"{case}: not used, because the ending is not {file_ending}: {', '.join(meant)}",) if meant else ()


def _count_not_finite(file: str, data: np.ndarray, properties: Mapping[str, Any]) -> int:
    """Return the number of NaN or infinite voxels in a file; `data` and `properties` are what the reader returned."""
    if is_nifti(file):
        data = stored_voxels(file, data, properties)
    return int(data.size - np.isfinite(data).sum()) if data.dtype.kind == "f" else 0
