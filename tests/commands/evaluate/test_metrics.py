"""The metrics, held to cases computed by hand."""

import math

import numpy as np
import pytest

from facts import facts
from nnunet_moe.commands.evaluate.metric_settings import MetricSettings
from nnunet_moe.commands.evaluate.metrics import (
    METRICS,
    composite_without_correlation,
    score_segmentation,
    volume_correlation,
)
from nnunet_moe.errors import SettingsError

SHAPE = (12, 12, 12)
ISOTROPIC = (1.0, 1.0, 1.0)


def mask(*boxes, shape=SHAPE):
    """A mask that is true in boxes, each a tuple of slices."""
    result = np.zeros(shape, dtype=bool)
    for box in boxes:
        result[box] = True
    return result


def cube(corner, size):
    return tuple(slice(start, start + size) for start in corner)


def score(prediction, reference, spacing=ISOTROPIC, **settings):
    return score_segmentation(prediction, reference, spacing, MetricSettings(**settings))


REFERENCE = mask(cube((1, 1, 1), 2), cube((6, 6, 6), 2), cube((10, 1, 10), 1), cube((1, 10, 1), 1))  # 18 voxels
PREDICTION = mask(cube((1, 1, 2), 2), cube((7, 7, 7), 2), cube((4, 1, 1), 1), cube((10, 10, 4), 1), cube((4, 4, 10), 1))


def test_lesion_metrics_of_a_case_computed_by_hand():
    """Four reference lesions, two touched (4 and 1 voxels); five predicted ones, three of them false."""
    scores = score(PREDICTION, REFERENCE, spacing=(1.0, 2.0, 0.5))
    assert scores.dsc == pytest.approx(2 * 5 / (19 + 18))
    assert scores.ppv == pytest.approx(5 / 19)
    assert scores.sensitivity == pytest.approx(5 / 18)
    assert (scores.lesions, scores.reference_lesions) == (5, 4)
    assert scores.ltpr == pytest.approx(2 / 4)
    assert scores.lfpr == pytest.approx(3 / 5)
    assert scores.lesion_f1 == pytest.approx(2 * 0.5 * 0.4 / 0.9)
    assert scores.volume_mm3 == 19 and scores.reference_volume_mm3 == 18  # voxels of 1 mm3
    assert scores.volume_difference_mm3 == 1
    assert scores.volume_difference_percent == pytest.approx(100 / 18)


def test_one_predicted_lesion_may_find_two_and_two_may_find_one():
    two, bridge = mask(cube((1, 1, 1), 1), cube((1, 1, 4), 1)), mask((1, 1, slice(1, 5)))
    merged = score(bridge, two)
    assert (merged.ltpr, merged.lfpr, merged.lesions, merged.reference_lesions) == (1, 0, 1, 2)
    split = score(two, bridge)
    assert (split.ltpr, split.lfpr, split.lesions, split.reference_lesions) == (1, 0, 2, 1)


@pytest.mark.parametrize(("connectivity", "lesions"), [(6, 3), (18, 2), (26, 1)])
def test_connectivity_says_what_one_lesion_is(connectivity, lesions):
    """The second voxel shares an edge with the first, the third a corner with the second."""
    chain = mask((1, 1, 1), (1, 2, 2), (2, 3, 3))
    assert score(chain, chain, connectivity=connectivity).reference_lesions == lesions


def test_smaller_lesions_are_not_counted_but_their_voxels_are():
    spacing = (1.0, 1.0, 1.5)  # 1.5 mm3 a voxel: lesions of 12, 12, 1.5 and 1.5 mm3
    scores = score(PREDICTION, REFERENCE, spacing, min_lesion_mm3=1.6)
    assert (scores.lesions, scores.reference_lesions, scores.ltpr, scores.lfpr) == (2, 2, 1, 0)
    assert scores.dsc == score(PREDICTION, REFERENCE, spacing).dsc
    assert score(PREDICTION, REFERENCE, spacing, min_lesion_mm3=1.5).reference_lesions == 4


def test_a_lesion_of_exactly_the_smallest_volume_counts_whatever_its_spacing_rounds_to():
    spacing = (0.1, 0.1, 0.1)
    assert 0.1 * 0.1 * 0.1 * 3 != 0.003
    three = mask((1, 1, slice(1, 4)))
    assert score(three, three, spacing, min_lesion_mm3=0.003).lesions == 1


NOTHING = mask()


def test_both_empty_is_perfect_agreement():
    scores = score(NOTHING, NOTHING)
    assert (scores.dsc, scores.ppv, scores.lfpr, scores.lesion_f1, scores.surface_dice) == (1, 1, 0, 1, 1)
    assert scores.hd95_mm == 0
    assert math.isnan(scores.sensitivity) and math.isnan(scores.ltpr) and math.isnan(scores.volume_difference_percent)


