"""Prediction with missing modalities from Python."""

from typing import Any

from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn
from torch._dynamo import OptimizedModule
from torch.nn.parallel import DistributedDataParallel

from nnunet_moe.architectures.missing_modality_network import MissingModalityNetwork
from nnunet_moe.architectures.stock_network import StockNetwork, missing_modality_network
from nnunet_moe.errors import ModelError
from nnunet_moe.preprocessing import use_missing_modality_preprocessor
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
