"""nnU-Net's preprocessing for cases with missing files.

Each file is read into the channel in its name. nnU-Net preprocesses the case with zeros in the missing channels. Then
the missing channels are set to NaN.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar

import numpy as np
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from nnunet_moe.errors import ModalityError, ModelError
from nnunet_moe.images.case_images import CaseImages
from nnunet_moe.images.contrast import Contrast
from nnunet_moe.images.dimension import require_volume
from nnunet_moe.images.notes import ModalityNote, OncePerModality
from nnunet_moe.images.placeholders import constant_note, single_value
from nnunet_moe.images.reading import read_case, read_segmentation_of
from nnunet_moe.images.resampled_size import require_resampled_size
from nnunet_moe.images.values import is_available
from nnunet_moe.modalities.codes import channel_names, code_text
from nnunet_moe.runtime.files import is_hidden
from nnunet_moe.runtime.json_files import read_json
from nnunet_moe.settings.base import Settings
from nnunet_moe.settings.plans import read_settings

AXIS_CODES = "axis_codes"
"""The key in the plans of the number of training cases for each direction of the axes."""


def print_notes(notes: Iterable[str]) -> None:
    """Print messages on a case, because nnU-Net's workers print, and users of its commands only see this output."""
    for note in notes:
        print(note, flush=True)  # noqa: T201


