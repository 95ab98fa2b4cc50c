"""nnU-Net's preprocessing for cases whose files are not all there.

Each file goes into the channel that its name says; nnU-Net preprocesses with zeros in the absent channels; then NaN
is written into them.
"""

import json
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import nibabel
import nibabel.spatialimages
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from nnunet_moe.cases import files_by_channel
from nnunet_moe.codes import channel_names, code_text
from nnunet_moe.errors import ModalityError, ModelError
from nnunet_moe.settings import Settings

ORIGIN_TOLERANCE = 1e-2  # mm; headers of images on one grid differ by rounding
TOLERANCE = 1e-4  # of spacings in mm and direction cosines: 0.03 mm over a head
UNREADABLE = (RuntimeError, OSError, EOFError, ValueError, AssertionError, zlib.error, ImageFileError)  # damaged files


class MissingModalityPreprocessor(DefaultPreprocessor):
    """nnU-Net's `DefaultPreprocessor`, with absent channels as NaN in what goes in and what comes out."""

    one_kind: ClassVar[bool] = False
    """Whether a case with more than one channel is an error."""

    def run_case(
        self,
        image_files: list[str],
        seg_file: str | None,
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        dataset_json: dict | str,
    ) -> tuple[np.ndarray, np.ndarray, dict]:
        """Preprocess one case from its files.

        Args:
            image_files: the files that exist, in any order, named `CASE_XXXX` and the dataset's file ending, where
                XXXX is the channel. A file that is zero everywhere counts as absent.

        Returns:
            Image `(K, *space)` with NaN in absent channels, segmentation `(1, *space)`, properties.

        Raises:
            ModalityError: a file name without a channel of this dataset, a channel given twice, files of different
                geometry, a voxel that is not finite, or no channel left.
        """
        dataset_json = _loaded(dataset_json)
        reader = plans_manager.image_reader_writer_class()
        image, properties = read_case(image_files, reader, dataset_json)
        names = channel_names(dataset_json)
        available = np.array([not np.isnan(channel).any() for channel in image])
        self._require_one_kind(available, names, f"{min(image_files)}: ")
        image[~_dedicated(available, configuration_manager, names, f"{min(image_files)}: ")] = np.nan
        seg = None
        if seg_file is not None:
            seg = read_segmentation(seg_file, reader)[0][None]
            if seg.shape[1:] != image.shape[1:]:
                raise ModalityError(
                    f"{seg_file} has the shape {seg.shape[1:]}, {min(image_files)} {image.shape[1:]}. Both must lie on "
                    "one grid."
                )
        return self.run_case_npy(image, seg, properties, plans_manager, configuration_manager, dataset_json)

    def run_case_npy(
        self,
        data: np.ndarray,
        seg: np.ndarray | None,
        properties: dict,
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        dataset_json: dict | str,
    ) -> tuple[np.ndarray, np.ndarray, dict]:
        """Preprocess one case from an array.

        Args:
            data: `(K, *space)`, NaN in every voxel of an absent channel. A channel of zeros counts as absent.

        Raises:
            ModalityError: not K channels, a channel that is NaN or infinite in places, no channel left, or one absent
                that a dedicated model needs.
        """
        dataset_json = _loaded(dataset_json)
        names = channel_names(dataset_json)
        if len(data) != len(names):
            raise ModalityError(
                f"The array has {len(data)} channels, the dataset {len(names)} ({', '.join(names)}). Give all "
                "channels, with NaN in every voxel of one that is absent."
            )
        available = np.array([_is_available(channel, name) for channel, name in zip(data, names, strict=True)])
        if not available.any():
            raise ModalityError(
                f"No usable channel: at least one of {', '.join(names)} must be there and not all zero. "
                "Fill one in, or take the case out."
            )
        self._require_one_kind(available, names)
        available = _dedicated(available, configuration_manager, names)
        zeros_where_absent = np.where(available.reshape(-1, *[1] * (data.ndim - 1)), data, 0)
        data, seg_or_border, properties = super().run_case_npy(
            zeros_where_absent, seg, properties, plans_manager, configuration_manager, dataset_json
        )
        data[~available] = np.nan
        return data, seg_or_border, properties

    def _require_one_kind(self, available: np.ndarray, names: Sequence[str], case: str = "") -> None:
        if self.one_kind and available.sum() > 1:
            raise ModalityError(
                f"{case}the case has {code_text(available.tolist(), names)}, but the model takes cases of one kind. "
                "Give each image as a case of its own."
            )


