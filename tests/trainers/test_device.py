"""Steps of every trainer on a device that is not the CPU: nothing is left behind, and the host rarely waits for it.

The host computes nothing that grows with the patch before, between or after the copies of a batch: in no operation does
it touch more elements than `SMALL` for each item.
"""

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from torch.utils._python_dispatch import TorchDispatchMode

from made_plans import DATASET_JSON, NAMES
from made_trainers import TRAINERS, levels_of, made_trainer
from nnunet_moe.trainers import base
from pretended_cuda import OnCuda, PretendedCuda

SIZE = 16
SMALL = 4 * len(NAMES)
BY_NAME = {"background": 0, "cube": 1, "ball": 2}
REGIONS = {"background": 0, "whole": [1, 2], "core": 2}
SETS = {"label_sets": {NAMES[0]: ["cube"], NAMES[1]: ["ball"]}}
LABELS = {
    "labels": {"labels": BY_NAME},
    "ignore": {"labels": {**BY_NAME, "ignore": 3}},
    "regions": {"labels": REGIONS, "regions_class_order": [1, 2]},
    "regions, ignore": {"labels": {**REGIONS, "ignore": 3}, "regions_class_order": [1, 2]},
    "label sets": {"labels": BY_NAME, **SETS},
}
OF_EACH_NETWORK = ("nnUNetTrainerMoESD", "nnUNetTrainerDedicated", "nnUNetTrainerLCKD", "nnUNetTrainerM4oE")
IN_TRAINING = {"label sets": 6}
"""Bounds of the host's waits in a training step; 3 for all others."""
OF_NNUNET_IN_VALIDATION = {"ignore": 5}
"""nnU-Net's own copies of counts and loss in a validation step, 4 for all others; with an ignore label but no regions,
its loss also asks whether any voxel counts."""


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
    """A trainer by its name on the pretended device, initialised, with a small network."""
    monkeypatch.setattr(base, "autocast", lambda _: nullcontext())
    monkeypatch.setenv("nnUNet_compile", "f")  # torch compiles nothing here, but looks at every function to find out

    def make(name, labels="labels", *, dimensions=2, **more):
        trainer = made_trainer(
            name,
            tmp_path / name,
            monkeypatch,
            patch_size=[SIZE] * dimensions,
            features=(4, 4, 4),
            dataset_json={**DATASET_JSON, **LABELS[labels]},
            device="cuda",
            **more,
        )
        trainer.grad_scaler = None
        trainer.network.train()
        return trainer

    return make


def batch_for(trainer, dimensions=2):
    """Items that differ in what they have, as nnU-Net's loader gives them: on the CPU."""
    available = [[0, 1, 1], [1, 0, 0], [1, 1, 1]]
    if trainer.network_class.takes_one_image_type:
        available = torch.eye(3).tolist()
    elif trainer.is_dedicated:
        available = [[1, 1, 1], [1, 0, 1]]
    space = [SIZE] * dimensions
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(len(available), trainer.num_input_channels, *space, generator=generator)
    data[:, : len(NAMES)][~torch.tensor(available, dtype=torch.bool)] = torch.nan
    label = torch.randint(0, 4, (len(available), 1, *space), generator=generator).to(torch.int16)
    if not trainer.label_manager.has_ignore_label:
        label %= 3
    if trainer.label_manager.has_regions:
        regions = [(label == 1) | (label == 2), label == 2, label == 3]
        label = torch.cat(regions if trainer.label_manager.has_ignore_label else regions[:2], dim=1)
    keys = [f"case{item}" for item in range(len(data))]
    return {"data": data, "keys": keys, "target": levels_of(trainer, label)}


def launches_of(trainer, items):
    """The convolutions of a training step with this number of complete items."""
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(items, len(NAMES), SIZE, SIZE, generator=generator)
    label = torch.randint(0, 2, (items, 1, SIZE, SIZE), generator=generator).to(torch.int16)
    with Launches() as launches:
        trainer.train_step({"data": data, "target": levels_of(trainer, label)})
    return launches


def waits_of(cuda, step, batch) -> int:
    """How often a step makes the host wait, the second time that it runs, in which it must compute almost nothing."""
    step(batch)
    cuda.forget()
    step(batch)
    items = len(batch["data"] if isinstance(batch, dict) else batch)
    assert max(cuda.on_the_host.values(), default=0) <= SMALL * items, cuda.on_the_host.most_common(3)
    return sum(cuda.waits.values())


