"""Measure, without a reference, how far the segmentation of one label can be trusted.

Sources:
- Expected Dice: Borges, Pacheco, Silva, "Soft Dice confidence", arXiv:2402.10665, with the plug-in probabilities.
- Entropy over the segmentation: Mehrtash et al., "Confidence calibration and predictive uncertainty estimation for deep
  medical image segmentation", IEEE TMI 2020.
- Agreement of several segmentations of one case: Roy et al., "Bayesian QuickNAT", NeuroImage 2019. There the
  segmentations differ by dropout in the network; here they differ by the modality that is left out.

Formulas and decisions: docs/explanation/quality.md.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import ndimage

from nnunet_moe.labels.volumes import axes_in_space

EXPECTED_DICE, ENTROPY_INSIDE, ENTROPY_AROUND = "expected_dice", "entropy_inside", "entropy_around"
SIZE, COMPONENTS = "size_mm3", "components"
MEAN_AGREEMENT, LEAST_AGREEMENT = "mean_agreement", "least_agreement"
OF_PROBABILITIES = (EXPECTED_DICE, ENTROPY_INSIDE, ENTROPY_AROUND)
FAST = (*OF_PROBABILITIES, SIZE, COMPONENTS)
"""Signals that need no further pass of the network."""
AGREEMENT = (MEAN_AGREEMENT, LEAST_AGREEMENT)
"""Signals that need one more segmentation for each available modality."""
SIGNALS = (*FAST, *AGREEMENT)

BAND = 2
"""Width of the band around a segmentation, in voxels of the network's grid."""

Label = int | tuple[int, ...]
Signals = dict[str, float]
"""Name of a signal -> value, NaN if it is not defined."""


def expected_dice(probability: np.ndarray, inside: np.ndarray) -> float:
    """Compute the Dice that a segmentation has with references drawn from the probabilities, as a ratio of means.

    `2 sum(p inside) / (number inside + sum(p))`, from 0 to 1. It is 1 if p is 1 inside and 0 outside. An empty
    segmentation has a Dice of 1 if the reference is empty, too, and otherwise 0. It gets the probability of an empty
    reference, `product(1 - p)`.

    Args:
        probability: of the label in each voxel, `(*space)`.
        inside: the segmentation, `(*space)` bool.
    """
    number = int(np.count_nonzero(inside))
    if number == 0:
        return float(np.prod(1 - probability, dtype=float))
    return float(2 * probability[inside].sum(dtype=float) / (number + probability.sum(dtype=float)))


def entropies(probability: np.ndarray, inside: np.ndarray) -> tuple[float, float]:
    """Compute the mean entropy of "label or not" inside a segmentation, and in a band around it, in bits (0 to 1).

    The voxel with the largest probability stands for an empty segmentation. The band is empty, and its entropy 0, if
    the segmentation covers the image.

    Args:
        probability: of the label in each voxel, `(*space)`.
        inside: the segmentation, `(*space)` bool.
    """
    if not inside.any():
        inside = np.zeros_like(inside)
        inside[np.unravel_index(int(probability.argmax()), inside.shape)] = True
    box = _box(inside, BAND)
    probability, inside = probability[box], inside[box]
    around = ndimage.binary_dilation(inside, iterations=BAND) & ~inside
    return _mean_entropy(probability[inside]), _mean_entropy(probability[around])


def agreement(first: np.ndarray, second: np.ndarray) -> float:
    """Compute the Dice of two segmentations of one label; 1 if both are empty.

    Args:
        first: `(*space)` bool.
        second: `(*space)` bool.
    """
    total = int(np.count_nonzero(first)) + int(np.count_nonzero(second))
    return 2 * int(np.count_nonzero(first & second)) / total if total else 1.0


def signals_of_probabilities(
    probabilities: np.ndarray, segmentation: np.ndarray, labels: Mapping[str, tuple[int, Label]]
) -> dict[str, Signals]:
    """Compute the signals in `OF_PROBABILITIES` of each label or region.

    Args:
        probabilities: the outputs of the network, `(C, *space)`, after softmax or, for regions, sigmoid.
        segmentation: labels `(*space)` on the same grid.
        labels: name -> its output among the C, and its label or region.
    """
    found = {}
    for name, (output, label) in labels.items():
        inside = np.isin(segmentation, label)
        values = expected_dice(probabilities[output], inside), *entropies(probabilities[output], inside)
        found[name] = dict(zip(OF_PROBABILITIES, values, strict=True))
    return found


def signals_of_shape(
    segmentation: np.ndarray, spacing: Sequence[float], labels: Mapping[str, Label]
) -> dict[str, Signals]:
    """Compute the size (mm3; mm2 in 2D) and the number of connected components of each label or region.

    Voxels that share a corner are connected.

    Args:
        segmentation: labels `(*space)`, as nnU-Net's reader gives them.
        spacing: spacing of the axes in mm, as nnU-Net's reader gives it.
        labels: name -> label or region.
    """
    voxel, found = math.prod(axes_in_space(segmentation.shape, spacing)), {}
    for name, label in labels.items():
        inside = np.isin(segmentation, label)
        number = 0
        if inside.any():
            _, number = ndimage.label(inside[_box(inside, 0)], np.ones((3,) * inside.ndim))  # pyright: ignore
        found[name] = {SIZE: float(np.count_nonzero(inside)) * voxel, COMPONENTS: float(number)}
    return found


def with_agreement(
    signals: Mapping[str, Signals],
    segmentation: np.ndarray,
    others: Sequence[np.ndarray],
    labels: Mapping[str, Label],
) -> dict[str, Signals]:
    """Add how far segmentations agree with others of the same case: the signals in `AGREEMENT`.

    Args:
        signals: name of a label or region -> its other signals.
        segmentation: labels `(*space)`, from all available modalities.
        others: labels `(*space)`, each from all modalities but one. Without them, the signals are NaN.
        labels: name -> label or region, with all names of `signals`.
    """
    found = {}
    for name, measured in signals.items():
        label = labels[name]
        inside = np.isin(segmentation, label)
        values = [agreement(inside, np.isin(other, label)) for other in others]
        mean, least = (float(np.mean(values)), min(values)) if values else (math.nan, math.nan)
        found[name] = {**measured, MEAN_AGREEMENT: mean, LEAST_AGREEMENT: least}
    return found


def _mean_entropy(probability: np.ndarray) -> float:
    if not probability.size:
        return 0.0
    p = probability.astype(float)
    entropy = sum(np.where(q > 0, -q * np.log2(np.where(q > 0, q, 1)), 0) for q in (p, 1 - p))
    return float(np.mean(entropy))


def _box(inside: np.ndarray, margin: int) -> tuple[slice, ...]:
    """Return the box around the true voxels, of which there is at least one, with a margin in voxels."""
    box = []
    for axis in range(inside.ndim):
        where = np.flatnonzero(inside.any(axis=tuple(set(range(inside.ndim)) - {axis})))
        box.append(slice(max(0, int(where[0]) - margin), int(where[-1]) + 1 + margin))
    return tuple(box)
