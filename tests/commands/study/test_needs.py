"""What `study -n` says about memory and disk."""

import collections
import re
import shutil

import numpy as np
import pytest
import yaml
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from facts import facts
from nnunet_in_process import make_trainer
from nnunet_moe.commands.study import needs
from nnunet_moe.commands.study.machine import Machine
from nnunet_moe.commands.study.needs import VIEWS, describe_needs, gpu_bytes, largest_case, needs_of
from nnunet_moe.commands.study.plan import make_plan

MOESD, LCKD, STOCK = "nnUNetTrainerMoESD", "nnUNetTrainerLCKD", "nnUNetTrainer"


@pytest.fixture
def plan(dataset, tmp_path):
    content = {"dataset": 901, "configuration": "3d_tiny", "trainers": [MOESD], "seeds": [0, 1], "folds": [0, 1, 2]}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(content))
    yield make_plan(tmp_path / "tiny.yaml", tmp_path / "out", "cpu")


def test_memory_follows_the_batch_the_experts_and_the_passes_and_disk_the_trainings(dataset, plan):
    configuration = PlansManager(str(dataset.plans_file)).get_configuration("3d_tiny")
    stock = gpu_bytes(STOCK, configuration, 3, 2, 0)
    configuration.configuration["batch_size"] *= 2
    assert gpu_bytes(STOCK, configuration, 3, 2, 0) == pytest.approx(2 * stock)
    configuration.configuration["batch_size"] //= 2
    moesd, plain = make_trainer(901, "3d_tiny", MOESD), make_trainer(901, "3d_tiny", STOCK)
    moesd.initialize(), plain.initialize()
    own, planned = (sum(each.numel() for each in made.network.parameters()) for made in (moesd, plain))
    assert own > planned
    assert gpu_bytes(MOESD, configuration, 3, 2, own) == pytest.approx(VIEWS * stock + 12 * (own - planned))
    assert gpu_bytes(LCKD, configuration, 3, 2, 0) == pytest.approx(3 * VIEWS * stock), "each modality has its own pass"
    found = needs_of(plan)
    assert found.gpu == {MOESD: pytest.approx(gpu_bytes(MOESD, configuration, 3, 2, own))}
    assert found.disk == 2 * 3 * 2 * 8 * own, "two seeds, three folds, two checkpoints, weight and momentum"


def test_the_largest_case_counts_on_the_finer_of_both_grids():
    fingerprint = {"shapes_after_crop": [[10, 20, 30], [5, 5, 5]], "spacings": [[3.0, 1.0, 1.0], [1.0, 1.0, 1.0]]}
    assert largest_case(fingerprint, [1.0, 1.0, 1.0], [0, 1, 2]) == 3 * 6000
    assert largest_case(fingerprint, [3.0, 2.0, 2.0], [0, 1, 2]) == 6000
    assert largest_case(fingerprint, [1.0, 1.0], [0, 1, 2]) == 6000, "2D keeps the spacing between slices"


def test_what_does_not_fit_is_a_warning(plan, monkeypatch):
    monkeypatch.setattr(needs, "available_bytes", lambda: 10**15)
    lines = describe_needs(plan, Machine("cpu", 2))
    assert len(lines) == 2 and np.all([word in " ".join(lines) for word in ("GPU memory", MOESD, "host", "disk")])
    monkeypatch.setattr(needs, "available_bytes", lambda: 10**9)
    usage = collections.namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(free=10))
    *_, memory, disk = describe_needs(plan, Machine("cpu", 2))
    assert re.search(facts("WARNING", "2 at a time", "only 1.0 GB", "-jobs"), memory)
    assert re.search(facts("WARNING", "only 0.0 GB left"), disk)