def test_a_prediction_where_there_is_nothing_is_all_false():
    scores = score(PREDICTION, NOTHING, spacing=(3.0, 4.0, 12.0))
    assert (scores.dsc, scores.ppv, scores.lfpr, scores.lesion_f1, scores.surface_dice) == (0, 0, 1, 0, 0)
    assert scores.hd95_mm == pytest.approx(12 * 13)  # the diagonal of 12 voxels of 3, 4 and 12 mm
    assert math.isnan(scores.sensitivity) and math.isnan(scores.ltpr)


def test_nothing_predicted_where_there_are_lesions_earns_nothing():
    scores = score(NOTHING, REFERENCE, spacing=(3.0, 4.0, 12.0))
    assert (scores.dsc, scores.ppv, scores.sensitivity, scores.ltpr, scores.lfpr) == (0, 0, 0, 0, 1)
    assert (scores.lesion_f1, scores.surface_dice, scores.volume_difference_percent) == (0, 0, -100)
    assert scores.hd95_mm == pytest.approx(12 * 13)
    assert composite_without_correlation(scores.dsc, scores.ppv, scores.ltpr, scores.lfpr) == 0


def test_what_is_defined_depends_on_the_reference_alone():
    rng = np.random.default_rng(0)
    predictions = [NOTHING, mask(cube((0, 0, 0), 12)), *[rng.random(SHAPE) < p for p in (0.01, 0.3)]]
    for reference in (NOTHING, REFERENCE, ~NOTHING):
        defined = {tuple(math.isnan(getattr(score(p, reference), name)) for name in METRICS) for p in predictions}
        assert len(defined) == 1


def test_without_lesions_large_enough_there_is_nothing_to_find():
    """All too small: as an empty reference for the lesion metrics, and as itself for the voxels."""
    scores = score(NOTHING, REFERENCE, min_lesion_mm3=9)
    assert math.isnan(scores.ltpr) and (scores.lfpr, scores.lesion_f1, scores.sensitivity) == (0, 1, 0)


def test_surfaces_of_a_shifted_cube():
    """A cube of 6 shifted by 2 mm: only the faces across the shift are 2 mm off."""
    reference, prediction = mask(cube((1, 3, 3), 6)), mask(cube((3, 3, 3), 6))
    assert score(prediction, reference, tolerance_mm=2).surface_dice == 1
    within_one = score(prediction, reference, tolerance_mm=1).surface_dice
    assert 0.5 < within_one < 0.8
    assert score(prediction, reference).hd95_mm == pytest.approx(2)
    assert score(prediction, reference, (2.5, 1, 1)).hd95_mm == pytest.approx(5)  # in mm, not in voxels
    same = score(reference, reference, tolerance_mm=0)
    assert (same.surface_dice, same.hd95_mm) == (1, 0)


def test_images_of_two_dimensions():
    reference = mask((slice(1, 3), slice(1, 3)), (5, 5), shape=(8, 8))
    prediction = mask((slice(1, 3), slice(2, 4)), (6, 6), shape=(8, 8))
    scores = score(prediction, reference, (0.5, 0.5))
    assert scores.dsc == pytest.approx(2 * 2 / 10)
    assert (scores.ltpr, scores.lfpr, scores.volume_mm3) == (0.5, 0.5, 5 * 0.25)
    diagonal = mask((1, 1), (2, 2), shape=(8, 8))
    assert score(diagonal, diagonal, (1, 1), connectivity=6).lesions == 2
    assert score(diagonal, diagonal, (1, 1), connectivity=18).lesions == 1


def test_a_perfect_segmentation_has_all_but_the_correlation():
    scores = score(REFERENCE, REFERENCE)
    assert composite_without_correlation(scores.dsc, scores.ppv, scores.ltpr, scores.lfpr) == 0.75
    assert composite_without_correlation(0.8, 0.4, 0.5, 0.3) == pytest.approx(0.1 + 0.05 + 0.125 + 0.175)


def test_the_volume_correlation():
    assert volume_correlation([2, 4, 6], [1, 2, 3]) == pytest.approx(1)
    assert volume_correlation([1, 2, 2], [1, 2, 3]) == pytest.approx(math.sqrt(3) / 2)
    assert math.isnan(volume_correlation([1, 2], [1, 3])), "two cases always lie on a line"
    assert math.isnan(volume_correlation([1, 2, 3], [5, 5, 5]))
    assert volume_correlation([5, 5, 5], [1, 2, 3]) == 0


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"connectivity": 8}, ("connectivity", 8, 6, 18, 26)),
        ({"min_lesion_mm3": -1}, ("min_lesion_mm3", "-1")),
        ({"tolerance_mm": math.nan}, ("tolerance_mm", "nan")),
    ],
)
def test_settings_out_of_range_are_errors(setting, said):
    with pytest.raises(SettingsError, match=facts(*said)):
        MetricSettings(**setting)


def test_arrays_that_do_not_belong_together_are_an_error():
    with pytest.raises(ValueError, match=facts("belong together")):
        score(PREDICTION, REFERENCE[1:])
    with pytest.raises(ValueError, match=facts("belong together")):
        score(PREDICTION, REFERENCE, (1, 1))
