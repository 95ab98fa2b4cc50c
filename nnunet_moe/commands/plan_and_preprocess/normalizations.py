"""Say how each modality will be normalized, and why."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from nnunetv2.preprocessing.normalization.default_normalization_schemes import ZScoreNormalization
from nnunetv2.preprocessing.normalization.map_channel_name_to_normalization import (
    channel_name_to_normalization_mapping as by_name,
)

from nnunet_moe.modalities.codes import channel_names
from nnunet_moe.reports.table import markdown_table

_MEANINGS = {
    "ZScoreNormalization": "each image by its own mean and SD",
    "CTNormalization": "by the percentiles, mean and SD of the labeled voxels of all training cases",
    "NoNormalization": "not at all",
    "RescaleTo01Normalization": "each image to 0 to 1 by its own minimum and maximum",
    "RGBTo01Normalization": "divided by 255",
}


def normalization_table(dataset_json: Mapping[str, Any], schemes: Sequence[str], masks: Sequence[bool]) -> str:
    """Make a table of the modalities with their normalization and the reason.

    Args:
        dataset_json: the content of dataset.json.
        schemes: the normalization of each channel, from the plans.
        masks: for each channel, whether only the voxels inside the case's nonzero region count.
    """
    names, given = channel_names(dict(dataset_json)), _given_names(dataset_json)
    rows = []
    for channel, (name, own, scheme, mask) in enumerate(zip(names, given, schemes, masks, strict=True)):
        where = ", inside the region that is not zero" if mask else ""
        rows.append((str(channel), name, scheme, f"{_MEANINGS.get(scheme, '')}{where}", _why(own, scheme)))
    return markdown_table(("channel", "modality", "normalization", "how", "why"), rows)


def look_alikes(dataset_json: Mapping[str, Any]) -> list[str]:
    """Return a warning for each name that contains the name of a normalization, but is not exactly this name."""
    return [
        f"The modality {name!r} gets the z-score normalization, because nnU-Net knows only the exact {known!r}. If "
        f"it needs the one of {known!r}, rename it in dataset.json and rerun this command."
        for name in _given_names(dataset_json)
        if name.casefold() not in by_name
        for known in by_name
        if known in re.split(r"[^a-z0-9]+", name.casefold()) or known == re.sub(r"[\W_]+", "", name.casefold())
    ]


def _given_names(dataset_json: Mapping[str, Any]) -> list[str]:
    return list((dataset_json.get("channel_names") or dataset_json["modality"]).values())


def _why(name: str, scheme: str) -> str:
    """Return why a channel with this name has this normalization."""
    known = by_name.get(name.casefold())
    if known is None and scheme == ZScoreNormalization.__name__:
        return f"{name!r} is not one of the names {', '.join(by_name)}"
    return f"the name {name!r}" if known is not None and known.__name__ == scheme else "the plans"
