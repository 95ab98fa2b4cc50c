"""JSON that cannot be read is refused in one way, wherever it stands."""

import json

import pytest

from facts import facts
from nnunet_moe.commands.package.case_model import PackagedModel
from nnunet_moe.commands.predict.inputs import Inputs
from nnunet_moe.errors import FileError, ModelError
from nnunet_moe.runtime.json_files import parse_json, read_json
from nnunet_moe.training_log import read_training_logs

DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    "content", ['{"a": ', "[]", "", "\xff", '{"a":' * 100_000, "[" * 100_000, '\xef\xbb\xbf{"a": 1}']
)
def test_json_that_is_damaged_or_something_else_is_an_error_that_names_the_file(tmp_path, content):
    file = tmp_path / "plans.json"
    file.write_text(content, encoding="latin-1")
    with pytest.raises(FileError, match=facts("plans.json")):
        read_json(file)
    with pytest.raises(FileError, match=facts("missing.json")):
        read_json(tmp_path / "missing.json")
    file.write_text('["a"]')
    assert read_json(file, list) == ["a"]


def test_too_many_brackets_are_a_value_error_like_any_other_damage():
    with pytest.raises(ValueError, match="too many brackets"):
        parse_json(DEEP)
    for content in ({"a": [1, None]}, [], "\xe4", 1.5):
        assert parse_json(json.dumps(content)) == parse_json(json.dumps(content).encode()) == content


def test_every_kind_of_file_with_too_many_brackets_is_named(tmp_path):
    for name in ("inputs.jsonl", "packaged.json", "learning_curves.jsonl"):
        (tmp_path / name).write_text(f"{DEEP}\n")
    with pytest.raises(ModelError, match=facts("inputs.jsonl", "too many brackets")):
        Inputs(tmp_path / "inputs.jsonl").read()
    with pytest.raises(ModelError, match=facts(tmp_path, "too many brackets")):
        PackagedModel.read(tmp_path)
    assert read_training_logs(tmp_path) == {}  # as a line that a killed training left
