"""Signals of trust against values computed by other means: by hand, by sampling, and voxel by voxel."""

import itertools
import math

import numpy as np
import pytest

from nnunet_moe.quality.signals import (
    AGREEMENT,
    BAND,
    agreement,
    entropies,
    expected_dice,
    signals_of_probabilities,
    signals_of_shape,
    with_agreement,
)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def entropy(p):
    return 0.0 if p in (0, 1) else -p * math.log2(p) - (1 - p) * math.log2(1 - p)


def test_the_expected_dice_is_the_ratio_of_the_means_over_all_references_that_the_probabilities_allow(rng):
    """Each of 2^6 references has the probability that independent voxels give it."""
    probability, inside = rng.random(6), np.array([1, 1, 0, 1, 0, 0], dtype=bool)
    both = total = 0.0
    for reference in itertools.product((0, 1), repeat=6):
        chance = math.prod(p if voxel else 1 - p for p, voxel in zip(probability, reference, strict=True))
        both += chance * sum(voxel for voxel, is_in in zip(reference, inside, strict=True) if is_in)
        total += chance * (sum(reference) + 3)
    assert expected_dice(probability, inside) == pytest.approx(2 * both / total, rel=1e-12)


def test_the_expected_dice_of_certain_probabilities_is_the_dice_with_them(rng):
    reference, inside = rng.random((2, 4, 5, 6)) > 0.5
    assert expected_dice(reference.astype(np.float32), inside) == pytest.approx(agreement(reference, inside))


@pytest.mark.parametrize(("largest", "other", "expected"), [(0.0, 0.0, 1.0), (0.25, 0.0, 0.75), (0.5, 0.25, 0.375)])
def test_an_empty_segmentation_is_trusted_as_far_as_the_reference_is_empty_by_chance(largest, other, expected):
    probability = np.zeros((3, 12))
    probability[1, 2], probability[1, 10] = largest, other
    nothing = np.zeros((3, 12), dtype=bool)
    assert expected_dice(probability, nothing) == expected
    inside, around = entropies(probability, nothing)
    assert inside == pytest.approx(entropy(largest))
    assert around == 0


@pytest.mark.parametrize("shape", [(9, 8), (7, 8, 9), (1, 8, 9)])
def test_entropies_are_means_over_the_segmentation_and_over_voxels_within_two_steps_of_it(rng, shape):
    probability, inside = rng.random(shape), np.zeros(shape, dtype=bool)
    inside[tuple(slice(0, 1) if size == 1 else slice(3, 5) for size in shape)] = True
    places = [tuple(place) for place in np.argwhere(inside)]

    def steps(place):
        return min(sum(abs(a - b) for a, b in zip(place, other, strict=True)) for other in places)

    around = [place for place in np.ndindex(shape) if 0 < steps(place) <= BAND]
    wanted = [np.mean([entropy(probability[place]) for place in of]) for of in (places, around)]
    assert entropies(probability, inside) == pytest.approx(wanted)


def test_a_segmentation_of_the_whole_image_has_nothing_around_it():
    assert entropies(np.full((3, 3), 0.5), np.ones((3, 3), dtype=bool)) == (1, 0)


def test_labels_and_overlapping_regions_get_the_probabilities_of_their_own_outputs(rng):
    probabilities, segmentation = rng.random((2, 4, 4, 4)), rng.integers(0, 3, (4, 4, 4))
    found = signals_of_probabilities(probabilities, segmentation, {"whole": (0, (1, 2)), "core": (1, 2)})
    assert found["whole"]["expected_dice"] == expected_dice(probabilities[0], segmentation > 0)
    assert found["core"]["expected_dice"] == expected_dice(probabilities[1], segmentation == 2)


def test_components_share_at_least_a_corner_and_sizes_are_in_mm():
    segmentation = np.zeros((4, 4, 4), dtype=np.uint8)
    segmentation[0, 0, 0] = segmentation[1, 1, 1] = segmentation[3, 3, 3] = 1
    found = signals_of_shape(segmentation, (3, 2, 0.5), {"lesion": 1, "other": 2})
    assert found == {"lesion": {"size_mm3": 9, "components": 2}, "other": {"size_mm3": 0, "components": 0}}


def test_a_slice_is_measured_in_its_plane():
    slice_of_reader = np.ones((1, 2, 3), dtype=np.uint8)
    assert signals_of_shape(slice_of_reader, (1998, 1, 2), {"lesion": 1})["lesion"]["size_mm3"] == 12


def test_agreement_is_the_dice_with_each_other_segmentation_and_1_if_both_are_empty():
    whole = np.array([1, 1, 0, 0])
    others = [np.array([1, 1, 0, 0]), np.array([0, 1, 1, 0]), np.array([0, 0, 0, 0])]
    signals, labels = {"lesion": {"size_mm3": 2.0}, "other": {"size_mm3": 0.0}}, {"lesion": 1, "other": 2}
    assert with_agreement(signals, whole, others, labels) == {
        "lesion": {"size_mm3": 2, "mean_agreement": 0.5, "least_agreement": 0},
        "other": {"size_mm3": 0, "mean_agreement": 1, "least_agreement": 1},
    }
    alone = with_agreement(signals, whole, [], labels)
    assert all(math.isnan(alone["lesion"][name]) for name in AGREEMENT)
