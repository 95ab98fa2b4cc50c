"""A state is that of the contents, and JSON that is no state is refused."""

import json
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from made_json import changed
from nnunet_moe.errors import FileError
from nnunet_moe.runtime.file_state import FileState
from nnunet_moe.runtime.json_files import read_json

STATE = {"size": 3, "mtime_ns": 1_500_000_000_000_000_000, "ctime_ns": 0, "sha256": "ab" * 32}


@given(st.binary(max_size=3), st.binary(max_size=3))
def test_a_state_is_of_the_files_with_the_same_contents_only(content, other):
    with tempfile.TemporaryDirectory() as folder:
        first, second = Path(folder) / "first", Path(folder) / "second"
        first.write_bytes(content)
        second.write_bytes(other)
        state = FileState.of(first)
        assert state.is_of(first) and state.is_of(second) == (content == other)
        first.write_bytes(other)
        assert state.is_of(first) == (content == other)
        assert not state.is_of(Path(folder) / "none") and not state.is_of(first / "below a file")


@given(changed(STATE))
def test_json_is_a_state_or_refused(content):
    file = Path("files.json")
    try:
        state = FileState.from_json(content, file)
    except FileError as error:
        assert str(file) in str(error)
        assert not isinstance(content, dict) or any(type(content.get(key)) is not type(STATE[key]) for key in STATE)
    else:
        assert state.as_json() == {key: content[key] for key in STATE}
        assert FileState.from_json(json.loads(json.dumps(state.as_json())), file) == state


@given(st.one_of(st.binary(), st.text('[]{}":,0truefalsn'), st.integers(1, 5).map(lambda power: "[" * 10**power)))
def test_any_file_is_read_as_json_or_refused(content):
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "a.json"
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        try:
            assert isinstance(read_json(file), dict)
        except FileError as error:
            assert str(file) in str(error)
