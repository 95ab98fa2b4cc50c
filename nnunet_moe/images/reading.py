"""Read the available images and the segmentation of a case."""

import io
import os
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_moe.errors import ModalityError
from nnunet_moe.images.case_images import CaseImages
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
from nnunet_moe.images.values import require_usable_values
from nnunet_moe.labels.voxels import whole_numbers
from nnunet_moe.modalities.codes import channel_names
from nnunet_moe.runtime.files import visible


def read_case(
    image_files: Sequence[str],
    reader: Any,
    dataset_json: dict,
    training_axes: Sequence[str] = (),
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
    files = files_by_channel(image_files, dataset_json)
    folder, name = os.path.split(next(iter(files.values())))
    case = name[: -len("_XXXX") - len(dataset_json["file_ending"])]
    return read_files(files, reader, dataset_json, training_axes, case=case, folder=Path(folder))


def read_files(
    files: Mapping[int, str],
    reader: Any,
    dataset_json: dict,
    training_axes: Sequence[str],
    *,
    case: str,
    folder: Path | None,
) -> CaseImages:
    """Read the available files of a case whose names may be any.

    Args:
        files: channel -> file.
        reader, dataset_json, training_axes: as in `read_case`.
        case: its name.
        folder: where to look for files that seem to be meant for missing modalities, by their names in nnU-Net's
            scheme; None for nowhere.

    Raises:
        ModalityError: the files cannot be used together.
    """
    names = channel_names(dataset_json)
    images = read_channels(reader, files, names)
    missing = [channel for channel, values in enumerate(images.image) if np.isnan(values).all()]
    return replace(
        images,
        notes=(*images.notes, *axes_notes(case, images.axis_codes, training_axes)),
        case=case,
        missing=tuple(names[channel] for channel in missing),
        look_alikes=() if folder is None else _look_alikes(folder, case, missing, dataset_json["file_ending"]),
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
    reader: Any, files: Mapping[int, str], modalities: Sequence[str], originals: Sequence[int] = ()
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
        data, read = read_channel(reader, file, notes)
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
        files=dict(files),
        axis_codes=Grid.of(first).axis_codes,
    )


def read_channel(reader: Any, file: str, notes: list[str]) -> tuple[np.ndarray, ReadFile]:
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
        raise ModalityError(
            f"{file} has {len(data)} channels. A file must have one. Convert it to gray values, or split it into files."
        )
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


def _look_alikes(folder: Path, case: str, missing: Sequence[int], file_ending: str) -> tuple[str, ...]:
    """Return a message on files that seem to be meant for missing channels, but have another ending."""
    if not missing:
        return ()
    meant = [
        other
        for other in (path.name for path in visible(folder))
        for channel in missing
        if other.startswith(f"{case}_{channel:04d}") and not other.lower().endswith(file_ending.lower())
    ]
    return (f"{case}: not used, because the ending is not {file_ending}: {', '.join(meant)}",) if meant else ()


def _count_not_finite(file: str, data: np.ndarray, properties: Mapping[str, Any]) -> int:
    """Return the number of NaN or infinite voxels in a file; `data` and `properties` are what the reader returned."""
    if is_nifti(file):
        data = stored_voxels(file, data, properties)
    return int(data.size - np.isfinite(data).sum()) if data.dtype.kind == "f" else 0
