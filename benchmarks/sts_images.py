#!/usr/bin/env python3
"""Look at the training images of `sts.py`: contrast, alignment, and what their borders reveal.

    python benchmarks/sts_images.py --shared ../shared --out sts.png

For each case it prints the share of the image outside of T1w's field of view, the contrast of the tumor in each
modality, and the shift between T1w and CT. Then it prints the DSC of segmentations that were made without any image
content. A picture shows some cases.
"""

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from matplotlib.figure import Figure
from nnunetv2.inference.sliding_window_prediction import compute_gaussian, compute_steps_for_sliding_window
from scipy.ndimage import binary_dilation
from scipy.stats import mannwhitneyu
from sts import MODALITIES

MARGIN = 50 / 2.5
"""The images were cropped to this distance from the tumor, in pixels of 2.5 mm."""
SHOWN = ("STS_011", "STS_025", "STS_037", "STS_039")
WINDOWS = {"CT": (-160, 240), "PET": (0, None), "T1w": (0, None)}
MAX_SHIFT = 8
Blind = Callable[[tuple[int, int]], np.ndarray]
"""Takes the shape of a slice and returns how likely each of its pixels is tumor."""


@dataclass(frozen=True)
class Case:
    name: str
    images: dict[str, np.ndarray]
    """Modality -> `(Z, Y, X)`."""
    tumor: np.ndarray
    """`(Z, Y, X)` bool."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    shared = Path(__file__).resolve().parents[2] / "shared"
    parser.add_argument("--shared", type=Path, default=shared, help="read the data from this folder")
    parser.add_argument("--out", type=Path, default=Path("sts.png"), help="write the picture to this file")
    options = parser.parse_args()
    data = options.shared / "data/sts"
    cases = [read(data, file.name.removesuffix(".nii.gz")) for file in sorted((data / "labelsTr").glob("*.nii.gz"))]
    print("| case | outside of T1w (%) | AUC of CT, PET, T1w | shift of T1w (mm) |\n|---|---|---|---|")
    for case in cases:
        aucs = ", ".join(f"{contrast(case, name):.2f}" for name in MODALITIES)
        outside = 100 * np.mean(case.images["T1w"] == 0)
        print(f"| {case.name} | {outside:.0f} | {aucs} | {shift_mm(case):.0f} |", flush=True)
    validation = cases[::5]
    training = [case for case in cases if case not in validation]
    print("\n| without image content | DSC | with the tumor's slices known |\n|---|---|---|")
    print_blind("ellipse from the size of the image", ellipse, training, validation)
    for size in (32, 40, 48, 64):
        prior = partial(slide, position_prior(training, size))
        print_blind(f"position in a patch of {size}x{size}", prior, training, validation)
    picture([case for case in cases if case.name in SHOWN]).savefig(options.out, dpi=80)


def read(data: Path, name: str) -> Case:
    files = {modality: data / f"imagesTr/{name}_{channel}.nii.gz" for modality, channel in MODALITIES.items()}
    images = {modality: sitk.GetArrayFromImage(sitk.ReadImage(file)).astype(float) for modality, file in files.items()}
    return Case(name, images, sitk.GetArrayFromImage(sitk.ReadImage(data / f"labelsTr/{name}.nii.gz")) > 0)


def contrast(case: Case, modality: str) -> float:
    """Return the chance that a tumor voxel is brighter than one of the tissue within five voxels of it (ROC AUC)."""
    near, edge = (np.asarray(binary_dilation(case.tumor, iterations=number), dtype=bool) for number in (5, 1))
    tissue = near & ~edge & (case.images["CT"] > -200)
    inside, outside = case.images[modality][case.tumor], case.images[modality][tissue]
    return float(mannwhitneyu(inside, outside).statistic / inside.size / outside.size)


def shift_mm(case: Case) -> float:
    """Return the in-plane shift at which T1w and CT have the highest mutual information, in ten slices of the tumor."""
    slices = np.flatnonzero(case.tumor.any(axis=(1, 2)))
    slices = slices[:: max(1, slices.size // 10)]
    t1w, ct = case.images["T1w"][slices], np.clip(case.images["CT"][slices], -200, 300)
    inner = np.zeros(t1w.shape, dtype=bool)
    inner[:, MAX_SHIFT:-MAX_SHIFT, MAX_SHIFT:-MAX_SHIFT] = True
    z, y, x = np.nonzero(inner & (t1w > 0))
    shifts = list(product(range(-MAX_SHIFT, MAX_SHIFT + 1), repeat=2))
    scores = [mutual_information(t1w[z, y, x], ct[z, y + dy, x + dx]) for dy, dx in shifts]
    return 2.5 * math.hypot(*shifts[int(np.argmax(scores))])


def mutual_information(first: np.ndarray, second: np.ndarray) -> float:
    joint = np.histogram2d(first, second, bins=24)[0]
    joint /= joint.sum()
    product_of_margins = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    seen = joint > 0
    return float((joint[seen] * np.log(joint[seen] / product_of_margins[seen])).sum())


def ellipse(shape: tuple[int, int]) -> np.ndarray:
    """Draw the ellipse that touches the tumor's bounding box, which is the image without its margin."""
    radii = [
        (index + 0.5 - size / 2) / (size / 2 - MARGIN) for index, size in zip(np.indices(shape), shape, strict=True)
    ]
    return (np.square(radii).sum(axis=0) <= 1).astype(float)


