"""The images and the segmentation of a case, read from whichever of its files are there."""

import os
import zlib
from collections.abc import Sequence
from typing import Any

import nibabel
import nibabel.spatialimages
import numpy as np
from nibabel.filebasedimages import ImageFileError

from nnunet_moe.errors import ModalityError
from nnunet_moe.images.file_names import files_by_channel
from nnunet_moe.images.geometry import require_same_geometry
from nnunet_moe.modalities.codes import channel_names

UNREADABLE = (RuntimeError, OSError, EOFError, ValueError, AssertionError, zlib.error, ImageFileError)  # damaged files


def read_case(image_files: Sequence[str], reader: Any, dataset_json: dict) -> tuple[np.ndarray, dict]:
    """Read the files of a case that exist, and say in the log what is absent.

    Args:
        image_files: as in `MissingModalityPreprocessor.run_case`.
        reader: one of nnU-Net's image readers.

    Returns:
        Image `(K, *space)`, float32, NaN in absent channels, and the reader's properties.

    Raises:
        ModalityError: as in `MissingModalityPreprocessor.run_case`.
    """
    names = channel_names(dataset_json)
    files = files_by_channel(image_files, dataset_json)
    image, properties = read_channels(reader, files, num_channels=len(names))
    _log_absent(image, files, names, dataset_json["file_ending"])
    return image, properties


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


def read_channels(reader: Any, files: dict[int, str], *, num_channels: int) -> tuple[np.ndarray, dict]:
    """Read each file into its channel.

    Args:
        reader: one of nnU-Net's image readers.
        files: channel -> file, of one channel each and on one grid.
        num_channels: K.

    Returns:
        Image `(K, *space)`, float32, NaN where there is no file or one of zeros, and the reader's properties.

    Raises:
        ModalityError: files that cannot be used together, or nothing but zeros.
    """
    image, properties, first = np.empty(0), {}, ""
    for channel, file in sorted(files.items()):
        data, file_properties, num_bad = _read_file(reader, file)
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
    if np.isnan(image).all():
        raise ModalityError(
            f"No usable image: {', '.join(files.values())} are zero everywhere. Add a file of at least one modality, "
            "or take the case out."
        )
    return image, properties


def _read_file(reader: Any, file: str) -> tuple[np.ndarray, dict, int]:
    """The image `(channels, *space)`, its properties, and how many of the file's voxels are NaN or infinite."""
    try:
        data, properties = reader.read_images([file])
        return data, properties, _count_not_finite(file, data)
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


def _log_absent(image: np.ndarray, files: dict[int, str], names: Sequence[str], file_ending: str) -> None:
    """Say which modalities of a case are absent, and name files that look as if they were meant for them."""
    absent = [channel for channel, values in enumerate(image) if np.isnan(values).all()]
    if not absent:
        return
    folder, name = os.path.split(next(iter(files.values())))
    case = name[: -len("_XXXX") - len(file_ending)]
    meant = [
        other
        for other in sorted(os.listdir(folder or "."))
        for channel in absent
        if other.startswith(f"{case}_{channel:04d}") and not other.lower().endswith(file_ending.lower())
    ]
    print(f"{case}: absent {', '.join(names[channel] for channel in absent)}", flush=True)  # noqa: T201
    if meant:
        print(f"{case}: not used, since not ending in {file_ending}: {', '.join(meant)}", flush=True)  # noqa: T201


def _count_not_finite(file: str, data: np.ndarray) -> int:
    """The number of voxels that are NaN or infinite in a file, of which `data` was read."""
    if file.lower().endswith((".nii", ".nii.gz")):  # ITK makes zeros of them, and of what a file lacks
        stored = nibabel.load(file)
        assert isinstance(stored, nibabel.spatialimages.SpatialImage)
        data = np.asanyarray(stored.dataobj)
        if data.dtype.kind == "c":
            raise ModalityError(f"{file} holds complex numbers. Give magnitudes, or remove it.")
    return int(data.size - np.isfinite(data).sum()) if data.dtype.kind == "f" else 0


def is_available(channel: np.ndarray, name: str) -> bool:
    """Whether a channel is there: neither NaN throughout nor zero throughout."""
    if np.isnan(channel).all():
        return False
    if not np.isfinite(channel).all():
        raise ModalityError(
            f"{name} is NaN or infinite in some voxels. An absent channel is NaN in every voxel, one that is there "
            "in none."
        )
    if not channel.any():
        print(f"{name} is zero everywhere: treated as absent", flush=True)  # noqa: T201 - nnU-Net's workers log so
        return False
    return True
