"""What is checked before a training: that plans, settings and dataset.json fit each other and the trainer."""

from collections.abc import Sequence
from typing import Any

from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_moe.errors import ModalityError, SettingsError
from nnunet_moe.labels.label_sets import LabelSets
from nnunet_moe.modalities.codes import channel_names
from nnunet_moe.settings.base import Settings
from nnunet_moe.settings.plans import PLANS_KEY


def require_fitting_plans(plans: dict[str, Any], configuration: str, dataset_json: dict[str, Any]) -> tuple[str, ...]:
    """Make sure that plans were made for the channels of dataset.json, and hold settings in configurations only.

    Returns:
        The names of the modalities, in channel order.

    Raises:
        SettingsError: settings stand outside of a configuration.
        ModalityError: the numbers of channels differ.
    """
    if PLANS_KEY in plans:
        raise SettingsError(f"{PLANS_KEY!r} stands at the top of the plans; move it into a configuration.")
    names = channel_names(dataset_json)
    num_planned = len(PlansManager(plans).get_configuration(configuration).normalization_schemes)
    if len(names) != num_planned:
        raise ModalityError(
            f"dataset.json has {len(names)} channels ({', '.join(names)}), the plans were made for {num_planned}. "
            "Plan and preprocess again."
        )
    return names


def require_own_label_sets(settings: Settings, label_sets: LabelSets | None) -> None:
    """Make sure that label sets in the plans, where trainers copy them, are those of dataset.json.

    Raises:
        SettingsError: they are others.
    """
    if settings.label_sets is not None and (label_sets is None or settings.label_sets != label_sets.setting):
        raise SettingsError(
            f"The plans have 'label_sets' under {PLANS_KEY!r}, other than dataset.json's. Write them into "
            "dataset.json alone; trainers copy them into their models' plans."
        )


def require_fitting_code(code: Sequence[int] | None, num_modalities: int, trainer: str, *, is_dedicated: bool) -> None:
    """Make sure that a configuration has a `modality_code` if the trainer is for dedicated models, and none if not.

    Args:
        code: the setting.
        num_modalities: K.
        trainer: the class's name.

    Raises:
        SettingsError: it has not, or the code is of another number of channels.
    """
    if is_dedicated and code is None:
        raise SettingsError(
            f"{trainer} needs the setting 'modality_code' under {PLANS_KEY!r} in the plans' configuration, one 0 or 1 "
            "a channel. Add it to a configuration of its own."
        )
    if code is not None and not is_dedicated:
        raise SettingsError(
            f"The plans' configuration has a 'modality_code', {list(code)}: it is for dedicated models. Train "
            f"{trainer} on a configuration without it, or use nnUNetTrainerDedicated."
        )
    if code is not None and len(code) != num_modalities:
        raise SettingsError(
            f"Setting 'modality_code' is {list(code)}, but there are {num_modalities} channels. Give one 0 or 1 a "
            "channel."
        )
