"""Read the available images and the segmentation of a case."""

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel
import nibabel.spatialimages
import numpy as np
import SimpleITK as sitk
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from nnunet_moe.errors import ModalityError, NnunetMoeError
from nnunet_moe.images.file_names import files_by_channel
from nnunet_moe.images.geometry import require_same_geometry
from nnunet_moe.labels.voxels import whole_numbers
from nnunet_moe.modalities.codes import Code, channel_names
from nnunet_moe.runtime.files import visible

NIFTI = (".nii", ".nii.gz")
LARGEST = 1e14
"""The largest magnitude of a voxel. Above it, sums of squares over an image overflow in single precision, and nnU-Net's
normalization gives NaN."""


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

    @property
    def available(self) -> Code:
        return tuple(not bool(np.isnan(channel).any()) for channel in self.image)

    @property
    def ignored(self) -> tuple[str, ...]:
        """Return all messages on files that were not used."""
        return (*self.notes, *self.look_alikes)

    @property
    def log_lines(self) -> tuple[str, ...]:
        """Return the lines that a log should contain about the case."""
        missing = [f"{self.case}: missing {', '.join(self.missing)}"] if self.missing else []
        return (*self.notes, *missing, *self.look_alikes)


def read_case(image_files: Sequence[str], reader: Any, dataset_json: dict) -> CaseImages:
    """Read the available files of a case.

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
    """Read a segmentation without the rounding errors of its file, and refuse a damaged one.

    Args:
        file: the file, with one channel.
        reader: one of nnU-Net's image readers.

    Returns:
        Labels `(*space)` and the reader's properties.

    Raises:
        ModalityError: the file is damaged, has more than one channel, or has voxels that are not whole numbers.
    """
    with _reading(file, "Copy or convert it again."):
        require_one_component(file, reader)
        data, properties = reader.read_seg(file)
        num_bad = _count_not_finite(file, data)
    if len(data) != 1 or num_bad:
        raise ModalityError(
            f"{file} has {len(data)} channels, and {num_bad} voxels are NaN or infinite. A segmentation has one "
            "channel of labels. Repair the file."
        )
    return whole_numbers(data[0], file), properties


def read_segmentation_of(file: str, reader: Any, first_image: str, image: np.ndarray) -> tuple[np.ndarray, dict]:
    """Read the segmentation of a case.

    Args:
        file: the file, with one channel.
        reader: one of nnU-Net's image readers.
        first_image: a file of the case, named in errors.
        image: `(K, *space)`.

    Raises:
        ModalityError: as in `read_segmentation`, or the shapes of segmentation and image differ.
    """
    segmentation, properties = read_segmentation(file, reader)
    if segmentation.shape != image.shape[1:]:
        raise ModalityError(
            f"{file} has the shape {segmentation.shape}, {first_image} {image.shape[1:]}. Both must lie on the same "
            "grid. Resample one of them."
        )
    return segmentation, properties


def read_channels(reader: Any, files: dict[int, str], *, num_channels: int) -> CaseImages:
    """Read each file into its channel.

    Args:
        reader: one of nnU-Net's image readers.
        files: channel -> file. Each file has one channel, and all lie on the same grid. A file of zeros counts as
            missing.
        num_channels: K.

    Raises:
        ModalityError: the files cannot be used together, or all of them contain only zeros.
    """
    image, properties, first = np.empty(0), {}, ""
    notes: list[str] = []
    for channel, file in sorted(files.items()):
        data, file_properties, num_bad, said = _read_file(reader, file)
        notes += said
        if len(data) != 1:
            raise ModalityError(f"{file} has {len(data)} channels. A file must have one. Split it into _XXXX files.")
        if not first:
            first, properties = file, file_properties
            image = np.full((num_channels, *data.shape[1:]), np.nan, dtype=np.float32)
        require_same_geometry(first, file, (image.shape[1:], properties), (data.shape[1:], file_properties))
        if num_bad:
            raise ModalityError(
                f"{file} has {num_bad} voxels that are NaN or infinite. Repair the image, or remove the file, because "
                "a modality may be missing."
            )
        if (largest := float(np.abs(data[0]).max(initial=0))) > LARGEST:
            raise ModalityError(
                f"{file} has voxels up to {largest:.2g}. nnU-Net's normalization needs voxels below {LARGEST:.0e}. "
                "Repair the image, or remove the file, because a modality may be missing."
            )
        if is_available(data[0], file):
            image[channel] = data[0]
        else:
            notes += zero_notes(data[0], file)
    if np.isnan(image).all():
        raise ModalityError(
            f"No usable image: {', '.join(files.values())} are zero everywhere. Add a file of at least one modality, "
            "or remove the case."
        )
    return CaseImages(image, properties, tuple(notes))


def is_available(channel: np.ndarray, name: str) -> bool:
    """Return whether a channel is available: it is neither NaN in all voxels nor zero in all voxels.

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
    return bool(channel.any())


