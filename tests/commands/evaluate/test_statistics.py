"""Paired tests and Shapley values, held to values computed by hand."""

import math
from collections import Counter

import numpy as np
import pytest

from nnunet_moe.commands.evaluate.statistics import (
    compare,
    gap_closed,
    holm,
    loss_when_missing,
    nested_pairs,
    rank_biserial,
    ratio_error,
    score_alone,
    shapley_values,
    share_worse,
)
from nnunet_moe.modalities.codes import all_codes


def test_the_error_of_a_ratio_computed_by_hand():
    """Sums 3 and 1 over counts 3 and 1 deviate by 0 from the ratio 1; sums 4 and 0 over 3 and 1 by 1 and -1."""
    assert ratio_error(np.array([3.0, 1.0]), np.array([3, 1])) == 0
    assert ratio_error(np.array([4.0, 0.0]), np.array([3, 1])) == pytest.approx(math.sqrt(2 / 1 * (1 + 1)) / 4)
    assert math.isnan(ratio_error(np.array([4.0, 0.0]), np.array([3, 0])))


def test_with_one_value_for_each_unit_it_is_the_standard_error_of_the_mean():
    values = np.array([0.2, 0.9, 0.4, 0.4])
    expected = values.std(ddof=1) / math.sqrt(4)
    assert ratio_error(values, np.ones(4)) == pytest.approx(expected)
    assert ratio_error(3 * values, np.full(4, 3)) == pytest.approx(expected), "a value that is there three times is one"


def test_the_share_of_a_patient_whose_cases_are_equal_counts_once_for_the_error():
    changes = np.array([[-0.5, 0.5], [0.5, 0.5], [-0.5, -0.5]])
    once, thrice = share_worse(changes), share_worse(np.repeat(changes, 3, axis=0), np.repeat([0, 1, 2], 3))
    assert (thrice.share, thrice.standard_error) == pytest.approx((once.share, once.standard_error))
    assert (thrice.pairs, thrice.cases) == (18, 9)


def test_a_comparison_computed_by_hand():
    """Differences 1, 2, -3, 4 and a 0 that is left out: W+ = 7 and W- = 3; of 2^4 signs 5 give W- of 3 or less."""
    comparison = compare([2, 4, 1, 9, 5], [1, 2, 4, 5, 5])
    assert comparison is not None
    assert (comparison.pairs, comparison.mean_difference, comparison.median_difference) == (5, 0.8, 1)
    assert comparison.effect_size == pytest.approx((7 - 3) / 10)
    assert comparison.p == pytest.approx(2 * 5 / 2**4)


def wilcoxons_p(differences, *, exact):
    """The two-sided p-value of W+, the sum of some ranks: each rank counts or not, with equal chances."""
    sizes = np.abs(differences[differences != 0])
    twice = [int(2 * (sizes < size).sum() + (sizes == size).sum() + 1) for size in sizes]  # ranks of ties end in a half
    found = sum(rank for rank, positive in zip(twice, differences[differences != 0] > 0, strict=True) if positive)
    if not exact:
        z = (found - sum(twice) / 2) / math.sqrt(sum(rank**2 for rank in twice) / 4)
        return math.erfc(abs(z) / math.sqrt(2))
    ways = Counter({0: 1})
    for rank in twice:
        ways += Counter({total + rank: number for total, number in ways.items()})
    at_most = sum(number for total, number in ways.items() if total <= found)
    at_least = sum(number for total, number in ways.items() if total >= found)
    return min(1, 2 * min(at_most, at_least) / 2 ** len(twice))


@pytest.mark.parametrize(
    ("pairs", "repeated", "zeros", "exact"),
    [
        *[(2, 0, 1, True), (13, 0, 0, True), (13, 4, 0, True), (13, 2, 3, True), (50, 0, 0, True)],
        *[(14, 1, 0, False), (14, 0, 1, False), (50, 1, 0, False), (51, 0, 0, False)],
    ],
)
def test_the_p_value_is_exact_where_the_docs_say_so(pairs, repeated, zeros, exact):
    differences = np.random.default_rng(pairs).permutation(np.arange(pairs) + 1.0)
    differences[::3] *= -1
    differences[: 2 * repeated : 2] = -differences[1 : 2 * repeated : 2]
    differences[pairs - zeros :] = 0
    comparison = compare(differences, np.zeros(pairs))
    assert comparison is not None
    assert comparison.p == pytest.approx(wilcoxons_p(differences, exact=exact), rel=1e-9)
    assert comparison.p != pytest.approx(wilcoxons_p(differences, exact=not exact), rel=1e-4)


def test_a_comparison_turned_round():
    first, second = np.random.default_rng(0).random((2, 30))
    there, back = compare(first, second), compare(second, first)
    assert there is not None and back is not None
    assert there.p == back.p and there.effect_size == -back.effect_size
    assert there.mean_difference == -back.mean_difference


