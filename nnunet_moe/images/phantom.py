"""Simulated heads with lesions in several modalities, written as an nnU-Net raw dataset.

A head consists of ellipsoids of tissue with one signal per modality, a smooth bias field and Gaussian noise. As in
multiple sclerosis, each modality shows other lesions: FLAIR shows all of them, T2w hides those next to the ventricles,
and T1w shows only the destructive ones. Therefore the results show how much each modality contributes.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy.ndimage import gaussian_filter

AIR, WHITE_MATTER, GREY_MATTER, FLUID, DESTRUCTIVE, OEDEMATOUS = range(6)
SIGNAL = {  # relative signal of the six classes above
    "T1w": (0.0, 1.00, 0.70, 0.25, 0.50, 0.93),
    "T2w": (0.0, 0.50, 0.65, 1.00, 0.90, 0.80),
    "FLAIR": (0.0, 0.55, 0.68, 0.15, 0.95, 1.00),
}
FILE_ENDING = ".nii.gz"
NOISE_SD = 0.06  # white matter has the signal 1 in T1w


@dataclass(frozen=True)
class Phantom:
    """A simulated head."""

    images: np.ndarray
    """`(K, *space)` float32, one channel per modality of `SIGNAL`, zero outside the head."""
    lesions: np.ndarray
    """`(*space)` uint8, 1 in lesions."""


def draw_phantom(rng: np.random.Generator, shape: tuple[int, int, int]) -> Phantom:
    """Draw one head of the given size in voxels, with 3 to 6 lesions in its white matter."""
    axes = np.meshgrid(*[np.linspace(-1, 1, size) for size in shape], indexing="ij")
    warp = [gaussian_filter(rng.normal(size=shape), min(shape) / 8) for _ in axes]
    axes = [axis + 0.12 * field / np.abs(field).max() for axis, field in zip(axes, warp, strict=True)]
    radius = np.sqrt(sum((axis / scale) ** 2 for axis, scale in zip(axes, rng.uniform(0.8, 0.92, 3), strict=True)))
    ventricle = np.sqrt((axes[0] / 0.16) ** 2 + (axes[1] / 0.4) ** 2 + (axes[2] / 0.22) ** 2)
    tissue = np.full(shape, AIR)
    for within, label in ((radius < 1, FLUID), (radius < 0.93, GREY_MATTER), (radius < 0.75, WHITE_MATTER)):
        tissue[within] = label
    tissue[ventricle < 1] = FLUID

    lesions = np.zeros(shape, dtype=np.uint8)
    for number in range(rng.integers(3, 7)):
        beside_ventricle = number % 3 == 2
        allowed = (tissue == WHITE_MATTER) & (ventricle < 1.6 if beside_ventricle else ventricle > 1.4)
        center = rng.choice(np.argwhere(allowed))
        grid = np.ogrid[tuple(slice(0, size) for size in shape)]
        scales = rng.uniform(0.05, 0.11, 3) * min(shape)
        inside = sum(((g - c) / s) ** 2 for g, c, s in zip(grid, center, scales, strict=True)) < 1
        inside = inside & (tissue == WHITE_MATTER)
        tissue[inside] = OEDEMATOUS if beside_ventricle or number % 2 else DESTRUCTIVE
        lesions[inside] = 1
    return Phantom(np.stack([_render(tissue, signal, rng) for signal in SIGNAL.values()]), lesions)


def write_phantom_cohort(
    folder: Path, *, num_training: int, num_test: int, shape: tuple[int, int, int], seed: int = 0
) -> None:
    """Write simulated cases as an nnU-Net raw dataset, with the labels of the test cases in `labelsTs`.

    The same arguments always produce the same voxels.
    """
    for part, (count, suffix) in enumerate(((num_training, "Tr"), (num_test, "Ts"))):
        images_folder, labels_folder = folder / f"images{suffix}", folder / f"labels{suffix}"
        images_folder.mkdir(parents=True, exist_ok=True)
        labels_folder.mkdir(parents=True, exist_ok=True)
        for number in range(count):
            phantom = draw_phantom(np.random.default_rng([seed, part, number]), shape)
            case = f"phantom{suffix}{number:03d}"
            for channel, image in enumerate(phantom.images):
                sitk.WriteImage(
                    sitk.GetImageFromArray(image), str(images_folder / f"{case}_{channel:04d}{FILE_ENDING}")
                )
            sitk.WriteImage(sitk.GetImageFromArray(phantom.lesions), str(labels_folder / f"{case}{FILE_ENDING}"))
    dataset = {
        "channel_names": {str(channel): name for channel, name in enumerate(SIGNAL)},
        "labels": {"background": 0, "lesion": 1},
        "numTraining": num_training,
        "file_ending": FILE_ENDING,
    }
    (folder / "dataset.json").write_text(json.dumps(dataset, indent=2) + "\n", encoding="utf-8")


def _render(tissue: np.ndarray, signal: tuple[float, ...], rng: np.random.Generator) -> np.ndarray:
    blurred = gaussian_filter(np.asarray(signal)[tissue], 0.5)  # partial volume
    bias = gaussian_filter(rng.normal(size=tissue.shape), min(tissue.shape) / 4)
    noisy = blurred * (1 + 0.15 * bias / np.abs(bias).max()) + rng.normal(0, NOISE_SD, tissue.shape)
    return np.where(tissue == AIR, 0, 400 * np.maximum(noisy, 0.01)).astype(np.float32)
