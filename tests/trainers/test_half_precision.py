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
WIDE_STAGES, WIDE_SIZE = (4, 8, 16, 16, 16, 16), 128
"""Of a network whose norms see at least 4 x 4 pixels; over 2 x 2 they multiply the rounding errors of gradients."""
STEPS = 8
SMALLEST_SCALE = 2**11
"""A scale that is halved at every step, because every gradient overflows, is 2^8 after 8 steps."""


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A trainer by its name, initialised, with a network of six stages."""
    monkeypatch.setenv("nnunet_moe_bf16", "0")

    def make(name, size=SIZE, stages=STAGES):
        size = OF_TRANSFORMERS if TRAINERS[name].network_class.takes_one_image_type else size
        return made_trainer(name, tmp_path, monkeypatch, patch_size=[size, size], features=stages)

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


def gradient_of(trainer, batch, *, half):
    """The gradient of one step with all weights in a row, from the same random draws each time."""
    torch.manual_seed(0)
    trainer.network.zero_grad()
    with torch.autocast("cpu", torch.float16, enabled=half):
        trainer.backward(batch["data"], batch["target"], 0)
    gradients = [weight.grad for weight in trainer.network.parameters() if weight.grad is not None]
    return torch.cat([gradient.flatten() for gradient in gradients])


# LCKD's maps of a zero image are computed in float32, but their gradient comes from float16. It is small next to the
# rounding of this gradient, because each norm removes its mean. With a patch of 256 x 256 LCKD has 0.998 here.
@pytest.mark.parametrize("name", TRAINERS)
def test_its_gradients_in_float16_agree_with_those_in_float32(made, name):
    trainer = made(name, WIDE_SIZE, WIDE_STAGES)
    trainer.grad_scaler = GradScaler("cpu", init_scale=SMALLEST_SCALE)
    trainer.network.train()
    batch = batches_for(trainer)[-1]  # of incomplete items, where the trainer takes them
    single, half = (gradient_of(trainer, batch, half=half) for half in (False, True))
    assert torch.nn.functional.cosine_similarity(single, half, dim=0) > (0.97 if "LCKD" in name else 0.99)
