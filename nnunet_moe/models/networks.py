"""The networks of trainers, and the trainers themselves, as nnU-Net finds them."""

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
    """The network that a trainer starts with, its weights drawn anew.

    Raises:
        ModelError: there is no such trainer.
        SettingsError: a mistake in the plans' settings.
    """
    return find_trainer(trainer).build_network_architecture(
        plans,
        configuration,
        determine_num_input_channels(plans, configuration, dataset_json),
        plans.get_label_manager(dataset_json).num_segmentation_heads,
        deep_supervision,
    )


def find_trainer(name: str) -> Any:
    """A trainer's class, as nnU-Net finds it, this package's trainers among them.

    Raises:
        ModelError: there is no such trainer.
    """
    try:
        with trainers_known(), redirect_stdout(io.StringIO()):  # it tells of every module that it looks into
            return recursive_find_trainer_class_by_name(name)
    except RuntimeError as error:
        raise ModelError(f"There is no trainer {name!r}; name one of this package's by -tr.") from error