def assert_few_waits(cuda, trainer, batch, labels="labels"):
    """Steps of training, of validation and of prediction, which is the network's on one patch."""
    assert waits_of(cuda, trainer.train_step, batch) <= IN_TRAINING.get(labels, 3), cuda.waits
    trainer.on_validation_epoch_start()
    trainer.network.eval()
    with torch.no_grad():
        of_nnunet = OF_NNUNET_IN_VALIDATION.get(labels, 4)
        assert waits_of(cuda, trainer.validation_step, batch) <= of_nnunet + 3, cuda.waits
        if trainer.is_pretraining:
            return
        trainer.set_deep_supervision_enabled(False)
        assert waits_of(cuda, trainer.network, OnCuda(batch["data"][:1])) <= 1, cuda.waits


def test_an_operation_on_both_devices_is_found(cuda):
    moved = torch.ones(2).to("cuda")
    assert isinstance(moved, OnCuda) and moved.device.type == "cuda"
    with pytest.raises(RuntimeError, match="on the CPU"):
        moved + torch.ones(2)
    assert len(cuda.mixed) == 1
    cuda.forget()
    assert (moved + 1).tolist() == [2, 2]
    assert sum(cuda.waits.values()) == 1


def test_what_the_host_computes_is_found(cuda):
    image = torch.zeros(5, 7)
    cuda.forget()
    on_device = image[1:].T.to("cuda", non_blocking=True)
    (on_device * 2).sum()
    assert not cuda.on_the_host
    image[2:].sum()
    assert [*cuda.on_the_host.values()] == [21]
    on_device.cpu()
    assert max(cuda.on_the_host.values()) == 28


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINERS)
def test_all_steps_run_on_the_device_and_the_host_rarely_waits(made, cuda, name):
    trainer = made(name)
    assert_few_waits(cuda, trainer, batch_for(trainer))


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_EACH_NETWORK)
@pytest.mark.parametrize("labels", [labels for labels in LABELS if labels != "labels"])
def test_they_do_with_regions_an_ignore_label_and_label_sets(made, cuda, labels, name):
    trainer = made(name, labels)
    assert_few_waits(cuda, trainer, batch_for(trainer), labels)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in OF_EACH_NETWORK if name != "nnUNetTrainerM4oE"])
def test_they_do_in_the_second_stage_of_a_cascade(made, cuda, name):
    """A Swin U-Net is 2D, and nnU-Net's cascades are 3D."""
    trainer = made(name, dimensions=3, previous_stage="first")
    assert trainer.is_cascaded and trainer.num_input_channels == len(NAMES) + 2
    assert_few_waits(cuda, trainer, batch_for(trainer, dimensions=3))


@pytest.mark.slow
@pytest.mark.parametrize("labels", ["labels", "regions, ignore"])
@pytest.mark.parametrize("previous_stage", [None, "first"])
def test_an_election_predicts_on_the_device_and_the_host_rarely_waits(made, cuda, tmp_path, labels, previous_stage):
    """Once a patch, and for the logits of each modality; the rest is nnU-Net's own predictor."""
    trainer = made("nnUNetTrainerLCKD", labels, dimensions=3, previous_stage=previous_stage)
    space = (SIZE + 4, SIZE, SIZE)  # two patches
    generator = np.random.default_rng(0)
    image = generator.normal(size=(len(NAMES), *space)).astype(np.float32)
    image[1] = np.nan
    segmentation = generator.integers(0, 4 if "ignore" in labels else 3, (1, *space)).astype(np.int16)
    folder = trainer.preprocessed_dataset_folder
    nnUNetDatasetBlosc2.save_case(image, segmentation, {}, f"{folder}/first", image.shape, image.shape)
    if previous_stage:
        (tmp_path / "previous").mkdir()
        trainer.folder_with_segs_from_previous_stage = str(tmp_path / "previous")
        nnUNetDatasetBlosc2.save_seg(segmentation[0], str(tmp_path / "previous" / "first"))
    trainer.election.cases = ("first",)
    cuda.forget()
    scores, numbers = trainer.election.scores_alone()
    assert np.isfinite(scores[[0, 2]]).all() and numbers.tolist() == [[1, 1], [0, 0], [1, 1]]
    assert not cuda.mixed  # nnU-Net would predict again and keep the results on the CPU
    ours = {
        Path(where).name.split(":")[0]: number for (_, where), number in cuda.waits.items() if "nnunetv2" not in where
    }
    assert ours == {"shared_encoder_network.py": 4, "lckd_election.py": 2}


def test_with_twelve_items_moesd_launches_at_most_half_more_convolutions_than_modality_dropout(made, autocast_on_cuda):
    ours, baseline = (launches_of(made(name), 12) for name in ("nnUNetTrainerMoESD", "nnUNetTrainerModalityDropout"))
    assert 0 < ours.forward <= 1.5 * baseline.forward and 0 < ours.backward <= 1.5 * baseline.backward
