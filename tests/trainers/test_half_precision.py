"""Each trainer's own steps in float16, as on a GPU: autocast and a gradient scaler, here on the CPU."""

import pytest
import torch
from torch.amp import GradScaler

from made_plans import DATASET_JSON, NAMES, made_plans
from nnunet_moe.trainers.external import nnunet_moe_trainers

TRAINERS = {name: getattr(nnunet_moe_trainers, name) for name in nnunet_moe_trainers.__all__}
STAGES = (4, 4, 6, 6, 8, 8)
SIZE = 64
STEPS = 12
SMALLEST_SCALE = 2**10
"""A scale that is halved at every step, because every gradient overflows, is 16 after 12 steps."""


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A trainer by its name, initialised, with a network of six stages."""
    monkeypatch.setenv("nnunet_moe_bf16", "0")
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))

    def make(name):
        settings = {"num_epochs": 1, "num_iterations_per_epoch": 200, "warm_up_fraction": 0.0, "width": 12}
        if TRAINERS[name].is_dedicated:
            settings["modality_code"] = [1, 0, 1]
        if name == "nnUNetTrainerLCKDFixedTeacher":
            settings["teacher"] = NAMES[0]
        plans = made_plans(tmp_path / "preprocessed", [SIZE, SIZE], settings, STAGES)
        trainer = TRAINERS[name](plans, "small", 0, DATASET_JSON, torch.device("cpu"))
        trainer.initialize()
        return trainer

    return make


def batch_for(trainer, available):
    """Noise, and in each item a bright square; a target per resolution.

    Args:
        available: for each item, which of the three modalities it has.
    """
    generator = torch.Generator().manual_seed(0)
    label = torch.zeros(len(available), 1, SIZE, SIZE, dtype=torch.int16)
    label[:, :, 20:80, 40:88] = 1
    data = torch.randn(len(available), len(NAMES), SIZE, SIZE, generator=generator) + 2.0 * label
    data[~torch.tensor(available, dtype=torch.bool)] = torch.nan
    scales = trainer._get_deep_supervision_scales()
    if scales is None:
        return {"data": data, "target": label}
    return {"data": data, "target": [label[(..., *(slice(None, None, round(1 / s)) for s in of))] for of in scales]}


def batches_for(trainer):
    """Complete items, incomplete ones of one code, and items of several codes, as far as the trainer takes them."""
    if trainer.network_class.takes_one_image_type:
        return [batch_for(trainer, [[1, 0, 0], [0, 1, 0], [0, 0, 1]])]
    if trainer.is_dedicated:
        return [batch_for(trainer, [[1, 1, 1], [1, 0, 1]])]
    items = [[[1, 1, 1], [1, 1, 1]], [[0, 1, 0], [0, 1, 0]], [[1, 0, 0], [1, 1, 1]], [[0, 1, 1], [1, 0, 0]]]
    return [batch_for(trainer, available) for available in items]


@pytest.mark.parametrize("name", TRAINERS)
def test_it_trains_in_float16_and_the_loss_scale_settles(made, name):
    trainer = made(name)
    trainer.grad_scaler = GradScaler("cpu")
    trainer.network.train()
    batches = batches_for(trainer)
    for step in range(STEPS):
        with torch.autocast("cpu", torch.float16):
            loss = trainer.train_step(batches[step % len(batches)])["loss"]
        assert torch.isfinite(torch.as_tensor(loss)).all()
    assert trainer.grad_scaler.get_scale() >= SMALLEST_SCALE
    assert all(bool(parameter.isfinite().all()) for parameter in trainer.network.parameters())