def position_prior(cases: Sequence[Case], size: int) -> np.ndarray:
    """Compute how often each pixel of a patch is tumor, for patches that are drawn as nnU-Net draws them.

    Two thirds lie anywhere in the image, one third around a tumor pixel. A patch that is larger than the image is
    centered.
    """
    random, patches = np.random.default_rng(0), []
    for case in cases:
        pixels = np.argwhere(case.tumor)
        for number in range(400):
            z, *place = pixels[random.integers(len(pixels))] if number % 3 == 0 else random.integers(case.tumor.shape)
            padded = np.pad(case.tumor[z], [(max(0, size - length) // 2, max(0, size - length + 1) // 2)
                                            for length in case.tumor.shape[1:]])  # fmt: skip
            largest = np.array(padded.shape) - size
            start = np.array(place) - size // 2 if number % 3 == 0 else random.integers(largest + 1)
            y, x = np.clip(start, 0, largest)
            patches.append(padded[y : y + size, x : x + size])
    return np.mean(patches, axis=0)


def slide(prior: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Predict an image only from the position, in the sliding window of nnU-Net."""
    size = len(prior)
    padded = tuple(max(length, size) for length in shape)
    weight = compute_gaussian((size, size), dtype=torch.float32, device=torch.device("cpu")).numpy()
    total, weights = np.zeros(padded), np.zeros(padded)
    for y, x in product(*compute_steps_for_sliding_window(padded, (size, size), 0.75)):
        total[y : y + size, x : x + size] += prior * weight
        weights[y : y + size, x : x + size] += weight
    y, x = ((length - own) // 2 for length, own in zip(padded, shape, strict=True))
    return (total / weights)[y : y + shape[0], x : x + shape[1]]


def print_blind(name: str, predict: Blind, training: Sequence[Case], validation: Sequence[Case]) -> None:
    """Print the mean DSC on validation cases, at the threshold that is best on training cases."""
    likely = {case.name: predict(case.tumor.shape[1:]) for case in (*training, *validation)}
    values = []
    for slices_known in (False, True):
        mean = partial(mean_dsc, likely, slices_known)
        best = max(np.linspace(0.02, 0.8, 40), key=lambda threshold, mean=mean: mean(training, threshold))
        values.append(100 * mean(validation, best))
    print(f"| {name} | {values[0]:.1f} | {values[1]:.1f} |", flush=True)


def mean_dsc(likely: Mapping[str, np.ndarray], slices_known: bool, cases: Sequence[Case], threshold: float) -> float:
    """Return the mean DSC if the same pixels are tumor in all slices, or in all that have tumor."""
    scores = []
    for case in cases:
        seen = case.tumor.any(axis=(1, 2)) if slices_known else np.ones(len(case.tumor), dtype=bool)
        predicted = likely[case.name] > threshold
        overlap = np.sum(case.tumor[seen] & predicted)
        scores.append(2 * overlap / (seen.sum() * predicted.sum() + case.tumor.sum()))
    return float(np.mean(scores))


def picture(cases: Sequence[Case]) -> Figure:
    """Draw the largest slice of each case: the modalities with the tumor, and T1w with the outlines of CT."""
    figure = Figure(figsize=(8, 2.1 * len(cases)), layout="constrained")
    for axes, case in zip(figure.subplots(len(cases), 4, squeeze=False), cases, strict=True):
        z = int(case.tumor.sum(axis=(1, 2)).argmax())
        for axis, name in zip(axes, (*MODALITIES, "T1w"), strict=True):
            low, high = WINDOWS[name]
            image = case.images[name][z]
            axis.imshow(image, cmap="gray", vmin=low, vmax=np.percentile(image, 99.5) if high is None else high)
            axis.set_axis_off()
            axis.set_title(f"{case.name} {name}", fontsize=8)
        for axis in axes[:3]:
            axis.contour(case.tumor[z], [0.5], colors="red", linewidths=0.8)
        axes[3].contour(case.images["CT"][z] > -300, [0.5], colors="cyan", linewidths=0.6)
        axes[3].contour(case.images["CT"][z] > 200, [0.5], colors="yellow", linewidths=0.6)
        axes[3].set_title(f"{case.name} T1w, skin and bone of CT", fontsize=8)
    return figure


if __name__ == "__main__":
    main()
