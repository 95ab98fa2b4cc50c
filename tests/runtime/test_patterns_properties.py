"""Patterns compared with a matcher that tries everything."""

from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nnunet_moe.errors import SettingsError
from nnunet_moe.runtime.patterns import Pattern

FIELDS = ("{case}", "{p}")
TOKENS = (*FIELDS, *FIELDS, "*", "?", "**/", "/", "a", "B", "_", ".", "\n", "}", "é")
PARTS = st.lists(st.sampled_from(TOKENS), max_size=6)
PATHS = st.text("aB_./\né}", min_size=1, max_size=7)


def matches(text: str, path: str, values: dict[str, str]) -> Iterator[dict[str, str]]:
    """Yield the values of all ways in which a pattern matches the whole of a path."""
    if not text:
        if not path:
            yield values
        return
    token = next((each for each in (*FIELDS, "**/", "*", "?") if text.startswith(each)), text[0])
    field = token.strip("{}") if token in FIELDS else None
    for end in range(len(path) + 1):
        piece = path[:end]
        if field in values:
            fits = piece == values[field]
        elif field is not None:
            fits = piece != "" and "/" not in piece
        elif token == "**/":
            fits = piece == "" or piece.endswith("/")
        elif token in "*?":
            fits = "/" not in piece and (token == "*" or end == 1)
        else:
            fits = piece == token
        if fits:
            yield from matches(text[len(token) :], path[end:], values if field is None else {**values, field: piece})


@given(PARTS, PATHS, st.data())
def test_a_pattern_matches_what_can_be_matched(parts, path, data):
    text = "".join(parts)
    if not any(field in text for field in FIELDS):
        with pytest.raises(SettingsError):
            Pattern(text)
        return
    values = {"{case}": data.draw(st.text("aB_", min_size=1)), "{p}": "a", "*": "_", "?": "B", "**/": "a/"}
    filled = "".join(values.get(part, part) for part in parts)
    for each in (path, filled, f"a/{filled}"):
        name = each if "/" in text else each.rpartition("/")[2]
        possible = list(matches(text, name, {}))
        found = Pattern(text).match(each)
        assert (found in possible) if possible else found is None
        if found is not None:
            assert Pattern(text).matches_in_other_case(each) and Pattern(text).matches_in_other_case(each.swapcase())


@given(st.one_of(st.text(), st.text("{}*?/\\a1²é_()[]|+^$", max_size=12)))
@example("{1}")
@example("{²}")
def test_any_text_is_a_pattern_or_refused(text):
    try:
        Pattern(text)
    except SettingsError as error:
        assert repr(text) in str(error)
