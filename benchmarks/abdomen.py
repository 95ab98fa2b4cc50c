"""Write a phantom cohort of abdomens with three image types (CT, MRI, CE-MRI). Each has its own labels.

All images are simulated. Organs are warped ellipsoids with one signal for each image type. MRI has a smooth bias field.
All images have Gaussian noise. Every liver has tumors. In CT and MRI, tumors are labeled as liver.
"""

import json
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy.ndimage import gaussian_filter

CLASSES = ("air", "fat", "muscle", "liver", "spleen", "kidney", "vessel", "tumour")
AIR, FAT, MUSCLE, LIVER, SPLEEN, KIDNEY, VESSEL, TUMOUR, INSIDE = range(len(CLASSES) + 1)
SIGNAL = {  # signal of the classes above: HU for CT, relative signal for MRI
    "CT": (-1000, -90, 45, 62, 50, 34, 40, 42),
    "MRI": (0.0, 1.0, 0.38, 0.52, 0.34, 0.30, 0.12, 0.42),
    "CE-MRI": (0.0, 0.6, 0.40, 0.72, 0.80, 0.95, 1.0, 0.56),
}
NOISE_SD = {"CT": 12.0, "MRI": 0.05, "CE-MRI": 0.05}
LABELS = {"liver": 1, "spleen": 2, "kidney": 3, "tumour": 4}
LABEL_SETS = {"CT": ["liver", "spleen", "kidney"], "MRI": ["liver", "spleen"], "CE-MRI": ["liver", "tumour"]}
SHAPE = (10, 96, 96)
SPACING = (4.0, 4.0, 6.0)  # mm, in the order of SimpleITK
FILE_ENDING = ".nii.gz"


def draw_classes(rng: np.random.Generator) -> np.ndarray:
    """Draw one abdomen: an array of `SHAPE` with indices of `CLASSES`."""
    axes = np.meshgrid(*[np.linspace(-1, 1, size) for size in SHAPE], indexing="ij")
    warp = [gaussian_filter(rng.normal(size=SHAPE), (2, 12, 12)) for _ in axes]
    _, y, x = (axis + 0.1 * field / np.abs(field).max() for axis, field in zip(axes, warp, strict=True))
    z = axes[0]
    classes = np.full(SHAPE, AIR)

    def fill(what: int, center: tuple[float, float, float], radii: tuple[float, float, float], within: tuple) -> None:
        moved = np.array(center) + rng.normal(0, 0.03, 3)
        scaled = np.array(radii) * rng.uniform(0.88, 1.12, 3)
        distance = sum(((axis - c) / r) ** 2 for axis, c, r in zip((z, y, x), moved, scaled, strict=True))
        classes[(distance < 1) & np.isin(classes, within)] = what

    fill(FAT, (0, 0, 0), (9, 0.72, 0.92), (AIR,))
    fill(MUSCLE, (0, 0, 0), (9, 0.64, 0.84), (FAT,))
    fill(INSIDE, (0, -0.02, 0), (9, 0.54, 0.74), (MUSCLE,))
    fill(MUSCLE, (0, 0.48, 0), (9, 0.2, 0.22), (INSIDE,))
    fill(LIVER, (-0.2, -0.12, -0.36), (1.0, 0.38, 0.36), (INSIDE,))
    fill(SPLEEN, (-0.1, 0.1, 0.5), (0.8, 0.22, 0.15), (INSIDE,))
    for side in (-1, 1):
        fill(KIDNEY, (0.5, 0.28, 0.32 * side), (0.7, 0.13, 0.1), (INSIDE, LIVER))
    fill(VESSEL, (0, 0.2, 0.06), (9, 0.06, 0.06), (INSIDE, MUSCLE))
    liver = np.argwhere(classes == LIVER)
    for _ in range(rng.integers(2, 5)):
        place = tuple(rng.choice(liver))
        center = (float(z[place]), float(y[place]), float(x[place]))
        fill(TUMOUR, center, (0.4, 0.09, 0.09), (LIVER,))
    classes[classes == INSIDE] = FAT
    return classes


def render(classes: np.ndarray, kind: str, rng: np.random.Generator) -> np.ndarray:
    """Draw the image of this image type, float32."""
    image = gaussian_filter(np.asarray(SIGNAL[kind], dtype=float)[classes], (0.3, 0.6, 0.6))  # partial volume
    if kind != "CT":
        bias = gaussian_filter(rng.normal(size=SHAPE), (3, 24, 24))
        image = image * (1 + 0.25 * bias / np.abs(bias).max())
    noisy = image + rng.normal(0, NOISE_SD[kind], SHAPE)
    return noisy.astype(np.float32) if kind == "CT" else (500 * np.abs(noisy)).astype(np.float32)


def annotate(classes: np.ndarray, kind: str) -> np.ndarray:
    """Draw the labels that cases of this image type have, uint8."""
    annotated = np.zeros(SHAPE, np.uint8)
    for label in LABEL_SETS[kind]:
        annotated[classes == CLASSES.index(label)] = LABELS[label]
    if "tumour" not in LABEL_SETS[kind]:
        annotated[classes == TUMOUR] = LABELS["liver"]
    return annotated


def write_cohort(raw: Path, *, num_training: int, num_test: int, one_channel: bool = False) -> None:
    """Write cases of each image type as an nnU-Net raw dataset.

    The same arguments always give the same voxels.

    Args:
        raw: the folder of the dataset.
        num_training: number of training cases of each image type.
        num_test: number of test cases of each image type.
        one_channel: name every image `_0000`, as nnU-Net needs it, without image types and label sets.
    """
    for part, (count, suffix) in enumerate(((num_training, "Tr"), (num_test, "Ts"))):
        folders = [raw / f"{name}{suffix}" for name in ("images", "labels")]
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        for channel, kind in enumerate(SIGNAL):
            for number in range(count):
                rng = np.random.default_rng([part, channel, number])
                classes = draw_classes(rng)
                case = f"{kind.replace('-', '').lower()}{suffix}{number:03d}"
                names = (f"{case}_{0 if one_channel else channel:04d}", case)
                voxels = (render(classes, kind, rng), annotate(classes, kind))
                for folder, name, array in zip(folders, names, voxels, strict=True):
                    image = sitk.GetImageFromArray(array)
                    image.SetSpacing(SPACING)
                    sitk.WriteImage(image, str(folder / f"{name}{FILE_ENDING}"))
    description = {
        "channel_names": {"0": "image"} if one_channel else {str(n): kind for n, kind in enumerate(SIGNAL)},
        "labels": {"background": 0, **LABELS},
        "numTraining": num_training * len(SIGNAL),
        "file_ending": FILE_ENDING,
        **({} if one_channel else {"label_sets": LABEL_SETS}),
    }
    (raw / "dataset.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