def test_differences_that_are_equal_on_paper_are_ties():
    """0.3 - 0.2 and 0.2 - 0.1 differ in binary; as ties of opposite sign they cancel."""
    assert 0.3 - 0.2 != 0.2 - 0.1
    comparison = compare([0.3, 0.1], [0.2, 0.2])
    assert comparison is not None and comparison.effect_size == 0


def test_equal_models_do_not_differ():
    comparison = compare([0.5, 0.7], [0.5, 0.7])
    assert comparison is not None
    assert (comparison.p, comparison.effect_size, comparison.mean_difference) == (1, 0, 0)
    assert compare([], []) is None


def test_the_effect_size_is_one_if_the_first_is_better_each_time():
    assert rank_biserial(np.array([0.1, 3.0, 0.2])) == 1
    assert rank_biserial(np.array([-0.1, -3.0])) == -1
    assert rank_biserial(np.array([0.0])) == 0


def test_holms_correction_computed_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.9]) == pytest.approx([1, 1])
    assert holm([]) == []


def test_the_gap_closed():
    assert gap_closed(0.66, 0.6, 0.7) == pytest.approx(60)
    assert gap_closed(0.5, 0.6, 0.7) == pytest.approx(-100)
    assert gap_closed(0.8, 0.6, 0.7) == pytest.approx(200)
    assert math.isnan(gap_closed(0.8, 0.7, 0.7)), "there is no gap to close"


A, B, AB = (True, False), (False, True), (True, True)


def test_the_worth_of_two_modalities_computed_by_hand():
    scores = {A: 0.2, B: 0.5, AB: 0.6}
    assert shapley_values(scores) == pytest.approx([(0.2 + 0.1) / 2, (0.5 + 0.4) / 2])
    assert [loss_when_missing(scores, modality) for modality in (0, 1)] == pytest.approx([0.1, 0.4])
    assert [score_alone(scores, modality) for modality in (0, 1)] == [0.2, 0.5]


@pytest.mark.parametrize("num_modalities", [1, 3, 5])
def test_shapley_values_sum_to_the_complete_score_and_are_additive(num_modalities):
    codes, rng = all_codes(num_modalities), np.random.default_rng(0)
    scores = dict(zip(codes, rng.random(len(codes)), strict=True))
    assert sum(shapley_values(scores)) == pytest.approx(scores[codes[-1]])
    worth = rng.random(num_modalities)
    additive = {code: float(worth[np.array(code)].sum()) for code in codes}
    assert shapley_values(additive) == pytest.approx(list(worth))


def test_a_single_modality_cannot_be_missing():
    assert math.isnan(loss_when_missing({(True,): 0.5}, 0)) and score_alone({(True,): 0.5}, 0) == 0.5


def test_without_all_codes_there_is_no_shapley_value():
    assert all(math.isnan(value) for value in shapley_values({A: 0.2, AB: 0.6}))
    assert math.isnan(loss_when_missing({A: 0.2, AB: 0.6}, 0))
    assert loss_when_missing({A: 0.2, AB: 0.6}, 1) == pytest.approx(0.4)


def test_nested_pairs_are_each_code_with_those_that_have_all_of_it_and_more():
    assert nested_pairs([A, AB, B]) == [(A, AB), (B, AB)]
    assert nested_pairs([A, B]) == [] and nested_pairs([AB]) == []
    for number in (
        2,
        3,
        4,
    ):  # a modality is in both, only in the larger one, or in none: 3^K, minus equal and empty ones
        assert len(nested_pairs(all_codes(number))) == 3**number - 2 * 2**number + 1


def test_the_share_of_falls_computed_by_hand():
    """Case a falls in 1 of 3 pairs, b in 1 of 1, c has none: 2 of 4. Residuals are 1 - 3/2 and 1 - 1/2."""
    nan = math.nan
    worse = share_worse(np.array([[-0.02, -0.005, 0.3], [-0.5, nan, nan], [nan, nan, nan]]))
    assert (worse.share, worse.pairs, worse.cases) == (0.5, 4, 2)
    assert worse.standard_error == pytest.approx(math.sqrt(2 * (0.25 + 0.25)) / 4)
    changes = np.random.default_rng(0).normal(size=(9, 12))
    of_cases = (changes < -0.01).mean(axis=1)
    assert share_worse(changes).standard_error == pytest.approx(of_cases.std(ddof=1) / 3)


def test_a_fall_of_exactly_one_point_is_not_worse():
    assert 0.30 - 0.31 < -0.01, "in binary it is more than a point"
    assert share_worse(np.array([[0.30 - 0.31]])).share == 0
    assert share_worse(np.array([[0.30 - 0.3101]])).share == 1


@pytest.mark.parametrize("changes", [np.empty((0, 0)), np.full((3, 2), math.nan)])
def test_without_pairs_there_is_no_share(changes):
    worse = share_worse(changes)
    assert math.isnan(worse.share) and math.isnan(worse.standard_error) and (worse.pairs, worse.cases) == (0, 0)
