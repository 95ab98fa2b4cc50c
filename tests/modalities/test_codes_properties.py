"""Codes and their texts, with any names that dataset.json may have."""

from itertools import compress, permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunet_moe.errors import ModalityError
from nnunet_moe.modalities.codes import all_codes, channel_names, code_digits, code_of_digits, code_text, parse_code

NAME = st.one_of(st.text("ab+01:", max_size=4), st.text(max_size=3))
GIVEN = st.lists(NAME, min_size=1, max_size=4)


def names_of(given: list[str]) -> tuple[str, ...]:
    return channel_names({"channel_names": {str(channel): name for channel, name in enumerate(given)}})


def meanings(text: str, names: tuple[str, ...]) -> set[tuple[bool, ...]]:
    """All codes that a text can mean, found by writing down all texts of all codes."""
    if text not in names and len(text) == len(names) and not text.strip("01"):
        return {code_of_digits(text)} if "1" in text else set()
    subsets = {code: list(compress(names, code)) for code in all_codes(len(names))}
    return {code for code, subset in subsets.items() if text in map("+".join, permutations(subset))}


@given(GIVEN)
def test_each_channel_has_its_own_name_which_is_the_given_one_if_no_other_channel_has_it(given):
    names = names_of(given)
    assert len(set(names)) == len(names) == len(given)
    for channel, (name, old) in enumerate(zip(names, given, strict=True)):
        assert name == old or (name.startswith(f"{old}:{channel}") and len(set(given)) < len(given))


@given(GIVEN, st.data())
def test_a_text_is_parsed_as_the_only_code_that_it_can_mean_or_refused(given, data):
    names = names_of(given)
    code = data.draw(st.sampled_from(all_codes(len(names))))
    joined = data.draw(st.lists(st.sampled_from([*names, "a", "0", "1"]), max_size=4))
    text = data.draw(st.sampled_from([code_text(code, names), code_digits(code), "+".join(joined), given[0]]))
    possible = meanings(text, names)
    if len(possible) == 1:
        assert {parse_code(text, names)} == possible
    else:
        with pytest.raises(ModalityError) as error:
            parse_code(text, names)
        assert repr(text) in str(error.value)


@given(GIVEN, st.text("ab+01:", max_size=8))
def test_any_text_is_parsed_or_refused(given, text):
    names = names_of(given)
    possible = meanings(text, names)
    try:
        assert {parse_code(text, names)} == possible
    except ModalityError:
        assert len(possible) != 1


@given(GIVEN)
def test_digits_of_every_code_parse_back(given):
    names = names_of(given)
    for code in all_codes(len(names)):
        assert code_of_digits(code_digits(code)) == code
        assert code_digits(code) in names or parse_code(code_digits(code), names) == code
