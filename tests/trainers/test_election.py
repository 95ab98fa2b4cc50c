import math

import numpy as np
import pytest
import torch

from nnunet_moe.trainers.election import (
    CaseContent,
    cases_for_elections,
    mean_scores,
    most_frequent,
    soft_dice,
    winners,
)


def test_soft_dice_is_that_of_the_published_code():
    probabilities = torch.tensor([[0.5, 1.0, 0.0, 0.25], [0.1, 0.2, 0.3, 0.4]])
    reference = torch.tensor([[True, True, False, False], [False] * 4])
    dice = soft_dice(probabilities, reference)
    assert dice[0] == pytest.approx(2 * 1.5 / (1.75 + 2 + 1))
    assert math.isnan(dice[1])  # there is nothing of it to find
    valid = torch.tensor([True, False, True, True])
    assert soft_dice(probabilities, reference, valid)[0] == pytest.approx(2 * 0.5 / (0.75 + 1 + 1))
    assert np.isnan(soft_dice(probabilities, reference, torch.tensor([False, False, True, True]))).all()


@pytest.mark.parametrize("shape", [(6, 5), (4, 3, 5)])
def test_soft_dice_of_a_perfect_answer_nears_one_with_its_size(shape):
    reference = torch.ones(1, *shape, dtype=torch.bool)
    size = reference.sum().item()
    assert soft_dice(reference.float(), reference) == pytest.approx([2 * size / (2 * size + 1)])


def test_each_labels_winner_is_the_modality_with_the_highest_score_the_first_of_equals():
    scores = np.array([[0.1, 0.8, 0.5], [0.7, 0.8, 0.2], [0.3, 0.9, 0.5]])
    assert winners(scores) == [1, 2, 0]


def test_what_could_not_be_scored_wins_nothing():
    scores = np.array([[np.nan, np.nan, 0.2], [0.1, np.nan, np.nan], [np.nan, np.nan, 0.1]])
    assert winners(scores) == [1, None, 0]
    assert winners(np.full((3, 2), np.nan)) == [None, None]


@pytest.mark.parametrize(
    ("elected", "teacher"), [([2, 0, 2], [2]), ([1, 0, 2], [1]), ([0, 1, 1, 0], [0]), ([3], [3]), ([], [])]
)
def test_the_single_teacher_wins_most_labels_or_of_equals_the_first_label(elected, teacher):
    assert most_frequent(elected) == teacher


def test_all_modalities_are_compared_on_the_cases_that_have_them_all_where_there_are_any():
    """Three cases, two modalities, three labels."""
    nan = np.nan
    scores = np.array(
        [
            [[0.2, 0.9, nan], [0.4, nan, nan]],
            [[0.6, nan, nan], [0.2, 0.5, nan]],
            [[nan, 0.1, nan], [1.0, nan, nan]],  # an easy case that the first modality does not see
        ]
    )
    means, numbers = mean_scores(scores)
    np.testing.assert_allclose(means, [[0.4, 0.5, nan], [0.3, 0.5, nan]])
    assert numbers.tolist() == [[2, 2, 0], [2, 1, 0]]
    np.testing.assert_array_equal(mean_scores(scores[:1])[0], scores[0])


def contents(**cases):
    """`a="110 1 2"`: a case with two of three modalities and the labels 1 and 2."""
    split = {name: text.split() for name, text in cases.items()}
    return {
        name: CaseContent(tuple(digit == "1" for digit in code), frozenset(map(int, labels)))
        for name, (code, *labels) in split.items()
    }


def taken(cases, number, order, most=20):
    return cases_for_elections(cases, number / len(cases), most, order)


def test_elections_take_cases_with_all_modalities_and_every_label():
    cases = contents(a="111", b="111 1", c="110 1 2", d="111 2", e="111 1 2", f="111 1 2", g="111 1 2")
    for order in (list("abcdefg"), list("gfedcba")):
        (first, *_) = taken(cases, 3, order)
        assert first == next(case for case in order if case in "efg"), "the first of those that show most"
        assert "a" not in taken(cases, 6, order), "a case without labels tells nothing"


def test_of_cases_that_show_as_much_those_with_most_modalities_are_taken():
    cases = contents(a="110 1", b="101 1", c="011 1", d="100 1 2", e="111 3", f="111 3", g="110 1", h="100 1 2")
    assert taken(cases, 1, list("deabcfgh")) == ["e"], "three pairs"
    cases = contents(a="100 1 2", b="110 1", c="110 1", d="100 1 2")
    assert taken(cases, 1, list("abcd")) == ["b"] and taken(cases, 1, list("dcab")) == ["c"], "of two pairs each"


def test_more_are_taken_than_wanted_until_every_modality_and_label_is_shown():
    cases = contents(**{f"a{n}": "110 1" for n in range(5)}, **{f"b{n}": "011 2" for n in range(5)})
    assert [case[0] for case in taken(cases, 1, list(cases))] == ["a", "b"]
    assert [case[0] for case in taken(cases, 1, list(cases), most=1)] == ["a"]
    assert len(taken(cases, 1, [case for case in cases if case[0] == "b"])) == 1, "of those that may be taken"


@pytest.mark.parametrize(
    ("cases", "free"),
    [
        (contents(a="111 1", b="110 1", c="110 1"), "bc"),  # nothing else is complete
        (contents(a="110 1 2", b="110 1", c="110 1"), "bc"),  # the only one with label 2
        (contents(a="110 1", b="011 1", c="111 1", d="110 1"), "abd"),
        (contents(a="100 1", b="110 2", c="110 2"), "bc"),  # label 1 in the first modality
        (contents(a="100 1", b="010 1", c="001 1"), ""),
        (contents(a="111", b="111"), ""),
        (contents(a="111 1 2"), ""),
    ],
)
def test_what_only_one_case_has_stays_in_training(cases, free):
    assert {kept for case in cases for kept in taken(cases, 1, [case])} == set(free)


def test_of_a_rare_kind_a_quarter_is_taken_at_most():
    cases = contents(**{f"c{n}": "111 1" for n in range(10)}, **{f"p{n}": "110 1" for n in range(90)})
    assert [case[0] for case in taken(cases, 10, list(cases))] == ["c"] * 2 + ["p"] * 8
    assert [case[0] for case in taken(cases, 40, list(cases), most=40)] == ["c"] * 4 + ["p"] * 36, "or the part wanted"


@pytest.mark.parametrize("seed", range(20))
def test_whatever_is_taken_all_that_there_was_is_still_trained_on(seed):
    rng = np.random.default_rng(seed)
    cases = {
        str(number): CaseContent(tuple(code), frozenset(np.flatnonzero(labels)))
        for number, (code, labels) in enumerate(zip(rng.random((15, 3)) < 0.7, rng.random((15, 2)) < 0.5, strict=True))
        if code.any()
    }
    kept = taken(cases, 7, list(cases))
    assert kept and len(set(kept)) == len(kept)
    trained = [content for case, content in cases.items() if case not in kept]
    assert set().union(*(content.pairs for content in trained)) == set().union(*(c.pairs for c in cases.values()))
    for case in kept:
        assert any(all(np.array(other.code) >= cases[case].code) for other in trained)
