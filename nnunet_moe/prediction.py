"""Prediction with missing modalities from Python."""

import copy
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn
from torch._dynamo import OptimizedModule
from torch.nn.parallel import DistributedDataParallel

from nnunet_moe.architectures.missing_modality_network import MissingModalityNetwork
from nnunet_moe.architectures.stock_network import StockNetwork, missing_modality_network
from nnunet_moe.errors import ModelError
from nnunet_moe.labels.labels import labels_of
from nnunet_moe.modalities.codes import available_modalities, code_digits, drop_modalities
from nnunet_moe.preprocessing import use_missing_modality_preprocessor
from nnunet_moe.quality.calibration import Expectation
from nnunet_moe.quality.label_calibration import LabelCalibration
from nnunet_moe.quality.measuring import fast_signals, leave_one_out
from nnunet_moe.quality.signals import with_agreement
from nnunet_moe.runtime.environment import trainers_known
from nnunet_moe.sliding_window import SlidingWindowPredictor


class MissingModalityPredictor(SlidingWindowPredictor):
    """nnU-Net's predictor for models of this package; the variable `nnUNet_extTrainer` is not needed.

    Constructor and methods are nnU-Net's, with these extensions:

    - Methods that take files accept cases with missing files.
    - Methods that take arrays accept `(K, *space)` with NaN in every voxel of a missing channel.
    - A case for which a GPU's memory does not suffice leaves nothing in it.

    Cases that cannot be used raise a `ModalityError`; see `MissingModalityPreprocessor`.
    """

    def initialize_from_trained_model_folder(
        self,
        model_training_output_dir: str,
        use_folds: Any,
        checkpoint_name: str = "checkpoint_final.pth",
    ) -> None:
        """Load a trained model.

        Args:
            model_training_output_dir: the model's folder, `DatasetXXX_NAME/TRAINER__PLANS__CONFIGURATION`, with
                plans.json, dataset.json and the folders of the folds.
            use_folds: a tuple of fold numbers or of `all`; None for all folds in the folder.
            checkpoint_name: the checkpoint's file name in the folder of each fold.

        Raises:
            ModelError: the model does not accept missing modalities, because another trainer made it or because it is
                only a pre-training.
        """
        with trainers_known():
            super().initialize_from_trained_model_folder(model_training_output_dir, use_folds, checkpoint_name)
        self._modality_network()

    def manual_initialization(
        self,
        network: nn.Module,
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        parameters: list[dict] | None,
        dataset_json: dict,
        trainer_name: str,
        inference_allowed_mirroring_axes: tuple[int, ...] | None,
    ) -> None:
        """Use a network that is already in memory; the arguments are nnU-Net's.

        Raises:
            ModelError: the network does not accept missing modalities, or it is only a pre-training.
        """
        super().manual_initialization(
            network,
            plans_manager,
            configuration_manager,
            parameters,
            dataset_json,
            trainer_name,
            inference_allowed_mirroring_axes,
        )
        one_image_type = self._modality_network().takes_one_image_type
        use_missing_modality_preprocessor(configuration_manager, one_image_type=one_image_type)

    def predict_with_quality(
        self,
        image: np.ndarray,
        properties: dict[str, Any],
        calibrations: Mapping[str, LabelCalibration],
        *,
        full: bool = False,
    ) -> tuple[np.ndarray, dict[str, Expectation]]:
        """Predict a case, and say which Dice is expected of its segmentation. Not for the second stage of a cascade.

        Args:
            image: `(K, *space)` as nnU-Net's reader gives it, NaN in missing channels.
            properties: the properties that the reader returned; at least `spacing`.
            calibrations: label -> calibration, from `read_calibrations`.
            full: also predict the case without one modality after another, which takes as many further passes. The
                calibrations must be from an evaluation with `--quality full`.

        Returns:
            Labels `(*space)`; and label -> what is expected of it, for the labels with a calibration.
        """
        model = cast(Any, self)  # nnU-Net declares that parts of a loaded model may be None
        managers = model.plans_manager, model.configuration_manager
        preprocessor = model.configuration_manager.preprocessor_class(verbose=False)
        data, _, properties = preprocessor.run_case_npy(
            image, None, copy.deepcopy(properties), *managers, model.dataset_json
        )
        data = torch.from_numpy(data)
        code = tuple(available_modalities(data[None])[0].tolist())
        logits, segmentations = [], []
        for each in (code, *(leave_one_out(code) if full else ())):
            dropped = drop_modalities(data[None], torch.tensor([each]))[0]
            logits.append(model.predict_logits_from_preprocessed_data(dropped).cpu())
            segmentations.append(
                convert_predicted_logits_to_segmentation_with_correct_shape(
                    logits[-1], *managers, model.label_manager, properties
                )
            )
        segmentation, *others = segmentations
        spacing = properties["spacing"]
        signals = fast_signals(logits[0], segmentation, spacing, model.label_manager, model.dataset_json)
        signals = with_agreement(signals, segmentation, others, labels_of(model.dataset_json))
        return segmentation, {
            label: calibration.expect(code_digits(code), signals[label]) for label, calibration in calibrations.items()
        }

    def _modality_network(self) -> MissingModalityNetwork | StockNetwork:
        assert isinstance(self.network, nn.Module)
        network = missing_modality_network(unwrap(self.network))
        if not network.knows_missing_modalities:
            raise ModelError(
                f"The model of {self.trainer_name} ({type(unwrap(self.network)).__name__}) needs all its modalities. "
                "Only models of this package's trainers accept missing ones. Train with one of these, or predict "
                "complete cases with nnUNetPredictor."
            )
        network.require_segmentation()
        return network


def unwrap(network: nn.Module) -> nn.Module:
    """Return the network without the wrappers of DistributedDataParallel and torch.compile."""
    if isinstance(network, DistributedDataParallel):
        network = network.module
    return network._orig_mod if isinstance(network, OptimizedModule) else network