def zero_notes(channel: np.ndarray, name: str) -> list[str]:
    """Return a message if a channel counts as missing because it is zero everywhere."""
    return [] if channel.any() else [f"{name} is zero everywhere: treated as missing"]


def _read_file(reader: Any, file: str) -> tuple[np.ndarray, dict, int, list[str]]:
    """Return image `(channels, *space)`, properties, number of NaN or infinite voxels, and the reader's output."""
    with _reading(file, "Copy or convert it again, or remove it, because a modality may be missing."):
        require_one_component(file, reader)
        with redirect_stdout(io.StringIO()) as said:  # nnU-Net's tif reader prints that it knows no spacing
            data, properties = reader.read_images([file])
        return data, properties, _count_not_finite(file, data), said.getvalue().splitlines()


def require_one_component(file: str, reader: Any) -> None:
    """Make sure that a file has one number in each voxel, because readers take colors for slices or channels.

    Args:
        file: the file.
        reader: the reader of nnU-Net that will read it.

    Raises:
        ModalityError: it has colors, other vectors or complex numbers.
    """
    number = 1
    if isinstance(reader, SimpleITKIO):
        header = sitk.ImageFileReader()
        header.SetFileName(file)
        header.ReadImageInformation()
        number = header.GetNumberOfComponents()
    if file.lower().endswith(NIFTI):
        stored = _stored(file).dataobj.dtype
        if stored.kind == "c":
            raise ModalityError(
                f"{file} holds complex numbers. Only real numbers are allowed. Write magnitudes, or remove the file."
            )
        number = max(number, len(stored.names or ()))
    if number != 1:
        raise ModalityError(
            f"{file} has {number} values in each voxel, such as colors. A modality must have one. Convert it to gray "
            "values, or split it into files."
        )


@contextmanager
def _reading(file: str, remedy: str) -> Iterator[None]:
    """Make any error of the block one of the file; the readers' libraries raise errors of many classes.

    Raises:
        ModalityError: the file cannot be read.
    """
    try:
        yield
    except (NnunetMoeError, MemoryError):
        raise
    except Exception as error:
        raise ModalityError(f"{file} cannot be read: {_why(file, error)}. {remedy}") from error


def _why(file: str, error: Exception) -> str:
    """Return why a file cannot be read, because the readers report most problems as a file that does not exist."""
    if not os.path.exists(file):
        return (
            f"it is a link to {os.readlink(file)}, which does not exist"
            if os.path.islink(file)
            else "it does not exist"
        )
    if os.path.isdir(file):
        return "it is a folder"
    if not os.access(file, os.R_OK):
        return "there is no permission"
    return f"{error}".strip() or type(error).__name__


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


def _count_not_finite(file: str, data: np.ndarray) -> int:
    """Return the number of NaN or infinite voxels in a file; `data` is what the reader returned."""
    if file.lower().endswith(NIFTI):  # ITK turns them into zeros, and the missing end of a file, too
        data = np.asanyarray(_stored(file).dataobj)
    return int(data.size - np.isfinite(data).sum()) if data.dtype.kind == "f" else 0


def _stored(file: str) -> Any:
    stored = nibabel.load(file)
    assert isinstance(stored, nibabel.spatialimages.SpatialImage)
    return stored
