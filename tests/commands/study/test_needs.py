"""What `study -n` says about memory and disk."""

import collections
import re
import shutil
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from facts import facts
from nnunet_in_process import make_trainer
from nnunet_moe.commands.study import needs, run
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


GB = 10**9


class PlanOf:
    """A plan of two methods, of which nothing but its jobs is known."""

    def __init__(self, *jobs: str, done: tuple[str, ...] = ()) -> None:
        self.jobs, self._done = dict.fromkeys(jobs), set(done)

    def done(self) -> set[str]:
        return self._done


@pytest.fixture
def on(monkeypatch, tmp_path):
    """What is said on a machine with 20 GB of memory and these GPUs, of trainings that need 7 GB and 28.5 GB."""

    def describe(machine: Machine, gpus: tuple[float, ...] = (), plan: object = None) -> list[str]:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(gpus))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(gpus))
        monkeypatch.setattr(
            torch.cuda, "get_device_properties", lambda gpu: SimpleNamespace(total_memory=gpus[gpu] * GB)
        )
        return describe_needs(plan or PlanOf("train/a"), machine)

    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(needs, "available_bytes", lambda: 20 * GB)
    monkeypatch.setattr(needs, "needs_of", lambda _: needs.Needs({"A": 7e9, "B": 28.5e9, "C": None}, 4e9, 10.0))
    return describe


def test_on_a_cpu_the_memory_of_a_training_is_memory_of_the_host(on):
    lines = on(Machine("cpu"))
    assert re.search(facts("A 7.0 GB", "B 28.5 GB", "C unknown", "planner", "memory of the host"), lines[0])
    assert "31.5 GB for a job" in lines[1], "28.5 GB and 3 GB for everything else"
    assert re.search(facts("WARNING", "1 at a time need 31.5 GB", "only 20.0 GB"), lines[2])
    assert len(lines) == 3 and "4.0 GB for a job" in on(Machine("cuda", 2), gpus=(80,))[1]


def test_only_the_gpus_that_jobs_use_must_be_large_enough(on, monkeypatch):
    assert len(on(Machine("cuda", gpus=(1,)), gpus=(16, 80))) == 2
    (warning,) = on(Machine("cuda", gpus=(0,)), gpus=(16, 80))[2:]
    assert re.search(facts("WARNING", "1 at a time need 28.5 GB", "GPU 0 has 16.0 GB", "-jobs"), warning)
    (warning,) = on(Machine("cuda", 3, gpus=(1, 2)), gpus=(16, 40, 40))[2:]
    assert re.search(facts("2 at a time need 57.0 GB", "GPU 1 has 40.0 GB"), warning)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "6,4")
    (warning,) = on(Machine("cuda"), gpus=(80, 16))[2:]
    assert "GPU 4 has 16.0 GB" in warning, "torch counts from 0 what the variable names"
    assert len(on(Machine("cuda", profile="slurm"), gpus=(16,))) == 2, "a cluster chooses the GPUs"


def test_a_gpu_that_is_not_there_is_named_and_an_unplanned_dataset_waits(on):
    assert re.fullmatch("WARNING: -device is cuda[^:]*no GPU here[^:]*", on(Machine("cuda"))[0])
    assert not any("no GPU" in line for line in on(Machine("cuda", profile="slurm")))
    (line,) = on(Machine("cpu"), plan=PlanOf("preprocess/preprocess", "train/a"))
    assert "once the dataset is planned" in line
    planned = PlanOf("preprocess/preprocess", "train/a", done=("preprocess/preprocess",))
    assert on(Machine("cpu"), plan=planned) == on(Machine("cpu"))


def test_a_run_says_what_it_needs_as_soon_as_the_dataset_is_planned(monkeypatch, capsys):
    """Snakemake is stood in for by a process that ends at once; both jobs are done by then."""
    said = []
    monkeypatch.setattr(run, "describe_needs", lambda *_: said.append("B") or ["GPU memory of a training"])
    plan = PlanOf("preprocess/preprocess", "train/a")
    plan.log = plan.marker = lambda _: Path(__file__)
    plan.time_left = lambda *_: []
    run._watch(subprocess.Popen(["true"]), plan, Machine("cpu"), time.time() + 60)
    lines = capsys.readouterr().out.splitlines()
    assert [line[:8] for line in lines] == ["[1 of 2]", "  GPU me", "[2 of 2]"] and said == ["B"]
