"""Files that look as if somebody had put them where a modality is absent."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnunet_moe.errors import ModalityError
from nnunet_moe.images.geometry import require_same_geometry
from nnunet_moe.images.reading import read_channels, read_segmentation

ZEROS = "zero everywhere"


@dataclass(frozen=True)
class ReadCase:
    """What a case's voxels tell."""

    filled: dict[int, str]
    """Channel -> why its file seems to be none of its own."""
    labels: frozenset[int]
    """What the segmentation holds."""


def read_whole(
    images: dict[int, str], label: str | None, reader_class: Any, modalities: Sequence[str], originals: Sequence[int]
) -> ReadCase:
    """Read all files of a case, and find those that hold one value, or the voxels of another.

    Args:
        images: channel -> file.
        label: the segmentation, if there is one.
        reader_class: one of nnU-Net's image readers.
        modalities: names in channel order.
        originals: all channels; of some that are equal the first in this order is taken for the original.

    Raises:
        ModalityError: files that cannot be used, nothing but one value in all images, or labels that are not whole.
    """
    reader = reader_class()
    read = read_channels(reader, images, num_channels=len(modalities))
    image, properties = read.image, read.properties
    filled = {}
    for channel in images:
        if np.isnan(image[channel]).all():
            filled[channel] = ZEROS
        elif (value := image[channel].flat[0]) == image[channel].max() == image[channel].min():
            filled[channel] = f"{value:g} everywhere"
    if filled.keys() == images.keys():
        raise ModalityError(f"{', '.join(images.values())} hold one value each. There is no image in this case.")
    seen: list[int] = []
    for channel in (channel for channel in originals if channel in images and channel not in filled):
        original = next((other for other in seen if np.array_equal(image[other], image[channel])), None)
        if original is None:
            seen.append(channel)
        else:
            filled[channel] = f"equal to {modalities[original]} in every voxel"
    return ReadCase(dict(sorted(filled.items())), _labels(label, reader, image, min(images.values()), properties))


def _labels(label: str | None, reader: Any, image: np.ndarray, image_file: str, properties: dict) -> frozenset[int]:
    if label is None:
        return frozenset()
    segmentation, label_properties = read_segmentation(label, reader)
    require_same_geometry(image_file, label, (image.shape[1:], properties), (segmentation.shape, label_properties))
    values = np.unique(segmentation)
    if (values != values.astype(int)).any() or values.min() < 0:
        raise ModalityError(f"{label} holds {', '.join(f'{value:g}' for value in values)}; labels are whole, from 0.")
    return frozenset(values.astype(int).tolist())
