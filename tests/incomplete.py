"""Raw datasets whose cases lack files."""

import json
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_moe.cli import main
from nnunet_moe.commands.plan_and_preprocess.fingerprint import IncompleteDatasetFingerprintExtractor
from nnunet_moe.images.phantom import draw_phantom

SHAPE = (24, 26, 24)


def write(file: Path, array: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(array), str(file))


def describe(raw: Path, names, num_training: int) -> None:
    raw.mkdir(parents=True, exist_ok=True)
    description = {
        "channel_names": {str(channel): name for channel, name in enumerate(names)},
        "labels": {"background": 0, "lesion": 1},
        "numTraining": num_training,
        "file_ending": ".nii.gz",
    }
    (raw / "dataset.json").write_text(json.dumps(description))


def phantom_channels(seed: int, num_modalities: int) -> tuple[list[np.ndarray], np.ndarray]:
    """K images and the lesions of one head."""
    phantom = draw_phantom(np.random.default_rng(seed), SHAPE)
    images = [*phantom.images, np.sqrt(phantom.images[0] * phantom.images[2])]
    return images[:num_modalities], phantom.lesions


def write_cases_without_each_file(raw: Path, num_modalities: int, heads=(0, 1)) -> dict[str, int | None]:
    """Each head once complete, and once without each of its files: case -> the channel that it lacks."""
    lacking: dict[str, int | None] = {}
    for head in heads:
        images, lesions = phantom_channels(head, num_modalities)
        for absent in (None, *range(num_modalities)) if num_modalities > 1 else (None,):
            case = f"head{head}_{'complete' if absent is None else f'without{absent}'}"
            lacking[case] = absent
            write(raw / "labelsTr" / f"{case}.nii.gz", lesions)
            for channel, image in enumerate(images):
                if channel != absent:
                    write(raw / "imagesTr" / f"{case}_{channel:04d}.nii.gz", image)
    describe(raw, [f"M{channel}" for channel in range(num_modalities)], len(lacking))
    return lacking


def extract_fingerprint(dataset: int | str, *, num_samples: float = 1e4) -> IncompleteDatasetFingerprintExtractor:
    """Of few voxels: of the 1e8 that nnU-Net draws, most of what the command takes its time for."""
    extractor = IncompleteDatasetFingerprintExtractor(dataset, num_processes=1)
    extractor.num_foreground_voxels_for_intensitystats = num_samples
    extractor.run(overwrite_existing=True)
    return extractor


def plan_and_preprocess(*arguments: object) -> None:
    """The verb, in this process but for the one that preprocesses."""
    main(["plan_and_preprocess", *map(str, arguments), "-np", "1", "-npfp", "1", "--no_pbar"])
