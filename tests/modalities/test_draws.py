from collections import Counter
from itertools import product

import pytest
import torch

from nnunet_moe.modalities.codes import all_codes, is_within
from nnunet_moe.modalities.draws import draw_subsets, draw_supersets, draw_weighted_subsets

DRAWS = 40_000
CODES = torch.tensor(all_codes(3))


def rows(codes: torch.Tensor) -> list[tuple[bool, ...]]:
    return [tuple(code) for code in codes.tolist()]


def assert_distribution(drawn: torch.Tensor, expected: dict[tuple[bool, ...], float]) -> None:
    """Each frequency is within 5 standard deviations of its probability, and nothing else is drawn."""
    found = Counter(rows(drawn))
    assert found.keys() <= {code for code, probability in expected.items() if probability}
    assert sum(expected.values()) == pytest.approx(1)
    for code, probability in expected.items():
        tolerance = 5 * (probability * (1 - probability) / len(drawn)) ** 0.5
        assert found[code] / len(drawn) == pytest.approx(probability, abs=tolerance), code


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("available", [(True, True, True, True), (True, False, True, True)])
def test_a_superset_is_complete_with_its_share_and_else_uniform_over_the_proper_supersets(share, available):
    subset = (False, False, True, False)
    within = [
        code for code in all_codes(4) if is_within(subset, code) and is_within(code, available) and code != subset
    ]
    expected = {code: (1 - share) / len(within) + share * (code == available) for code in within}
    many = (torch.tensor([code]).expand(DRAWS, -1) for code in (subset, available))
    assert_distribution(draw_supersets(*many, share, torch.Generator().manual_seed(0)), expected)


def test_the_superset_of_a_complete_code_is_this_code():
    for share, code in product((0.0, 1.0), all_codes(3)):
        both = torch.tensor([code] * 3)
        assert torch.equal(draw_supersets(both, both, share, torch.Generator().manual_seed(1)), both)


@pytest.mark.parametrize("available", [(True, True, True), (False, True, True), (True, False, False)])
def test_weighted_subsets_have_their_weights_among_those_that_the_item_can_have(available):
    weights = torch.arange(1, 8, dtype=torch.float64) ** 2
    within = {
        code: float(weight) for code, weight in zip(rows(CODES), weights, strict=True) if is_within(code, available)
    }
    expected = {code: weight / sum(within.values()) for code, weight in within.items()}
    has = torch.tensor([available]).expand(DRAWS, -1)
    assert_distribution(draw_weighted_subsets(has, CODES, weights, torch.Generator().manual_seed(0)), expected)


def test_with_equal_weights_subsets_are_uniform_as_without_weights():
    has = torch.ones(DRAWS, 3, dtype=torch.bool)
    uniform = {code: 1 / 7 for code in rows(CODES)}
    assert_distribution(draw_subsets(has, torch.Generator().manual_seed(0)), uniform)
    weights = torch.full((7,), 0.1, dtype=torch.float64)
    assert_distribution(draw_weighted_subsets(has, CODES, weights, torch.Generator().manual_seed(0)), uniform)


def test_a_batch_may_mix_items_with_different_modalities():
    has = CODES.repeat(200, 1)
    drawn = draw_weighted_subsets(has, CODES, torch.ones(7, dtype=torch.float64), torch.Generator().manual_seed(2))
    assert (drawn <= has).all() and drawn.any(dim=1).all()
    superset = draw_supersets(drawn, has, 0.5, torch.Generator().manual_seed(3))
    assert (drawn <= superset).all() and (superset <= has).all()
    assert ((superset == drawn).all(dim=1) == (drawn == has).all(dim=1)).all()
