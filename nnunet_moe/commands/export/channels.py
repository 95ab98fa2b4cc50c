"""Reduce nnU-Net's settings of each channel to the channels of a code, numbered from 0."""

import copy
from collections.abc import Sequence
from typing import Any

from nnunet_moe.modalities.codes import Code, present_channels
from nnunet_moe.settings.plans import PLANS_KEY

BY_LIST = ("normalization_schemes", "use_mask_for_norm")
KEPT = ("labels", "regions_class_order", "file_ending", "overwrite_image_reader_writer", "numTraining")
"""What nnU-Net reads from dataset.json apart from the channels."""
CREDITS = ("name", "reference", "licence", "license")
INTENSITIES = "foreground_intensity_properties_per_channel"


def plans_of(plans: dict[str, Any], code: Code) -> dict[str, Any]:
    """Return the plans for the channels of a code, in all configurations, without this package's settings.

    Raises:
        KeyError, ValueError: a list does not have one entry for each channel. The functions below raise the same.
    """
    result = copy.deepcopy(plans)
    result[INTENSITIES] = _renumbered(plans[INTENSITIES], code)
    for configuration in result["configurations"].values():
        configuration.pop(PLANS_KEY, None)
        for key in BY_LIST:
            if key in configuration:  # a configuration may inherit it from another one
                configuration[key] = _kept(configuration[key], code)
    return result


def dataset_json_of(dataset_json: dict[str, Any], code: Code) -> dict[str, Any]:
    """Return dataset.json for the channels of a code, without entries that nnU-Net does not read.

    Such entries may be lists of cases, paths or notes. The channels keep their names. The dataset's name, reference and
    license are kept, too.
    """
    result = {key: copy.deepcopy(entry) for key, entry in dataset_json.items() if key in (*KEPT, *CREDITS)}
    for key in ("channel_names", "modality"):  # the second is nnU-Net's old key
        if key in dataset_json:
            names = _kept(list(dataset_json[key].values()), code)  # nnU-Net allows words as keys
            result[key] = {str(channel): name for channel, name in enumerate(names)}
    return result


def fingerprint_of(fingerprint: dict[str, Any], code: Code) -> dict[str, Any]:
    """Return the dataset's fingerprint for the channels of a code."""
    return {**fingerprint, INTENSITIES: _renumbered(fingerprint[INTENSITIES], code)}


def _kept(entries: Sequence[Any], code: Code) -> list[Any]:
    if len(entries) != len(code):
        raise ValueError(f"{len(entries)} entries for {len(code)} channels: {entries}")
    return [entries[channel] for channel in present_channels(len(entries), code)]


def _renumbered(by_channel: dict[str, Any], code: Code) -> dict[str, Any]:
    """Keep the entries of the code's channels, and number the channels from 0."""
    kept = _kept([by_channel[str(channel)] for channel in range(len(by_channel))], code)
    return {str(channel): entry for channel, entry in enumerate(kept)}
