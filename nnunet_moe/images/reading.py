"""The images and the segmentation of a case, read from whichever of its files are there."""

import io
import os
import zlib
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from typing import Any

import nibabel
import nibabel.spatialimages
import numpy as np
from nibabel.filebasedimages import ImageFileError

from nnunet_moe.errors import ModalityError
from nnunet_moe.images.file_names import files_by_channel
from nnunet_moe.images.geometry import require_same_geometry
from nnunet_moe.modalities.codes import Code, channel_names

UNREADABLE = (RuntimeError, OSError, EOFError, ValueError, AssertionError, zlib.error, ImageFileError)  # damaged files


@dataclass(frozen=True)
class CaseImages:
    """The images of a case as they were read, and what was ignored."""

    image: np.ndarray
    """`(K, *space)`, float32, NaN in missing channels."""
    properties: dict[str, Any]
    """The reader's."""
    notes: tuple[str, ...] = ()
    """In words, what a user should know of the files that were read: which of them count as missing, and why."""
    case: str = ""
    """Its name, if the files are named as nnU-Net wants."""
    missing: tuple[str, ...] = ()
    """The names of the modalities that the case lacks, if the dataset is known."""
    look_alikes: tuple[str, ...] = ()
    """In words, which files were not read that look as if they were meant for the missing modalities."""

    @property
    def available(self) -> Code:
        return tuple(not bool(np.isnan(channel).any()) for channel in self.image)

    @property
    def ignored(self) -> tuple[str, ...]:
        """All notes on files that were not used."""
        return (*self.notes, *self.look_alikes)

    @property
    def log_lines(self) -> tuple[str, ...]:
        """What a log should say of the case."""
        missing = [f"{self.case}: absent {', '.join(self.missing)}"] if self.missing else []
        return (*self.notes, *missing, *self.look_alikes)


def read_case(image_files: Sequence[str], reader: Any, dataset_json: dict) -> CaseImages:
    """Read the files of a case that exist.

    Args:
        image_files: as in `MissingModalityPreprocessor.run_case`.
        reader: one of nnU-Net's image readers.

    Raises:
        ModalityError: as in `MissingModalityPreprocessor.run_case`.
    """
    names, file_ending = channel_names(dataset_json), dataset_json["file_ending"]
    files = files_by_channel(image_files, dataset_json)
    images = read_channels(reader, files, num_channels=len(names))
    missing = [channel for channel, values in enumerate(images.image) if np.isnan(values).all()]
    folder, name = os.path.split(next(iter(files.values())))
    case = name[: -len("_XXXX") - len(file_ending)]
    return replace(
        images,
        case=case,
        missing=tuple(names[channel] for channel in missing),
        look_alikes=_look_alikes(folder, case, missing, file_ending),
    )


def read_segmentation(file: str, reader: Any) -> tuple[np.ndarray, dict]:
    """Read a segmentation, whole or not at all.

    Args:
        file: of one channel.
        reader: one of nnU-Net's image readers.

    Returns:
        Labels `(*space)` and the reader's properties.

    Raises:
        ModalityError: a file that is damaged, or holds more than one channel or voxels that are not finite.
    """
    try:
        data, properties = reader.read_seg(file)
        num_bad = _count_not_finite(file, data)
    except UNREADABLE as error:
        raise ModalityError(f"{file} cannot be read: {_why(file, error)}. Copy or convert it again.") from error
    if len(data) != 1 or num_bad:
        raise ModalityError(
            f"{file} has {len(data)} channels, and {num_bad} voxels that are NaN or infinite; a segmentation has one "
            "channel of labels. Repair it."
        )
    return data[0], properties


def read_segmentation_of(file: str, reader: Any, first_image: str, image: np.ndarray) -> tuple[np.ndarray, dict]:
    """Read the segmentation of a case.

    Args:
        file: of one channel.
        reader: one of nnU-Net's image readers.
        first_image: file of the case, for errors.
        image: `(K, *space)`.

    Raises:
        ModalityError: as `read_segmentation`; or it is of another shape than the image.
    """
    segmentation, properties = read_segmentation(file, reader)
    if segmentation.shape != image.shape[1:]:
        raise ModalityError(
            f"{file} has the shape {segmentation.shape}, {first_image} {image.shape[1:]}. Both must lie on one grid."
        )
    return segmentation, properties


