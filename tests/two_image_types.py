"""A raw dataset of CT and of MR cases, each annotated with a label of its own."""

import json
from pathlib import Path

import numpy as np

from incomplete import write

CHANNELS = {"ct": 0, "mr": 1}
LABELS = {"first": 1, "second": 2}
SHAPE = (20, 22, 20)


def phantom(number: int, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """An image of noise with two bright cubes; CT cases have the first cube's label, MR cases the second's."""
    rng = np.random.default_rng([number, CHANNELS[kind]])
    image, labels = rng.normal(0, 0.1, SHAPE).astype(np.float32), np.zeros(SHAPE, np.uint8)
    for label, corner in ((1, (3, 4, 3)), (2, (11, 12, 11))):
        cube = tuple(slice(first, first + 6) for first in corner)
        image[cube] += 3.0 * label * (1 if kind == "ct" else -1)
        if label == CHANNELS[kind] + 1:
            labels[cube] = label
    return image, labels


def write_two_image_types(raw: Path) -> None:
    """Four training cases and a test case of each kind."""
    for folder, label_folder, numbers in (("imagesTr", "labelsTr", range(4)), ("imagesTs", "labelsTs", range(4, 5))):
        for kind, channel in CHANNELS.items():
            for number in numbers:
                image, labels = phantom(number, kind)
                write(raw / folder / f"{kind}{number}_{channel:04d}.nii.gz", image)
                write(raw / label_folder / f"{kind}{number}.nii.gz", labels)
    description = {
        "channel_names": {"0": "CT", "1": "MR"},
        "labels": {"background": 0, **LABELS},
        "label_sets": {"CT": ["first"], "MR": ["second"]},
        "numTraining": 8,
        "file_ending": ".nii.gz",
    }
    (raw / "dataset.json").write_text(json.dumps(description))
