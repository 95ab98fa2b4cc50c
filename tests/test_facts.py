"""The pattern finds facts wherever they stand in a message, and nothing less than all of them."""

import re

import pytest

from facts import facts

MESSAGE = "T1w.nii.gz: -step_size is 0.5 (of 12)\n  allowed: 'a' or b+c"


@pytest.mark.parametrize(
    "said", [(), (12,), ("12", "T1w.nii.gz"), ("b+c", "-step_size", "'a'"), ("allowed", "0.5"), ("(of 12)\n  allowed",)]
)
def test_facts_are_found_in_any_order_and_on_any_line(said):
    assert re.search(facts(*said), MESSAGE)


@pytest.mark.parametrize("said", [(1,), ("T1",), ("step",), ("0.5", "missing"), ("b.c",)])
def test_a_missing_fact_or_a_part_of_a_word_is_not_found(said):
    assert not re.search(facts(*said), MESSAGE)