def read_channels(reader: Any, files: dict[int, str], *, num_channels: int) -> CaseImages:
    """Read each file into its channel.

    Args:
        reader: one of nnU-Net's image readers.
        files: channel -> file, of one channel each and on one grid; one of zeros counts as missing.
        num_channels: K.

    Raises:
        ModalityError: files that cannot be used together, or nothing but zeros.
    """
    image, properties, first = np.empty(0), {}, ""
    notes: list[str] = []
    for channel, file in sorted(files.items()):
        data, file_properties, num_bad, said = _read_file(reader, file)
        notes += said
        if len(data) != 1:
            raise ModalityError(f"{file} holds {len(data)} channels; a file holds one. Split it into _XXXX files.")
        if not first:
            first, properties = file, file_properties
            image = np.full((num_channels, *data.shape[1:]), np.nan, dtype=np.float32)
        require_same_geometry(first, file, (image.shape[1:], properties), (data.shape[1:], file_properties))
        if num_bad:
            raise ModalityError(
                f"{file} has {num_bad} voxels that are NaN or infinite. Repair the image, or remove the file: a "
                "modality may be missing."
            )
        if is_available(data[0], file):
            image[channel] = data[0]
        else:
            notes += zero_notes(data[0], file)
    if np.isnan(image).all():
        raise ModalityError(
            f"No usable image: {', '.join(files.values())} are zero everywhere. Add a file of at least one modality, "
            "or take the case out."
        )
    return CaseImages(image, properties, tuple(notes))


def is_available(channel: np.ndarray, name: str) -> bool:
    """Whether a channel is available: neither NaN throughout nor zero throughout.

    Args:
        name: of its file or modality.

    Raises:
        ModalityError: it is NaN or infinite in places.
    """
    if np.isnan(channel).all():
        return False
    if not np.isfinite(channel).all():
        raise ModalityError(
            f"{name} is NaN or infinite in some voxels. An absent channel is NaN in every voxel, one that is there "
            "in none."
        )
    return bool(channel.any())


def zero_notes(channel: np.ndarray, name: str) -> list[str]:
    """A note if a channel counts as missing because it is zero everywhere."""
    return [] if channel.any() else [f"{name} is zero everywhere: treated as absent"]


def _read_file(reader: Any, file: str) -> tuple[np.ndarray, dict, int, list[str]]:
    """The image `(channels, *space)`, its properties, how many voxels are NaN or infinite, and what the reader said."""
    try:
        with redirect_stdout(io.StringIO()) as said:  # nnU-Net's reader of tifs prints that it knows no spacing
            data, properties = reader.read_images([file])
        return data, properties, _count_not_finite(file, data), said.getvalue().splitlines()
    except UNREADABLE as error:
        raise ModalityError(
            f"{file} cannot be read: {_why(file, error)}. Copy or convert it again, or remove it: a modality may be "
            "missing."
        ) from error


def _why(file: str, error: Exception) -> str:
    """What keeps a file from being read; the readers say of most that it does not exist."""
    if not os.path.exists(file):
        return f"it is a link to {os.readlink(file)}, which is not there" if os.path.islink(file) else "it is not there"
    return str(error) if os.access(file, os.R_OK) else "there is no permission"


def _look_alikes(folder: str, case: str, missing: Sequence[int], file_ending: str) -> tuple[str, ...]:
    """A note on the files that are named as if they were meant for missing channels, but have another ending."""
    if not missing:
        return ()
    meant = [
        other
        for other in sorted(os.listdir(folder or "."))
        for channel in missing
        if other.startswith(f"{case}_{channel:04d}") and not other.lower().endswith(file_ending.lower())
    ]
    return (f"{case}: not used, since not ending in {file_ending}: {', '.join(meant)}",) if meant else ()


def _count_not_finite(file: str, data: np.ndarray) -> int:
    """The number of voxels that are NaN or infinite in a file, of which `data` was read."""
    if file.lower().endswith((".nii", ".nii.gz")):  # ITK makes zeros of them, and of what a file lacks
        stored = nibabel.load(file)
        assert isinstance(stored, nibabel.spatialimages.SpatialImage)
        data = np.asanyarray(stored.dataobj)
        if data.dtype.kind == "c":
            raise ModalityError(f"{file} holds complex numbers. Give magnitudes, or remove it.")
    return int(data.size - np.isfinite(data).sum()) if data.dtype.kind == "f" else 0
