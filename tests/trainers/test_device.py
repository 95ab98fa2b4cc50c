"""Steps of every trainer on a device that is not the CPU: nothing is left behind, and the host rarely waits for it."""

from contextlib import nullcontext

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from made_plans import DATASET_JSON, NAMES
from made_trainers import TRAINERS, levels_of, made_trainer
from nnunet_moe.trainers import base
from pretended_cuda import OnCuda, PretendedCuda

LABEL_SETS = {
    **DATASET_JSON,
    "labels": {"background": 0, "cube": 1, "ball": 2},
    "label_sets": {NAMES[0]: ["cube"], NAMES[1]: ["ball"]},
}
OF_NNUNET_IN_VALIDATION = 4
"""nnU-Net's own copies of counts and loss in a validation step."""


class Launches(TorchDispatchMode):
    """Inside the block, counts the convolutions, forward and backward."""

    def __init__(self):
        super().__init__()
        self.forward = self.backward = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.forward += function is torch.ops.aten.convolution.default
        self.backward += function is torch.ops.aten.convolution_backward.default
        return function(*args, **(kwargs or {}))


@pytest.fixture
def autocast_on_cuda():
    torch.set_autocast_enabled("cuda", True)
    yield
    torch.set_autocast_enabled("cuda", False)


@pytest.fixture
def cuda():
    with PretendedCuda() as pretended:
        yield pretended


@pytest.fixture
def made(cuda, tmp_path, monkeypatch):
    """A trainer by its name on the pretended device, initialised, with a small 2D network."""
    monkeypatch.setattr(base, "autocast", lambda _: nullcontext())

    def make(name, dataset_json=DATASET_JSON):
        trainer = made_trainer(
            name, tmp_path / name, monkeypatch, patch_size=[32, 32], dataset_json=dataset_json, device="cuda"
        )
        trainer.grad_scaler = None
        trainer.network.train()
        return trainer

    return make


def batch_for(trainer):
    """Items that differ in what they have, as nnU-Net's loader gives them: on the CPU."""
    available = [[0, 1, 1], [1, 0, 0], [1, 1, 1]]
    if trainer.network_class.takes_one_image_type:
        available = torch.eye(3).tolist()
    elif trainer.is_dedicated:
        available = [[1, 1, 1], [1, 0, 1]]
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(len(available), len(NAMES), 32, 32, generator=generator)
    data[~torch.tensor(available, dtype=torch.bool)] = torch.nan
    label = torch.randint(0, 2, (len(available), 1, 32, 32), generator=generator).to(torch.int16)
    keys = [f"case{item}" for item in range(len(data))]
    return {"data": data, "keys": keys, "target": levels_of(trainer, label)}


def launches_of(trainer, items):
    """The convolutions of a training step with this number of complete items."""
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(items, len(NAMES), 32, 32, generator=generator)
    label = torch.randint(0, 2, (items, 1, 32, 32), generator=generator).to(torch.int16)
    with Launches() as launches:
        trainer.train_step({"data": data, "target": levels_of(trainer, label)})
    return launches


def waits_of(cuda, step, *arguments) -> int:
    """How often a step makes the host wait, the second time that it runs."""
    step(*arguments)
    cuda.waits.clear()
    step(*arguments)
    return sum(cuda.waits.values())


def test_an_operation_on_both_devices_is_found(cuda):
    moved = torch.ones(2).to("cuda")
    assert isinstance(moved, OnCuda) and moved.device.type == "cuda"
    with pytest.raises(RuntimeError, match="on the CPU"):
        moved + torch.ones(2)
    cuda.waits.clear()
    assert (moved + 1).tolist() == [2, 2]
    assert sum(cuda.waits.values()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINERS)
def test_all_steps_run_on_the_device_and_the_host_rarely_waits(made, cuda, name):
    trainer = made(name)
    batch = batch_for(trainer)
    assert waits_of(cuda, trainer.train_step, batch) <= 3, cuda.waits
    trainer.on_validation_epoch_start()
    with torch.no_grad():
        assert waits_of(cuda, trainer.validation_step, batch) <= OF_NNUNET_IN_VALIDATION + 3, cuda.waits
        if trainer.is_pretraining:
            return
        trainer.network.eval()
        trainer.set_deep_supervision_enabled(False)
        assert waits_of(cuda, trainer.network, OnCuda(batch["data"][:1])) <= 1, cuda.waits


@pytest.mark.slow
def test_label_sets_are_copied_to_the_device_without_waiting(made, cuda):
    trainer = made("nnUNetTrainerMoESD", LABEL_SETS)
    assert waits_of(cuda, trainer.train_step, batch_for(trainer)) <= 6, cuda.waits


def test_with_twelve_items_moesd_launches_at_most_half_more_convolutions_than_modality_dropout(made, autocast_on_cuda):
    ours, baseline = (launches_of(made(name), 12) for name in ("nnUNetTrainerMoESD", "nnUNetTrainerModalityDropout"))
    assert 0 < ours.forward <= 1.5 * baseline.forward and 0 < ours.backward <= 1.5 * baseline.backward
