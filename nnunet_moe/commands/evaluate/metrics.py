"""The metrics of one segmentation against its reference. Definitions and sources: docs/explanation/metrics.md.

Whether a metric is defined depends on the reference alone, never on the prediction. So the means of two models over the
same cases are means over the same numbers of values, and a prediction cannot improve a mean by dropping out of it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike
from scipy import ndimage
from surface_distance import compute_robust_hausdorff, compute_surface_dice_at_tolerance, compute_surface_distances

from nnunet_moe.commands.evaluate.metric_settings import CONNECTIVITIES, MetricSettings

Number = TypeVar("Number", float, np.ndarray)


@dataclass(frozen=True)
class SegmentationScores:
    """One label of one case; NaN where a metric is not defined."""

    dsc: float
    """Dice, 0 to 1; 1 where both are empty."""
    ppv: float
    """Share of predicted voxels that are right; an empty prediction has 1 if the reference is empty too, else 0."""
    sensitivity: float
    """Share of reference voxels found; not defined for an empty reference."""
    ltpr: float
    """Share of reference lesions that the prediction touches; not defined without any."""
    lfpr: float
    """Share of predicted lesions that touch no reference; without any: 0 if the reference has none either, else 1."""
    lesion_f1: float
    """Harmonic mean of LTPR and 1 - LFPR; for a reference without lesions 1 if none is predicted, else 0."""
    lesions: int
    """Predicted lesions counted."""
    reference_lesions: int
    volume_mm3: float
    """Predicted volume (mm2 in 2D)."""
    reference_volume_mm3: float
    volume_difference_mm3: float
    """Predicted minus reference."""
    volume_difference_percent: float
    """The same, of the reference; not defined for an empty one."""
    surface_dice: float
    """Share of both surfaces within the tolerance of the other; 1 if both are empty, 0 if one is."""
    hd95_mm: float
    """95th percentile of the distances between the surfaces, the larger of both directions; 0 if both are empty, the
    image's diagonal if one is."""


METRICS = tuple(field.name for field in fields(SegmentationScores))


def score_segmentation(
    prediction: np.ndarray, reference: np.ndarray, spacing: Sequence[float], settings: MetricSettings
) -> SegmentationScores:
    """Score one label of one case.

    Args:
        prediction: bool, `(*space)` in 2D or 3D.
        reference: bool, of the same shape.
        spacing: mm between voxels along each axis.
        settings: what the definitions leave open.

    Raises:
        ValueError: shapes that differ, or a spacing of another length.
    """
    if not prediction.shape == reference.shape or len(spacing) != reference.ndim:
        raise ValueError(
            f"Prediction {prediction.shape}, reference {reference.shape} and spacing {tuple(spacing)} do not belong "
            "together."
        )
    predicted, true, both = (int(np.count_nonzero(mask)) for mask in (prediction, reference, prediction & reference))
    voxel = math.prod(spacing)
    surface_dice, hd95 = _compare_surfaces(prediction, reference, spacing, settings.tolerance_mm)
    return SegmentationScores(
        dsc=2 * both / (predicted + true) if predicted + true else 1.0,
        ppv=both / predicted if predicted else float(true == 0),
        sensitivity=both / true if true else math.nan,
        **_compare_lesions(prediction, reference, voxel, settings),
        volume_mm3=predicted * voxel,
        reference_volume_mm3=true * voxel,
        volume_difference_mm3=(predicted - true) * voxel,
        volume_difference_percent=100 * (predicted - true) / true if true else math.nan,
        surface_dice=surface_dice,
        hd95_mm=hd95,
    )


def composite_without_correlation(dsc: Number, ppv: Number, ltpr: Number, lfpr: Number) -> Number:
    """The part of the CScore that a case has: DSC/8 + PPV/8 + LTPR/4 + (1 - LFPR)/4, 0 to 0.75; arrays case by case."""
    return dsc / 8 + ppv / 8 + ltpr / 4 + (1 - lfpr) / 4


def volume_correlation(volumes: ArrayLike, reference_volumes: ArrayLike) -> float:
    """Pearson correlation of volumes over cases, -1 to 1.

    NaN for fewer than three cases, with which it is 1 or -1 whatever the volumes, or if the reference's are all alike.
    0 if only the predicted ones are all alike.
    """
    volume, reference = np.asarray(volumes, dtype=float), np.asarray(reference_volumes, dtype=float)
    if len(reference) < 3 or np.ptp(reference) == 0:
        return math.nan
    return 0.0 if np.ptp(volume) == 0 else float(np.corrcoef(volume, reference)[0, 1])


def _compare_lesions(
    prediction: np.ndarray, reference: np.ndarray, voxel_mm3: float, settings: MetricSettings
) -> dict[str, Any]:
    predicted, num_predicted = _lesions(prediction, voxel_mm3, settings)
    true, num_true = _lesions(reference, voxel_mm3, settings)
    touching = (predicted > 0) & (true > 0)
    if num_true == 0:
        ltpr, lfpr, f1 = math.nan, float(num_predicted > 0), float(num_predicted == 0)
    else:
        ltpr = len(np.unique(true[touching])) / num_true
        precision = len(np.unique(predicted[touching])) / num_predicted if num_predicted else 0.0
        lfpr = 1 - precision
        f1 = 2 * ltpr * precision / (ltpr + precision) if ltpr else 0.0
    return {"ltpr": ltpr, "lfpr": lfpr, "lesion_f1": f1, "lesions": num_predicted, "reference_lesions": num_true}


def _lesions(mask: np.ndarray, voxel_mm3: float, settings: MetricSettings) -> tuple[np.ndarray, int]:
    """The mask's lesions numbered, 0 elsewhere and in those too small to count, and how many are counted."""
    neighbours = ndimage.generate_binary_structure(mask.ndim, min(CONNECTIVITIES[settings.connectivity], mask.ndim))
    labels = np.empty(mask.shape, dtype=np.int32)
    ndimage.label(mask, neighbours, output=labels)
    sizes = np.bincount(labels[mask], minlength=1)
    # a lesion of exactly the smallest volume counts, whatever the rounding of its spacing
    counted = sizes * voxel_mm3 >= settings.min_lesion_mm3 * (1 - 1e-6)
    counted[0] = False
    return np.where(np.take(counted, labels), labels, 0), int(counted.sum())


def _compare_surfaces(
    prediction: np.ndarray, reference: np.ndarray, spacing: Sequence[float], tolerance_mm: float
) -> tuple[float, float]:
    """Surface Dice and HD95."""
    empty = [not mask.any() for mask in (prediction, reference)]
    if all(empty):
        return 1.0, 0.0
    if any(empty):
        return 0.0, math.dist((0,) * len(spacing), np.multiply(reference.shape, spacing))
    distances = compute_surface_distances(reference, prediction, spacing)
    return (
        float(compute_surface_dice_at_tolerance(distances, tolerance_mm)),
        float(compute_robust_hausdorff(distances, 95)),
    )
