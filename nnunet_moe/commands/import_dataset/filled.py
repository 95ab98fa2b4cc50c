"""Find files that seem to be placeholders for a missing modality."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnunet_moe.commands.import_dataset.companions import require_own_voxels
from nnunet_moe.errors import ModalityError
from nnunet_moe.images.geometry import require_same_geometry
from nnunet_moe.images.reading import read_channels, read_segmentation

ZEROS = "zero everywhere"


@dataclass(frozen=True)
class ReadCase:
    """Results of reading all voxels of a case."""

    filled: dict[int, str]
    """Channel -> why its file seems to be a placeholder."""
    labels: frozenset[int]
    """The values in the segmentation."""


def read_whole(
    images: dict[int, str], label: str | None, reader_class: Any, modalities: Sequence[str], originals: Sequence[int]
) -> ReadCase:
    """Read all files of a case, and find files with a single value or with the voxels of another file.

    Args:
        images: channel -> file.
        label: the segmentation, or None.
        reader_class: returns one of nnU-Net's image readers.
        modalities: names in channel order.
        originals: all channels. If several are equal, the first one in this order counts as the original.

    Raises:
        ModalityError: a file cannot be used, every image holds a single value, or labels are not whole numbers.
    """
    for file in (*images.values(), *filter(None, [label])):
        require_own_voxels(file)
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
        raise ModalityError(
            f"{', '.join(images.values())} hold a single value each, so the case has no image. Replace or remove them."
        )
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
    if values.min() < 0:
        raise ModalityError(
            f"{label} holds {', '.join(f'{value:g}' for value in values)}. Labels must be whole numbers from 0. "
            "Correct the segmentation."
        )
    return frozenset(values.astype(int).tolist())