class OneKindPreprocessor(MissingModalityPreprocessor):
    """The same for models that take cases of one kind: one channel each."""

    one_kind = True


class MissingModalityConfigurationManager(ConfigurationManager):
    """A configuration whose preprocessor is ours: nnU-Net looks for preprocessors in itself alone."""

    @property
    def preprocessor_class(  # pyright: ignore[reportIncompatibleMethodOverride] - cached in nnU-Net
        self,
    ) -> type[MissingModalityPreprocessor]:
        return MissingModalityPreprocessor


class OneKindConfigurationManager(ConfigurationManager):
    """The same for models that take cases of one kind."""

    @property
    def preprocessor_class(  # pyright: ignore[reportIncompatibleMethodOverride] - cached in nnU-Net
        self,
    ) -> type[OneKindPreprocessor]:
        return OneKindPreprocessor


def use_missing_modality_preprocessor(configuration_manager: ConfigurationManager, *, one_kind: bool = False) -> None:
    """Turn one configuration manager, in place, into one that names our preprocessor.

    `nnUNetv2_predict` hands this instance to its preprocessing workers, which unpickle it by its class's name.

    Args:
        one_kind: whether cases with more than one channel are to be refused.

    Raises:
        ModelError: the plans ask for a preprocessor other than nnU-Net's default.
    """
    if configuration_manager.preprocessor_name != DefaultPreprocessor.__name__:
        raise ModelError(
            f"The plans ask for the preprocessor {configuration_manager.preprocessor_name!r}; missing modalities are "
            f"supported with {DefaultPreprocessor.__name__!r} alone. Change 'preprocessor_name' in the plans."
        )
    configuration_manager.__class__ = OneKindConfigurationManager if one_kind else MissingModalityConfigurationManager


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


def _loaded(dataset_json: dict | str) -> dict:
    """nnU-Net's preprocessor takes the dataset.json itself or its path."""
    return json.loads(Path(dataset_json).read_text()) if isinstance(dataset_json, str) else dataset_json


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
        if _is_available(data[0], file):
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


def _is_available(channel: np.ndarray, name: str) -> bool:
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


def _dedicated(
    available: np.ndarray, configuration_manager: ConfigurationManager, names: Sequence[str], case: str = ""
) -> np.ndarray:
    """What a dedicated model uses of a case; all that is there for any other model."""
    code = Settings.from_plans(configuration_manager.configuration).modality_code
    if code is None:
        return available
    needed = np.array(code, dtype=bool)
    if lacking := code_text((needed & ~available).tolist(), names):
        raise ModalityError(
            f"{case}the model is dedicated to {code_text(needed.tolist(), names)}, and {lacking} is absent. Predict "
            "such cases with a model that takes any subset, or with one dedicated to what there is."
        )
    if unused := code_text((available & ~needed).tolist(), names):
        print(f"{case}not used by this dedicated model: {unused}", flush=True)  # noqa: T201 - nnU-Net's workers log so
    return needed


def require_same_geometry(
    first_file: str, file: str, first: tuple[tuple[int, ...], dict], other: tuple[tuple[int, ...], dict]
) -> None:
    """Compare the shapes and the properties that nnU-Net's reader gave of two files of a case.

    Raises:
        ModalityError: they do not lie on one grid.
    """
    sides = [{"shape": shape, **_flat(properties)} for shape, properties in (first, other)]
    for name, value in sides[0].items():
        if not _is_same(name, value, sides[1].get(name)):
            raise ModalityError(
                f"{file} and {first_file} differ in {name}: {sides[1].get(name)} and {value}. The files of a case "
                "must lie on one grid; register and resample them first."
            )


def _flat(properties: dict) -> dict[str, Any]:
    """What a reader tells of a file's geometry, `sitk_stuff.origin` and so on, without nesting."""
    flat: dict[str, Any] = {}
    for key, value in properties.items():
        if isinstance(value, dict):
            flat |= {f"{key}.{inner}": entry for inner, entry in _flat(value).items()}
        else:
            flat[key] = value
    return flat


def _is_same(name: str, value: Any, other: Any) -> bool:
    if np.shape(value) != np.shape(other):
        return False
    tolerance = np.full(np.shape(value), ORIGIN_TOLERANCE if name.endswith("origin") else TOLERANCE)
    if name.endswith("affine"):
        tolerance[..., -1] = ORIGIN_TOLERANCE  # its last column is the origin
    return bool((np.abs(np.subtract(value, other)) <= tolerance).all())
