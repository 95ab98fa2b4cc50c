"""The checks before a training: plans, settings, dataset.json and the trainer must fit together."""

from collections.abc import Sequence
from typing import Any

from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_moe.errors import ModalityError, SettingsError
from nnunet_moe.labels.label_sets import LabelSets
from nnunet_moe.modalities.codes import channel_names
from nnunet_moe.settings.base import Settings
from nnunet_moe.settings.plans import PLANS_KEY


def require_fitting_plans(plans: dict[str, Any], configuration: str, dataset_json: dict[str, Any]) -> tuple[str, ...]:
    """Make sure that plans fit the channels of dataset.json, and contain settings only inside configurations.

    Returns:
        The names of the modalities, in channel order.

    Raises:
        SettingsError: settings are at the top level of the plans.
        ModalityError: the numbers of channels differ.
    """
    if PLANS_KEY in plans:
        raise SettingsError(
            f"{PLANS_KEY!r} is at the top level of the plans. It is allowed only inside a configuration. Move it there."
        )
    names = channel_names(dataset_json)
    num_planned = len(PlansManager(plans).get_configuration(configuration).normalization_schemes)
    if len(names) != num_planned:
        raise ModalityError(
            f"dataset.json has {len(names)} channels ({', '.join(names)}), but the plans were made for {num_planned}. "
            "Run planning and preprocessing again."
        )
    return names


def require_own_label_sets(settings: Settings, label_sets: LabelSets | None) -> None:
    """Make sure that label sets in the plans, into which trainers copy them, are those of dataset.json.

    Raises:
        SettingsError: they differ.
    """
    if settings.label_sets is not None and (label_sets is None or settings.label_sets != label_sets.setting):
        raise SettingsError(
            f"'label_sets' under {PLANS_KEY!r} in the plans differs from dataset.json. Write 'label_sets' only into "
            "dataset.json and remove it from the plans. Trainers copy it into the plans of their models."
        )


def require_fitting_code(code: Sequence[int] | None, num_modalities: int, trainer: str, *, is_dedicated: bool) -> None:
    """Make sure that `modality_code` is set for trainers of dedicated models, and not set for the others.

    Args:
        code: the setting `modality_code`; None if it is not set.
        num_modalities: K.
        trainer: name of the trainer's class, for the message.
        is_dedicated: whether the trainer is for dedicated models.

    Raises:
        SettingsError: the setting is missing or not allowed, or it does not have K entries.
    """
    if is_dedicated and code is None:
        raise SettingsError(
            f"{trainer} needs the setting 'modality_code' under {PLANS_KEY!r} in a configuration of the plans: a list "
            "with one 0 or 1 for each channel. Add a configuration that has it."
        )
    if code is not None and not is_dedicated:
        raise SettingsError(
            f"The configuration in the plans has 'modality_code' {list(code)}, which is only for dedicated models. "
            f"Train {trainer} on a configuration without it, or use nnUNetTrainerDedicated."
        )
    if code is not None and len(code) != num_modalities:
        raise SettingsError(
            f"The setting 'modality_code' is {list(code)}, but the dataset has {num_modalities} channels. Write one 0 "
            "or 1 for each channel."
        )
