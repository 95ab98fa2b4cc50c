"""Random JSON, and random changes of JSON that is right."""

import copy
from typing import Any

from hypothesis import strategies as st

NUMBERS = st.one_of(st.integers(-3, 6), st.integers(), st.floats(), st.sampled_from([10**30, 1.5, 1e300]))
TEXTS = st.one_of(st.sampled_from(["", "0", "1", "2", "1.0", " 1", "background", "ignore", ".nii.gz"]), st.text())
JSON: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS),
    lambda children: st.one_of(st.lists(children, max_size=4), st.dictionaries(TEXTS, children, max_size=4)),
    max_leaves=8,
)


def places(content: Any) -> list[tuple[Any, ...]]:
    """List the paths of keys and indices to all values in JSON, the whole of it first."""
    inner = content.items() if isinstance(content, dict) else enumerate(content if isinstance(content, list) else ())
    return [(), *((key, *rest) for key, value in inner for rest in places(value))]


@st.composite
def changed(draw: Any, content: Any) -> Any:
    """Return a copy of JSON in which up to two values are removed or replaced by any JSON, or one is added."""
    content = copy.deepcopy(content)
    for _ in range(draw(st.integers(0, 2))):
        path = draw(st.sampled_from(places(content)))
        if not path:
            return draw(JSON)
        parent = content
        for key in path[:-1]:
            parent = parent[key]
        change = draw(st.sampled_from(["replace", "remove", "add"]))
        if change == "remove":
            del parent[path[-1]]
        elif change == "add" and isinstance(parent, dict):
            parent[draw(TEXTS)] = draw(JSON)
        else:
            parent[path[-1]] = draw(JSON)
    return content
