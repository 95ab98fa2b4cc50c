"""The folder of a trained model."""

import pytest

from facts import facts
from nnunet_moe.errors import ModelError
from nnunet_moe.models.folders import ModelFolder


@pytest.fixture
def model(tmp_path):
    return ModelFolder("T", "P", "3d_tiny", tmp_path, "checkpoint_final.pth")


def test_its_json_files_are_read_by_their_names(model):
    (model.folder / "plans.json").write_text('{"plans_name": "P"}')
    assert model.content("plans") == {"plans_name": "P"}


@pytest.mark.parametrize("text", [None, "{", "\udcff"])
def test_a_json_file_that_is_missing_or_damaged_is_named(model, text):
    if text is not None:
        (model.folder / "dataset.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ModelError, match=facts("dataset.json", "cannot be read")):
        model.content("dataset")