class MissingModalityPreprocessor(DefaultPreprocessor):
    """nnU-Net's `DefaultPreprocessor` for cases with missing modalities.

    Missing channels are NaN in the arrays that it takes and returns.
    """

    one_image_type: ClassVar[bool] = False
    """Whether cases with more than one available channel are refused."""
    for_training: bool = False
    """Whether training cases are preprocessed; `run_case_save` sets it, which nnU-Net only calls for them."""
    files: Mapping[int, str] = MappingProxyType({})
    """Channel -> its file in the current case, for messages. Without it, they name the modality."""
    log: Callable[[Iterable[str]], object] = staticmethod(print_notes)
    """What is done with messages on a case."""
    _sources: Sequence[str] = ()  # how messages on the current case call its channels: by file, or by modality

    def __init__(self, verbose: bool = True) -> None:
        super().__init__(verbose)
        self._once = OncePerModality()

    def run_case_save(
        self,
        output_filename_truncated: str,
        image_files: list[str],
        seg_file: str,
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        dataset_json: dict | str,
    ) -> None:
        """Preprocess one training case and save it, unless nnU-Net made the case of a hidden file.

        Args:
            output_filename_truncated: the path to save to, without an ending; it ends in the name of the case.
            image_files: as in `run_case`.
            seg_file: the file of the segmentation.
            plans_manager: nnU-Net's, of the plans.
            configuration_manager: nnU-Net's, of the configuration.
            dataset_json: the content of dataset.json, or its path.
        """
        self.for_training = True
        if not is_hidden(Path(output_filename_truncated).name):
            super().run_case_save(
                output_filename_truncated, image_files, seg_file, plans_manager, configuration_manager, dataset_json
            )

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
            image_files: the existing files in any order, named `CASE_XXXX` with the dataset's file ending, where XXXX
                is the channel. A file with a single value counts as missing.
            seg_file: the file of the segmentation, or None.
            plans_manager: nnU-Net's, of the plans.
            configuration_manager: nnU-Net's, of the configuration.
            dataset_json: the content of dataset.json, or its path.

        Returns:
            Image `(K, *space)` with NaN in missing channels, segmentation `(1, *space)`, and nnU-Net's properties.

        Raises:
            ModalityError: a file name has no channel of this dataset, or two files have the same channel. Or files
                differ in geometry, a voxel is not finite, single voxels make a channel flat, no channel is available,
                the model needs other modalities, or the images are a slice for a 3D model.
        """
        dataset_json = _loaded(dataset_json)
        reader = plans_manager.image_reader_writer_class()
        images = read_case(image_files, reader, dataset_json, training_axes(plans_manager))
        told = images.log_lines
        if self.for_training:  # planning has told them, and each case has another copy of this preprocessor
            told = [line for line in told if not isinstance(line, ModalityNote)]
        self.log(self._once.new(told))
        image, notes = self.used_channels(images, min(image_files), configuration_manager, dataset_json)
        self.log(notes)
        seg = None
        if seg_file is not None:
            labels, notes = read_segmentation_of(seg_file, reader, min(image_files), images, largest_shift=np.inf)
            self.log(notes)
            seg = labels[None]
        self.files = images.files
        try:
            return self.run_case_npy(image, seg, images.properties, plans_manager, configuration_manager, dataset_json)
        finally:
            self.files = {}

    def used_channels(
        self, images: CaseImages, first_file: str, configuration_manager: ConfigurationManager, dataset_json: dict
    ) -> tuple[np.ndarray, tuple[str, ...]]:
        """Reduce a case to the modalities that the model uses.

        Args:
            images: the images of the case.
            first_file: the file that stands for the case in errors and notes.
            configuration_manager: nnU-Net's; its settings contain the code of a dedicated model.
            dataset_json: the content of dataset.json.

        Returns:
            Image `(K, *space)` with NaN in missing and unused channels, and notes on unused modalities.

        Raises:
            ModalityError: the model needs other modalities, or the images are a slice for a 3D model.
        """
        names, available = channel_names(dataset_json), np.array(images.available)
        self._require_volume(images.image, images.properties, configuration_manager, first_file)
        self._require_one_image_type(available, names, f"{first_file}: ")
        used, notes = _dedicated(available, configuration_manager, names, f"{first_file}: ")
        return np.where(used.reshape(-1, *[1] * (images.image.ndim - 1)), images.image, np.float32(np.nan)), notes

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
            data: `(K, *space)`, NaN in every voxel of a missing channel. A channel with a single value counts as
                missing.
            seg: `(1, *space)`, or None.
            properties: nnU-Net's properties of the case, such as the spacing in mm.
            plans_manager: nnU-Net's, of the plans.
            configuration_manager: nnU-Net's, of the configuration.
            dataset_json: the content of dataset.json, or its path.

        Returns:
            As `run_case`.

        Raises:
            ModalityError: there are not K channels, a channel has some voxels that are NaN or infinite, single voxels
                make a channel flat, no channel is available, the model needs other modalities, or the array is a slice
                for a 3D model. Or its spacing would make it too small or too large.
        """
        dataset_json = _loaded(dataset_json)
        names = channel_names(dataset_json)
        if len(data) != len(names):
            raise ModalityError(
                f"The array has {len(data)} channels, but the dataset has {len(names)} ({', '.join(names)}). Pass all "
                "channels, with NaN in every voxel of missing ones."
            )
        self._require_volume(data, properties, configuration_manager, "The array")
        available = np.array([is_available(channel, name) for channel, name in zip(data, names, strict=True)])
        self.log(
            constant_note(value, name)
            for channel, name in zip(data, names, strict=True)
            if (value := single_value(channel)) is not None
        )
        if not available.any():
            raise ModalityError(
                "The array has no usable channel, because all are missing or have a single value. At least one of "
                f"{', '.join(names)} is needed. Add one, or remove the case."
            )
        self._require_one_image_type(available, names)
        available, notes = _dedicated(available, configuration_manager, names)
        self.log(notes)
        zeros_where_absent = np.where(available.reshape(-1, *[1] * (data.ndim - 1)), data, 0)
        require_resampled_size(
            zeros_where_absent,
            properties["spacing"],
            configuration_manager.spacing,
            plans_manager.transpose_forward,
        )
        self._sources = [
            f"{self.files[channel]} ({name})" if channel in self.files else f"The {name}"
            for channel, name in enumerate(names)
        ]
        data, seg_or_border, properties = super().run_case_npy(
            zeros_where_absent, seg, properties, plans_manager, configuration_manager, dataset_json
        )
        _require_finite(data[available], np.array(self._sources)[available].tolist())
        data[~available] = np.nan
        return data, seg_or_border, properties

    def _normalize(
        self,
        data: np.ndarray,
        seg: np.ndarray,
        configuration_manager: ConfigurationManager,
        foreground_intensity_properties_per_channel: dict,
    ) -> np.ndarray:
        """Normalize the channels `(K, *space)`, which nnU-Net has cropped, and make sure that they keep a contrast."""
        before = [Contrast.of(channel) for channel in data]
        data = super()._normalize(data, seg, configuration_manager, foreground_intensity_properties_per_channel)
        checked = zip(before, data, self._sources, strict=True)
        self.log(
            note
            for contrast, channel, source in checked
            if contrast is not None and (note := contrast.note(channel, source)) is not None
        )
        return data

    def _require_volume(
        self, image: np.ndarray, properties: dict, configuration_manager: ConfigurationManager, name: str
    ) -> None:
        grid = image.shape[1:], properties["spacing"]
        require_volume(*grid, configuration_manager.patch_size, name, for_training=self.for_training)

    def _require_one_image_type(self, available: np.ndarray, names: Sequence[str], case: str = "") -> None:
        if self.one_image_type and available.sum() > 1:
            raise ModalityError(
                f"{case}the case has {code_text(available.tolist(), names)}, but the model takes only cases of one "
                "image type. Make each image a separate case."
            )


