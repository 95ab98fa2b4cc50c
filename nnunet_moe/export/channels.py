"""What nnU-Net keeps for each channel, cut down to those of a code: the first that is left becomes channel 0."""

import copy
from typing import Any

from nnunet_moe.codes import Code
from nnunet_moe.settings import PLANS_KEY

BY_LIST = ("normalization_schemes", "use_mask_for_norm")
INTENSITIES = "foreground_intensity_properties_per_channel"


def plans_of(plans: dict[str, Any], code: Code) -> dict[str, Any]:
    """The plans for the channels of a code, in all configurations, without this package's settings."""
    result = copy.deepcopy(plans)
    result[INTENSITIES] = _renumbered(plans[INTENSITIES], code)
    for configuration in result["configurations"].values():
        configuration.pop(PLANS_KEY, None)
        for key in BY_LIST:
            if key in configuration:  # one that inherits may leave it to its parent
                configuration[key] = [
                    entry for entry, available in zip(configuration[key], code, strict=True) if available
                ]
    return result


def dataset_json_of(dataset_json: dict[str, Any], code: Code) -> dict[str, Any]:
    """dataset.json with the channels of a code, whose names stay (`modality` is nnU-Net's old key)."""
    result = copy.deepcopy(dataset_json)
    for key in ("channel_names", "modality"):
        if key in dataset_json:
            result[key] = _renumbered(dataset_json[key], code)
    return result


def fingerprint_of(fingerprint: dict[str, Any], code: Code) -> dict[str, Any]:
    """The dataset's fingerprint for the channels of a code."""
    return {**fingerprint, INTENSITIES: _renumbered(fingerprint[INTENSITIES], code)}


def _renumbered(by_channel: dict[str, Any], code: Code) -> dict[str, Any]:
    """Channel -> something."""
    kept = [by_channel[str(channel)] for channel, available in enumerate(code) if available]
    return {str(channel): entry for channel, entry in enumerate(kept)}
