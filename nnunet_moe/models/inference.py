"""The inference pipeline: read, preprocess, add a cascade's previous stage, predict, convert, measure volumes.

All commands share it. `predict` and `evaluate` run the steps before and after the network in separate processes.
`package` runs all steps in `Segmenter`. LCKD's election starts from preprocessed cases.
"""

import copy
import io
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from nnunetv2.inference.export_prediction import (
    convert_predicted_logits_to_segmentation_with_correct_shape,
    export_prediction_from_logits,
)
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.label_handling.label_handling import LabelManager, convert_labelmap_to_one_hot
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import Tensor, nn

from nnunet_moe.images.case_images import CaseImages
from nnunet_moe.images.dimension import require_volume
from nnunet_moe.images.reading import read_case, read_files
from nnunet_moe.labels.label_sets import covered, labels_in
from nnunet_moe.labels.labels import labels_of
from nnunet_moe.labels.volumes import volumes_of
from nnunet_moe.modalities.codes import Code, channel_names
from nnunet_moe.models.checkpoints import loading
from nnunet_moe.models.choice import Fold
from nnunet_moe.models.folders import ModelFolder
from nnunet_moe.preprocessing import training_axes
from nnunet_moe.runtime.devices import require_device
from nnunet_moe.runtime.environment import trainers_known
from nnunet_moe.runtime.threads import cpu_threads
from nnunet_moe.settings.base import Settings
from nnunet_moe.settings.plans import read_settings
from nnunet_moe.sliding_window import SlidingWindowPredictor

PROBABILITIES = (".npz", ".pkl")
"""Endings of the files that nnU-Net writes in addition to a segmentation with `--save_probabilities`."""


@dataclass(frozen=True)
class InferenceContext:
    """The parts of a model that the steps before and after the network need: all except its weights."""

    plans: PlansManager
    configuration: ConfigurationManager
    dataset_json: dict[str, Any]

    @classmethod
    def of(cls, predictor: Any) -> "InferenceContext":
        """Return the context of the model that one of nnU-Net's predictors has loaded."""
        return cls(predictor.plans_manager, predictor.configuration_manager, predictor.dataset_json)

    @property
    def modalities(self) -> tuple[str, ...]:
        return channel_names(self.dataset_json)

    @property
    def label_manager(self) -> LabelManager:
        return self.plans.get_label_manager(self.dataset_json)

    def reader(self) -> Any:
        """Make one of nnU-Net's image readers, which also writes segmentations."""
        return self.plans.image_reader_writer_class()

    def preprocessor(self) -> Any:
        """Make the preprocessor that the configuration manager names."""
        return self.configuration.preprocessor_class(verbose=False)

    def read(self, image_files: Sequence[str]) -> CaseImages:
        """Read the images of a case.

        Raises:
            ModalityError: a file cannot be used.
        """
        return read_case(image_files, self.reader(), self.dataset_json, training_axes(self.plans))

    def read_files(self, files: Mapping[str, str], *, case: str, folder: Path | None) -> CaseImages:
        """Read the images of a case whose file names may be any.

        Args:
            files: modality -> file.
            case, folder: as in `nnunet_moe.images.reading.read_files`.

        Raises:
            ModalityError: a file cannot be used.
        """
        channels = {self.modalities.index(name): file for name, file in files.items()}
        axes = training_axes(self.plans)
        return read_files(channels, self.reader(), self.dataset_json, axes, case=case, folder=folder)

    def preprocess(
        self,
        image: np.ndarray,
        properties: dict[str, Any],
        previous_stage: np.ndarray | None = None,
        files: Mapping[int, str] = MappingProxyType({}),
    ) -> tuple[np.ndarray, dict[str, Any], tuple[str, ...]]:
        """Make the network's input from the images of a case.

        Args:
            image: `(K, *space)` as read, NaN in channels that are missing or ignored.
            properties: the properties that the reader returned; they are not changed.
            previous_stage: for a cascade, the labels of the previous stage, `(*space)`, float32.
            files: channel -> its file, for messages. Without it, they name the modality.

        Returns:
            The preprocessed image `(K, *space)`, in a cascade followed by one channel per label; the properties for
            `segmentation` and `export`; and messages on images that may be wrong.

        Raises:
            ModalityError: the model does not take these modalities, or the images are a slice for a 3D model.
        """
        require_volume(image.shape[1:], properties["spacing"], self.configuration.patch_size, "The case")
        seg = None if previous_stage is None else previous_stage[None]
        managers = self.plans, self.configuration, self.dataset_json
        preprocessor = self.preprocessor()
        preprocessor.files = files
        notes: list[str] = []
        preprocessor.log = notes.extend
        data, seg, properties = preprocessor.run_case_npy(image, seg, copy.deepcopy(properties), *managers)
        if previous_stage is not None:
            data = add_previous_stage(data, seg[0], self.label_manager)
        return data, properties, tuple(notes)

    def segmentation(self, logits: Tensor, properties: dict[str, Any]) -> np.ndarray:
        """Convert logits into labels on the grid of the images.

        Args:
            logits: `(C, *space)`, for the preprocessed image.
            properties: the properties that `preprocess` returned.

        Returns:
            Labels `(*space)`, in the reader's order of axes.
        """
        segmentation = convert_predicted_logits_to_segmentation_with_correct_shape(
            logits, self.plans, self.configuration, self.label_manager, properties
        )
        assert isinstance(segmentation, np.ndarray)
        return segmentation

    def export(
        self, logits: np.ndarray, properties: dict[str, Any], truncated_file: Path, *, save_probabilities: bool
    ) -> None:
        """Write the segmentation to files, as nnU-Net does.

        Args:
            logits: as in `segmentation`.
            properties: as in `segmentation`.
            truncated_file: path of the segmentation without its ending.
            save_probabilities: whether to write `PROBABILITIES`, too.
        """
        managers = self.configuration, self.plans, self.dataset_json
        export_prediction_from_logits(logits, properties, *managers, str(truncated_file), save_probabilities)

    def volumes(self, segmentation: np.ndarray, spacing: Sequence[float], code: Code) -> dict[str, float]:
        """Return the volume of each label or region that may appear in a case with these modalities.

        Args:
            segmentation: labels `(*space)`.
            spacing: in mm, as the reader returned it.
            code: the available modalities.

        Returns:
            Name -> mm3, or mm2 in 2D.
        """
        return volumes_of(segmentation, spacing, self.labels_under(code))

    def labels_under(self, code: Code) -> dict[str, int | tuple[int, ...]]:
        """Return the labels or regions that may appear with these modalities: all, or those of their label sets."""
        settings = read_settings(Settings, self.configuration.configuration)
        if settings.label_sets is None or settings.predict_all_labels:
            return labels_of(self.dataset_json)
        by_modality = torch.tensor(settings.label_sets, dtype=torch.bool)
        return labels_in(self.dataset_json, covered(torch.tensor([code]), by_modality)[0])