class OneImageTypePreprocessor(MissingModalityPreprocessor):
    """The preprocessor for models that take only cases of one image type, with one channel each."""

    one_image_type = True


class MissingModalityConfigurationManager(ConfigurationManager):
    """A configuration manager that returns our preprocessor, because nnU-Net finds only its own by name."""

    @property
    def preprocessor_class(  # pyright: ignore[reportIncompatibleMethodOverride] - cached in nnU-Net
        self,
    ) -> type[MissingModalityPreprocessor]:
        """The preprocessor's class."""
        return MissingModalityPreprocessor


class OneImageTypeConfigurationManager(ConfigurationManager):
    """The configuration manager for models that take only cases of one image type."""

    @property
    def preprocessor_class(  # pyright: ignore[reportIncompatibleMethodOverride] - cached in nnU-Net
        self,
    ) -> type[OneImageTypePreprocessor]:
        """The preprocessor's class."""
        return OneImageTypePreprocessor


def use_missing_modality_preprocessor(
    configuration_manager: ConfigurationManager, *, one_image_type: bool = False
) -> None:
    """Make a configuration manager return our preprocessor, by changing its class in place.

    `nnUNetv2_predict` passes this instance to its preprocessing workers, which unpickle it by the name of its class.

    Args:
        configuration_manager: nnU-Net's; it is changed.
        one_image_type: whether to refuse cases with more than one available channel.

    Raises:
        ModelError: the plans name a preprocessor other than nnU-Net's default.
    """
    if configuration_manager.preprocessor_name != DefaultPreprocessor.__name__:
        raise ModelError(
            f"The plans name the preprocessor {configuration_manager.preprocessor_name!r}. Missing modalities are only "
            f"supported with {DefaultPreprocessor.__name__!r}. Change 'preprocessor_name' in the plans."
        )
    configuration_manager.__class__ = (
        OneImageTypeConfigurationManager if one_image_type else MissingModalityConfigurationManager
    )


def training_axes(plans_manager: PlansManager) -> tuple[str, ...]:
    """Return the directions of the axes of the training images, such as `LPS`, the most frequent first.

    It is empty if nnU-Net or an earlier version of this package planned the dataset.
    """
    return tuple(plans_manager.plans.get(AXIS_CODES, {}))


def _require_finite(data: np.ndarray, sources: Sequence[str]) -> None:
    """Make sure that preprocessed channels are not NaN, which would mean that they are missing.

    Args:
        data: `(channels, *space)`, the available channels.
        sources: their files or modalities.

    Raises:
        ModalityError: a voxel is NaN or infinite.
    """
    for channel, source in zip(data, sources, strict=True):
        if not np.isfinite(channel).all():
            raise ModalityError(
                f"{source} has voxels that are NaN or infinite after the preprocessing. They are too large, or the "
                "plans have no usable intensities for this modality. Repair the image, or plan with training cases "
                "that have this modality."
            )


def _loaded(dataset_json: dict | str) -> dict:
    """Return the content of dataset.json, which nnU-Net's preprocessor gets as content or as path."""
    return read_json(Path(dataset_json)) if isinstance(dataset_json, str) else dataset_json


def _dedicated(
    available: np.ndarray, configuration_manager: ConfigurationManager, names: Sequence[str], case: str = ""
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the modalities that the model uses, and a note on available modalities that a dedicated model ignores."""
    code = read_settings(Settings, configuration_manager.configuration).modality_code
    if code is None:
        return available, ()
    needed = np.array(code, dtype=bool)
    if lacking := code_text((needed & ~available).tolist(), names):
        raise ModalityError(
            f"{case}the model is dedicated to {code_text(needed.tolist(), names)}, but {lacking} is missing. Predict "
            "this case with a model for all subsets, or with one dedicated to the available modalities."
        )
    unused = code_text((available & ~needed).tolist(), names)
    return needed, (f"{case}not used by this dedicated model: {unused}",) if unused else ()
