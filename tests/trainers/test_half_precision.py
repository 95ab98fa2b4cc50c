"""Each trainer's own steps in float16, as on a GPU: autocast and a gradient scaler, here on the CPU."""

import pytest
import torch
from torch.amp import GradScaler

from made_plans import NAMES
from made_trainers import TRAINERS, levels_of, made_trainer

STAGES = (2, 2, 4, 4, 8, 8)
SIZE = 64
OF_TRANSFORMERS = 32
"""A Swin U-Net has the same stages for every size of the patch, at least this."""
STEPS = 8
SMALLEST_SCALE = 2**11
"""A scale that is halved at every step, because every gradient overflows, is 2^8 after 8 steps."""


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A trainer by its name, initialised, with a network of six stages."""
    monkeypatch.setenv("nnunet_moe_bf16", "0")

    def make(name):
        size = OF_TRANSFORMERS if TRAINERS[name].network_class.takes_one_image_type else SIZE
        return made_trainer(name, tmp_path, monkeypatch, patch_size=[size, size], features=STAGES)

    return make


def batch_for(trainer, available):
    """Noise, and in each item a bright square; a target per resolution.

    Args:
        available: for each item, which of the three modalities it has.
    """
    generator = torch.Generator().manual_seed(0)
    size = trainer.configuration_manager.patch_size
    label = torch.zeros(len(available), 1, *size, dtype=torch.int16)
    label[:, :, size[0] // 3 :, size[1] // 3 : -4] = 1
    data = torch.randn(len(available), len(NAMES), *size, generator=generator) + 2.0 * label
    data[~torch.tensor(available, dtype=torch.bool)] = torch.nan
    return {"data": data, "target": levels_of(trainer, label)}


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
