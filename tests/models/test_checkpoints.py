"""Checkpoints as they are read from model folders."""

import numpy as np
import pytest
import torch

from facts import facts
from nnunet_moe.errors import ModelError
from nnunet_moe.models.checkpoints import read_checkpoint, versions_in
from nnunet_moe.runtime.environment import versions

CHECKPOINT = {
    "network_weights": {"weight": torch.arange(3.0)},
    "init_args": {"plans": {"dataset_name": "D", "plans_name": "P"}, "configuration": "2d"},
    "trainer_name": "T",
}


def test_a_checkpoint_of_this_packages_trainers_is_read_without_the_full_unpickler(make_trainer, tmp_path, monkeypatch):
    trainer, file = make_trainer(), tmp_path / "checkpoint.pth"
    trainer._best_ema = np.float64(0.5)
    trainer.save_checkpoint(str(file))
    monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "1")  # torch refuses what is more than weights and plain data
    assert read_checkpoint(file)["trainer_name"] == "nnUNetTrainerMoESD"


def test_the_versions_in_a_checkpoint_are_those_that_are_installed(make_trainer, tmp_path):
    file = tmp_path / "checkpoint.pth"
    make_trainer().save_checkpoint(str(file))
    packages = ("nnunet-moe", "torch", "nnunetv2", "batchgeneratorsv2", "dynamic-network-architectures")
    assert versions_in(file) == versions(*packages)


@pytest.mark.parametrize("content", [CHECKPOINT, {**CHECKPOINT, "optimizer_state": None, "_best_ema": np.float64(0.5)}])
def test_a_checkpoint_of_another_origin_says_no_versions(tmp_path, content):
    file = tmp_path / "checkpoint.pth"
    for each in (content, {**content, "optimizer_state": {"state": {}}}, [1], 3):
        torch.save(each, file)
        assert versions_in(file) == {}


def test_a_checkpoint_with_numpy_numbers_as_nnunet_writes_them_is_read_by_the_full_unpickler(tmp_path, monkeypatch):
    file = tmp_path / "checkpoint.pth"
    torch.save({**CHECKPOINT, "_best_ema": np.float64(0.5)}, file)
    assert read_checkpoint(file)["_best_ema"] == 0.5
    monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "1")
    with pytest.raises(ModelError, match=facts("checkpoint.pth", "cannot be read")):
        read_checkpoint(file)


def test_a_file_of_another_kind_is_named(tmp_path):
    file = tmp_path / "checkpoint.pth"
    with pytest.raises(ModelError, match=facts("checkpoint.pth", "does not exist")):
        read_checkpoint(file)
    for content in (b"", b"text", b"PK"):
        file.write_bytes(content)
        with pytest.raises(ModelError, match=facts("checkpoint.pth", "cannot be read")):
            read_checkpoint(file)
    torch.save({"weights": 1}, file)
    with pytest.raises(
        ModelError, match=facts("checkpoint.pth", "no nnU-Net checkpoint", "KeyError", "'network_weights'")
    ):
        read_checkpoint(file)


def test_weights_that_are_not_finite_are_refused(tmp_path):
    file = tmp_path / "checkpoint.pth"
    torch.save({**CHECKPOINT, "network_weights": {"weight": torch.tensor([1.0, torch.nan])}}, file)
    with pytest.raises(ModelError, match=facts("NaN")):
        read_checkpoint(file)
