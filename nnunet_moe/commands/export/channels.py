"""What nnU-Net keeps for each channel, cut down to those of a code: the first that is left becomes channel 0."""

import copy
from collections.abc import Sequence
from typing import Any

from nnunet_moe.modalities.codes import Code, present_channels
from nnunet_moe.settings.plans import PLANS_KEY

BY_LIST = ("normalization_schemes", "use_mask_for_norm")
KEPT = ("labels", "regions_class_order", "file_ending", "overwrite_image_reader_writer", "numTraining")
"""What nnU-Net reads of dataset.json beside the channels."""
CREDITS = ("name", "reference", "licence", "license")
INTENSITIES = "foreground_intensity_properties_per_channel"


def plans_of(plans: dict[str, Any], code: Code) -> dict[str, Any]:
    """The plans for the channels of a code, in all configurations, without this package's settings.

    Raises:
        KeyError, ValueError: a list that has not one entry a channel; so do the functions below.
    """
    result = copy.deepcopy(plans)
    result[INTENSITIES] = _renumbered(plans[INTENSITIES], code)
    for configuration in result["configurations"].values():
        configuration.pop(PLANS_KEY, None)
        for key in BY_LIST:
            if key in configuration:  # one that inherits may leave it to its parent
                configuration[key] = _kept(configuration[key], code)
    return result


def dataset_json_of(dataset_json: dict[str, Any], code: Code) -> dict[str, Any]:
    """dataset.json with the channels of a code, whose names stay, and without what nnU-Net does not read.

    That may be lists of cases, paths or notes; name, reference and licence of the data stay.
    """
    result = {key: copy.deepcopy(entry) for key, entry in dataset_json.items() if key in (*KEPT, *CREDITS)}
    for key in ("channel_names", "modality"):  # the second is nnU-Net's old key
        if key in dataset_json:
            result[key] = _renumbered(dataset_json[key], code)
    return result


def fingerprint_of(fingerprint: dict[str, Any], code: Code) -> dict[str, Any]:
    """The dataset's fingerprint for the channels of a code."""
    return {**fingerprint, INTENSITIES: _renumbered(fingerprint[INTENSITIES], code)}


def _kept(entries: Sequence[Any], code: Code) -> list[Any]:
    if len(entries) != len(code):
        raise ValueError(f"{len(entries)} entries for {len(code)} channels: {entries}")
    return [entries[channel] for channel in present_channels(len(entries), code)]


def _renumbered(by_channel: dict[str, Any], code: Code) -> dict[str, Any]:
    """Channel -> something."""
    kept = _kept([by_channel[str(channel)] for channel in range(len(by_channel))], code)
    return {str(channel): entry for channel, entry in enumerate(kept)}
