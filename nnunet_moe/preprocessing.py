"""nnU-Net's preprocessing for cases whose files are not all there.

Each file goes into the channel that its name says; nnU-Net preprocesses with zeros in the absent channels; then NaN
is written into them.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from nnunet_moe.errors import ModalityError, ModelError
from nnunet_moe.images.reading import CaseImages, is_available, read_case, read_segmentation_of, zero_notes
from nnunet_moe.modalities.codes import channel_names, code_text
from nnunet_moe.settings.base import Settings
from nnunet_moe.settings.plans import read_settings


class MissingModalityPreprocessor(DefaultPreprocessor):
    """nnU-Net's `DefaultPreprocessor`, with absent channels as NaN in what goes in and what comes out."""

    one_image_type: ClassVar[bool] = False
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
        images = read_case(image_files, reader, dataset_json)
        _log(images.log_lines)
        image, notes = self.used_channels(images, min(image_files), configuration_manager, dataset_json)
        _log(notes)
        seg = None
        if seg_file is not None:
            seg = read_segmentation_of(seg_file, reader, min(image_files), image)[0][None]
        return self.run_case_npy(image, seg, images.properties, plans_manager, configuration_manager, dataset_json)

    def used_channels(
        self, images: CaseImages, first_file: str, configuration_manager: ConfigurationManager, dataset_json: dict
    ) -> tuple[np.ndarray, tuple[str, ...]]:
        """Reduce a case to the modalities that the model uses.

        Args:
            first_file: stands for the case in errors and notes.

        Returns:
            Image `(K, *space)` with NaN in missing and unused channels, and notes on unused modalities.

        Raises:
            ModalityError: the model does not take these modalities.
        """
        names, available = channel_names(dataset_json), np.array(images.available)
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
        available = np.array([is_available(channel, name) for channel, name in zip(data, names, strict=True)])
        _log(note for channel, name in zip(data, names, strict=True) for note in zero_notes(channel, name))
        if not available.any():
            raise ModalityError(
                f"No usable channel: at least one of {', '.join(names)} must be there and not all zero. "
                "Fill one in, or take the case out."
            )
        self._require_one_image_type(available, names)
        available, notes = _dedicated(available, configuration_manager, names)
        _log(notes)
        zeros_where_absent = np.where(available.reshape(-1, *[1] * (data.ndim - 1)), data, 0)
        data, seg_or_border, properties = super().run_case_npy(
            zeros_where_absent, seg, properties, plans_manager, configuration_manager, dataset_json
        )
        data[~available] = np.nan
        return data, seg_or_border, properties

    def _require_one_image_type(self, available: np.ndarray, names: Sequence[str], case: str = "") -> None:
        if self.one_image_type and available.sum() > 1:
            raise ModalityError(
                f"{case}the case has {code_text(available.tolist(), names)}, but the model takes cases of one image "
                "type. Give each image as a case of its own."
            )


class OneImageTypePreprocessor(MissingModalityPreprocessor):
    """The same for models that take cases of one image type: one channel each."""

    one_image_type = True


class MissingModalityConfigurationManager(ConfigurationManager):
    """A configuration whose preprocessor is ours: nnU-Net looks for preprocessors in itself alone."""

    @property
    def preprocessor_class(  # pyright: ignore[reportIncompatibleMethodOverride] - cached in nnU-Net
        self,
    ) -> type[MissingModalityPreprocessor]:
        return MissingModalityPreprocessor


class OneImageTypeConfigurationManager(ConfigurationManager):
    """The same for models that take cases of one image type."""

    @property
    def preprocessor_class(  # pyright: ignore[reportIncompatibleMethodOverride] - cached in nnU-Net
        self,
    ) -> type[OneImageTypePreprocessor]:
        return OneImageTypePreprocessor


def use_missing_modality_preprocessor(
    configuration_manager: ConfigurationManager, *, one_image_type: bool = False
) -> None:
    """Turn one configuration manager, in place, into one that names our preprocessor.

    `nnUNetv2_predict` hands this instance to its preprocessing workers, which unpickle it by its class's name.

    Args:
        one_image_type: whether cases with more than one channel are to be refused.

    Raises:
        ModelError: the plans ask for a preprocessor other than nnU-Net's default.
    """
    if configuration_manager.preprocessor_name != DefaultPreprocessor.__name__:
        raise ModelError(
            f"The plans ask for the preprocessor {configuration_manager.preprocessor_name!r}; missing modalities are "
            f"supported with {DefaultPreprocessor.__name__!r} alone. Change 'preprocessor_name' in the plans."
        )
    configuration_manager.__class__ = (
        OneImageTypeConfigurationManager if one_image_type else MissingModalityConfigurationManager
    )


def _loaded(dataset_json: dict | str) -> dict:
    """nnU-Net's preprocessor takes the dataset.json itself or its path."""
    return json.loads(Path(dataset_json).read_text()) if isinstance(dataset_json, str) else dataset_json


def _dedicated(
    available: np.ndarray, configuration_manager: ConfigurationManager, names: Sequence[str], case: str = ""
) -> tuple[np.ndarray, tuple[str, ...]]:
    """The modalities that a dedicated model uses, and a note on the others; for any other model all available ones."""
    code = read_settings(Settings, configuration_manager.configuration).modality_code
    if code is None:
        return available, ()
    needed = np.array(code, dtype=bool)
    if lacking := code_text((needed & ~available).tolist(), names):
        raise ModalityError(
            f"{case}the model is dedicated to {code_text(needed.tolist(), names)}, and {lacking} is absent. Predict "
            "such cases with a model that takes any subset, or with one dedicated to what there is."
        )
    unused = code_text((available & ~needed).tolist(), names)
    return needed, (f"{case}not used by this dedicated model: {unused}",) if unused else ()


def _log(lines: Iterable[str]) -> None:
    """Print what concerns a case: nnU-Net's workers log so, and nowhere else do users of its commands look."""
    for line in lines:
        print(line, flush=True)  # noqa: T201
