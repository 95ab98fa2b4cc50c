"""The metrics of one segmentation. Definitions and sources: docs/explanation/metrics.md.

Only the reference segmentation decides whether a metric is defined, never the prediction. So the means of two models
over the same cases cover the same number of values. A bad prediction cannot improve a mean by being undefined.
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
    """The scores of one label of one case; NaN for a metric that is not defined."""

    dsc: float
    """Dice, 0 to 1; 1 if both segmentations are empty."""
    ppv: float
    """Share of predicted voxels that are correct. For an empty prediction: 1 if the reference is empty too, else 0."""
    sensitivity: float
    """Share of reference voxels that were found; not defined for an empty reference."""
    ltpr: float
    """Share of reference lesions that the prediction touches; not defined without reference lesions."""
    lfpr: float
    """Share of predicted lesions that touch no reference lesion.

    Without predicted lesions: 0 if the reference has none either, else 1.
    """
    lesion_f1: float
    """Harmonic mean of LTPR and 1 - LFPR. For a reference without lesions: 1 if none is predicted, else 0."""
    lesions: int
    """Number of predicted lesions."""
    reference_lesions: int
    volume_mm3: float
    """Predicted volume (mm2 in 2D)."""
    reference_volume_mm3: float
    volume_difference_mm3: float
    """Predicted minus reference volume."""
    volume_difference_percent: float
    """The difference in percent of the reference volume; not defined for an empty reference."""
    surface_dice: float
    """Share of both surfaces that lies within the tolerance of the other; 1 if both are empty, 0 if only one is."""
    hd95_mm: float
    """95th percentile of the distances between the surfaces, the larger value of both directions.

    It is 0 if both are empty, and the diagonal of the image if only one is.
    """


METRICS = tuple(field.name for field in fields(SegmentationScores))


def score_segmentation(
    prediction: np.ndarray, reference: np.ndarray, spacing: Sequence[float], settings: MetricSettings
) -> SegmentationScores:
    """Score one label of one case.

    Args:
        prediction: bool, `(*space)` in 2D or 3D.
        reference: bool, of the same shape.
        spacing: mm between voxels along each axis.
        settings: the settings of the metrics.

    Raises:
        ValueError: the shapes differ, or the spacing has another length.
    """
    if not prediction.shape == reference.shape or len(spacing) != reference.ndim:
        raise ValueError(
            f"Prediction {prediction.shape}, reference {reference.shape} and spacing {tuple(spacing)} do not belong "
            "together. Shapes must be equal, and the spacing needs one value for each axis."
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
    """Compute the CScore of a case without Corr: DSC/8 + PPV/8 + LTPR/4 + (1 - LFPR)/4, from 0 to 0.75.

    Arrays hold one value for each case.
    """
    return dsc / 8 + ppv / 8 + ltpr / 4 + (1 - lfpr) / 4


def volume_correlation(volumes: ArrayLike, reference_volumes: ArrayLike) -> float:
    """Compute the Pearson correlation of volumes over cases, from -1 to 1.

    It is NaN for fewer than three cases, where it would be 1 or -1 for any volumes. It is also NaN if all reference
    volumes are equal. It is 0 if only the predicted volumes are all equal.
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
    """Number the lesions of a mask, and return the numbers and how many lesions count.

    Lesions that are too small to count get 0, as the background does.
    """
    neighbours = ndimage.generate_binary_structure(mask.ndim, min(CONNECTIVITIES[settings.connectivity], mask.ndim))
    labels = np.empty(mask.shape, dtype=np.int32)
    ndimage.label(mask, neighbours, output=labels)
    sizes = np.bincount(labels[mask], minlength=1)
    # a lesion of exactly the smallest volume counts, even if the rounding of its spacing makes it smaller
    counted = sizes * voxel_mm3 >= settings.min_lesion_mm3 * (1 - 1e-6)
    counted[0] = False
    return np.where(np.take(counted, labels), labels, 0), int(counted.sum())


def _compare_surfaces(
    prediction: np.ndarray, reference: np.ndarray, spacing: Sequence[float], tolerance_mm: float
) -> tuple[float, float]:
    """Compute the surface Dice and HD95."""
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
