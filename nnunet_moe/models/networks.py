"""Find trainers as nnU-Net does, and build their networks."""

import io
from contextlib import redirect_stdout
from typing import Any

from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from nnunet_moe.errors import ModelError
from nnunet_moe.runtime.environment import trainers_known


def planned_network(
    trainer: str,
    plans: PlansManager,
    configuration: ConfigurationManager,
    dataset_json: dict[str, Any],
    *,
    deep_supervision: bool,
) -> nn.Module:
    """Build the network that a trainer starts with, with new random weights.

    Raises:
        ModelError: the trainer does not exist.
        SettingsError: a setting in the plans is wrong.
    """
    return find_trainer(trainer).build_network_architecture(
        plans,
        configuration,
        determine_num_input_channels(plans, configuration, dataset_json),
        plans.get_label_manager(dataset_json).num_segmentation_heads,
        deep_supervision,
    )


def find_trainer(name: str) -> Any:
    """Return the class of a trainer of nnU-Net or of this package.

    Raises:
        ModelError: the trainer does not exist.
    """
    try:
        with trainers_known(), redirect_stdout(io.StringIO()):  # nnU-Net prints every module that it searches
            return recursive_find_trainer_class_by_name(name)
    except RuntimeError as error:
        raise ModelError(f"There is no trainer {name!r}. Choose a trainer of this package with -tr.") from error
