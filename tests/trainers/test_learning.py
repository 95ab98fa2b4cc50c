"""Each trainer learns: it overfits one small batch within some tens of its own steps."""

import pytest
import torch

from made_plans import NAMES
from made_trainers import TRAINERS, levels_of, made_trainer
from nnunet_moe.modalities.codes import drop_modalities

pytestmark = pytest.mark.slow

PRETRAINING = [name for name, trainer in TRAINERS.items() if trainer.is_pretraining]
ONE_TYPE = [name for name, trainer in TRAINERS.items() if trainer.network_class.takes_one_image_type]
SEGMENTING = [name for name in TRAINERS if name not in PRETRAINING]
MOST_STEPS = 200


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A trainer by its name, initialised, with a small network."""
    monkeypatch.setenv("nnunet_moe_bf16", "0")

    def make(name, side=32, **settings):
        patch_size = [side] * 2 if name in ONE_TYPE else [8, 8, 8]
        return made_trainer(name, tmp_path, monkeypatch, patch_size=patch_size, num_iterations=MOST_STEPS, **settings)

    return make


def batch_for(trainer, *, one_image_type):
    """Noise, and in each item a cube that is bright in all that the item has; a target per resolution.

    Of three items in 2D each has another modality; two in 3D have all.
    """
    space, generator = trainer.configuration_manager.patch_size, torch.Generator().manual_seed(0)
    corners = torch.randint(1, space[0] // 2, (3 if one_image_type else 2, len(space)), generator=generator)
    label = torch.zeros(len(corners), 1, *space, dtype=torch.int16)
    for item, corner in enumerate(corners.tolist()):
        label[(item, 0, *(slice(first, first + space[0] * 3 // 8) for first in corner))] = 1
    data = 0.3 * torch.randn(len(corners), len(NAMES), *space, generator=generator) + 2.0 * label
    if one_image_type:
        data[~torch.eye(len(NAMES), dtype=torch.bool)] = torch.nan
    return {"data": data, "target": levels_of(trainer, label)}


def dice(trainer, batch, code=None):
    """Of the whole batch, reduced to a code if there is one."""
    data, target = batch["data"], batch["target"]
    label = (target[0] if isinstance(target, list) else target)[:, 0] == 1
    if code is not None:
        data = drop_modalities(data, torch.tensor(code).expand(len(data), -1))
    trainer.network.eval()
    trainer.set_deep_supervision_enabled(False)
    with torch.inference_mode():
        found = trainer.network(data).argmax(dim=1) == 1
    return float(2 * (found & label).sum() / (found.sum() + label.sum()))


def trained_until(trainer, batch, is_learnt):
    """The trainer's own steps, until it has learnt or has had enough of them."""
    for step in range(1, MOST_STEPS + 1):
        trainer.set_deep_supervision_enabled(trainer.enable_deep_supervision)
        trainer.network.train()
        trainer.train_step(batch)
        if step % 20 == 0 and is_learnt():
            return True
    return False


@pytest.mark.parametrize("name", SEGMENTING)
def test_it_segments_what_it_has_seen_complete_and_reduced_to_each_code(made, name):
    trainer = made(name)
    batch = batch_for(trainer, one_image_type=name in ONE_TYPE)
    codes = [None] if name in ONE_TYPE else [None, *trainer.validation_codes]

    def is_learnt():
        return all(dice(trainer, batch, code) > 0.9 for code in codes)

    assert not is_learnt()
    assert trained_until(trainer, batch, is_learnt)


@pytest.mark.parametrize("name", PRETRAINING)
def test_a_pretraining_reconstructs_what_it_has_seen(made, name):
    trainer = made(name, width=48)  # which learns in a quarter of the steps of a narrower network
    batch = batch_for(trainer, one_image_type=name in ONE_TYPE)

    def loss():
        """With the same patches masked each time."""
        trainer.on_validation_epoch_start()
        with torch.inference_mode():
            return sum(float(trainer.validation_step(batch)["loss"]) for _ in range(10))

    before = loss()
    assert trained_until(trainer, batch, lambda: loss() < before / 2)
