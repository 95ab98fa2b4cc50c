"""Prediction from Python with modalities missing."""

from typing import Any

from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn
from torch._dynamo import OptimizedModule
from torch.nn.parallel import DistributedDataParallel

from nnunet_moe.architectures.missing_modality_network import MissingModalityNetwork
from nnunet_moe.architectures.stock_network import StockNetwork, missing_modality_network
from nnunet_moe.errors import ModelError
from nnunet_moe.preprocessing import use_missing_modality_preprocessor
from nnunet_moe.runtime.environment import trainers_known


class MissingModalityPredictor(nnUNetPredictor):
    """nnU-Net's predictor for models of this package; needs no `nnUNet_extTrainer`.

    All methods are nnU-Net's. Those that take files accept cases with files missing; those that take arrays accept
    `(K, *space)` with NaN in every voxel of an absent channel.
    """

    def initialize_from_trained_model_folder(
        self,
        model_training_output_dir: str,
        use_folds: Any,
        checkpoint_name: str = "checkpoint_final.pth",
    ) -> None:
        """As nnU-Net's; `use_folds` is a tuple of ints or `all`, or None for all folds that there are.

        Raises:
            ModelError: the model cannot take missing modalities; it was trained by another trainer, or is a
                pre-training.
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
        """As nnU-Net's.

        Raises:
            ModelError: the network cannot take missing modalities.
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
                "Train with one of this package's trainers, or predict complete cases with nnUNetPredictor."
            )
        network.require_segmentation()
        return network


def unwrap(network: nn.Module) -> nn.Module:
    """The network itself, out of DistributedDataParallel and torch.compile."""
    if isinstance(network, DistributedDataParallel):
        network = network.module
    return network._orig_mod if isinstance(network, OptimizedModule) else network