def add_previous_stage(data: np.ndarray, segmentation: np.ndarray, label_manager: LabelManager) -> np.ndarray:
    """Append the segmentation of a cascade's previous stage to the input of the second stage, as nnU-Net does.

    Args:
        data: `(K, *space)`, preprocessed.
        segmentation: labels `(*space)` on the same grid.

    Returns:
        `(K + labels, *space)`; the last channels are 1 inside a label and 0 outside.
    """
    one_hot = convert_labelmap_to_one_hot(segmentation, label_manager.foreground_labels, data.dtype)
    return np.vstack((data, one_hot))


def load_predictor(
    model: ModelFolder,
    folds: Sequence[Fold],
    predictor_class: type[SlidingWindowPredictor] = SlidingWindowPredictor,
    **options: Any,
) -> Any:
    """Return a predictor that has loaded one fold of a trained model, or several as an ensemble.

    Args:
        predictor_class: nnU-Net's predictor with the recovery of this package, or a class derived from it.
        options: arguments of its constructor, `device` among them.

    Raises:
        ModelError: the predictor could not load the model.
        SettingsError: the device does not work on this machine.
    """
    require_device(options["device"])
    with trainers_known(), redirect_stdout(io.StringIO()):  # nnU-Net prints what a CPU cannot do
        predictor: Any = predictor_class(**options, allow_tqdm=False)
        with loading(model.folder, folds):
            predictor.initialize_from_trained_model_folder(str(model.folder), tuple(folds), model.checkpoint)
    return predictor


def predictor_in_training(
    network: nn.Module,
    context: InferenceContext,
    *,
    trainer: str,
    mirroring_axes: tuple[int, ...] | None,
    **options: Any,
) -> nnUNetPredictor:
    """Return a predictor for a network in memory, without compiling the network as nnU-Net would.

    Args:
        trainer: name of the trainer's class.
        mirroring_axes: axes along which predictions may be mirrored.
        options: arguments of the predictor's constructor.
    """
    predictor = SlidingWindowPredictor(**options, allow_tqdm=False)
    managers = context.plans, context.configuration
    predictor.manual_initialization(network, *managers, None, context.dataset_json, trainer, mirroring_axes)
    predictor.network = network
    return predictor


def predict_logits(predictor: Any, data: np.ndarray) -> Tensor:
    """Return the logits `(C, *space)` of a preprocessed case, averaged over the loaded folds, on the CPU.

    Args:
        predictor: one of nnU-Net's predictors.
        data: the image that `InferenceContext.preprocess` returned.
    """
    with cpu_threads(predictor.device):
        return predictor.predict_logits_from_preprocessed_data(torch.from_numpy(data)).cpu().detach()


def is_overflow(error: RuntimeError) -> bool:
    """Return whether nnU-Net's predictor failed because the logits were too large for half precision."""
    return "Encountered inf in predicted array" in str(error)
