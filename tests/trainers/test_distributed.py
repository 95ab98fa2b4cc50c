"""Training in several processes (torch.distributed, gloo on the CPU) is training in one."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from made_trainers import COMPILED, TRAINERS

SCRIPT = Path(__file__).with_name("distributed_step.py")


def batch(seed):
    generator = torch.Generator().manual_seed(seed)
    data = torch.randn(2, 3, 16, 16, 16, generator=generator, dtype=torch.float64)
    data[seed % 2, 0] = torch.nan
    target = torch.randint(0, 2, (2, 1, 16, 16, 16), generator=generator).to(torch.int16)
    return {"data": data, "target": [target, target[:, :, ::2, ::2, ::2]]}


@pytest.fixture(scope="module")
def trained_in_one_and_two_processes(dataset, preloaded_python, tmp_path_factory):
    folder = tmp_path_factory.mktemp("distributed")
    plans = json.loads(dataset.plans_file.read_text())
    settings = plans["configurations"]["3d_tiny"]["nnunet_moe"]
    settings |= {"code_noise_sd": 0.0, "election_fraction": 0.5}  # noise is each process's own
    codes = torch.tensor([[[1, 1, 0], [0, 1, 1]], [[0, 0, 1], [1, 0, 0]]]).bool()
    inputs = {
        "plans": plans,
        "dataset_json": json.loads(dataset.dataset_json_file.read_text()),
        "batches": [batch(0), batch(1)],
        "codes": codes,
    }
    torch.save(inputs, folder / "inputs.pt")
    environment = {**os.environ, "nnUNet_results": str(folder / "results"), "nnunet_moe_bf16": "0"}
    environment["PYTHONPATH"] = str(SCRIPT.parents[1])  # of the modules that tests share
    processes = [
        subprocess.Popen([preloaded_python, SCRIPT, folder, str(rank), str(world)], env=environment)
        for rank, world in ((0, 1), (0, 2), (1, 2))
    ]
    assert [process.wait() for process in processes] == [0, 0, 0]
    return folder


@pytest.mark.parametrize("kind", [False, True, "label_sets"])
def test_two_processes_take_the_same_steps_as_one_on_the_joined_batch(trained_in_one_and_two_processes, kind):
    """Without a Dice over the batch, with one, and with one where the processes' items have different label sets."""
    one, first, second = (
        torch.load(trained_in_one_and_two_processes / f"{kind}_{name}.pt") for name in ("0_of_1", "0_of_2", "1_of_2")
    )
    assert len(one["weights"]) > 20
    for name, weights in one["weights"].items():
        assert torch.equal(first["weights"][name], second["weights"][name]), name
        torch.testing.assert_close(first["weights"][name], weights, rtol=0, atol=1e-10, msg=name)


@pytest.mark.parametrize("rank", [0, 1])
def test_gradients_are_averaged_in_the_second_backward_pass_alone(trained_in_one_and_two_processes, rank):
    counts = torch.load(trained_in_one_and_two_processes / f"True_{rank}_of_2.pt")
    assert counts["after_first_pass"] == [0, 0]
    assert all(number > 0 for number in counts["reductions"])


@pytest.mark.parametrize("rank", [0, 1])
def test_a_forward_pass_needs_no_other_process(trained_in_one_and_two_processes, rank):
    """In nnU-Net's validation processes have different numbers of patches; one that waited would wait for ever."""
    assert not torch.load(trained_in_one_and_two_processes / f"True_{rank}_of_2.pt")["synchronises_buffers"]


def test_an_election_is_the_same_in_all_processes_each_of_which_scores_its_share(trained_in_one_and_two_processes):
    one, first, second = (
        torch.load(trained_in_one_and_two_processes / f"election_{name}.pt", weights_only=False)
        for name in ("0_of_1", "0_of_2", "1_of_2")
    )
    assert len(one["cases"]) == 2 and np.isfinite(one["scores"]).all()
    assert first["scored"] + second["scored"] == one["scored"] == one["cases"] and first["scored"]
    for of_process in (first, second):
        np.testing.assert_array_equal(of_process["scores"], one["scores"])
        assert of_process["teachers"] == one["teachers"] and any(one["teachers"])


def test_two_processes_of_lckd_take_the_same_steps_as_one(trained_in_one_and_two_processes):
    one, first, second = (
        torch.load(trained_in_one_and_two_processes / f"lckd_{name}.pt", weights_only=False)
        for name in ("0_of_1", "0_of_2", "1_of_2")
    )
    assert all(sum(part["weight L_kd"] for part in found["parts"]) > 0 for found in (one, first))
    assert len(one["weights"]) > 20
    for name, weights in one["weights"].items():
        assert torch.equal(first["weights"][name], second["weights"][name]), name
        torch.testing.assert_close(first["weights"][name], weights, rtol=0, atol=1e-10, msg=name)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_compiled_network_needs_no_other_process_either(trained_in_one_and_two_processes, rank):
    found = torch.load(trained_in_one_and_two_processes / f"lckd_{rank}_of_2.pt", weights_only=False)
    assert not found["synchronises_buffers"]


def test_the_log_is_of_all_processes(trained_in_one_and_two_processes):
    found = {
        name: torch.load(trained_in_one_and_two_processes / f"True_{name}.pt")["ranks"]
        for name in ("0_of_1", "0_of_2", "1_of_2")
    }
    assert found["0_of_1"] == [{"rank": 0}]
    assert found["0_of_2"] == found["1_of_2"] == [{"rank": 0}, {"rank": 1}]


@pytest.mark.parametrize("name", TRAINERS)
def test_two_processes_of_every_trainer_take_the_same_steps_as_one(trained_in_one_and_two_processes, name):
    """With items of different codes or image types in the two processes, some of which the other process has not.

    They are the same because each term of a loss is a mean over items, as instance norm is a function of one item, and
    because a process averages as many items, and as many masked pixels, as the other. The draws of a process are
    replaced: codes and masked patches are those of the joined batch, and there is no noise and no drop path.
    """
    one, first, second = (
        torch.load(trained_in_one_and_two_processes / f"every_{number}.pt", weights_only=False)[name]
        for number in ("0_of_1", "0_of_2", "1_of_2")
    )
    assert first["losses"] != second["losses"] and len(one["losses"]) == 3
    np.testing.assert_allclose(np.mean([first["losses"], second["losses"]], axis=0), one["losses"], rtol=1e-6)
    for key, weights in one["weights"].items():
        assert torch.equal(first["weights"][key], second["weights"][key]), key
        torch.testing.assert_close(first["weights"][key], weights, rtol=0, atol=1e-10, msg=key)


@pytest.mark.parametrize("name", COMPILED)
def test_two_processes_with_compiled_networks_take_the_same_steps_as_one_without(
    trained_in_one_and_two_processes, name
):
    one = torch.load(trained_in_one_and_two_processes / "every_0_of_1.pt", weights_only=False)[name]
    first, second = (
        torch.load(trained_in_one_and_two_processes / f"compiled_{number}.pt", weights_only=False)[name]
        for number in ("0_of_2", "1_of_2")
    )
    for key, weights in one["weights"].items():
        assert torch.equal(first["weights"][key], second["weights"][key]), key
        torch.testing.assert_close(first["weights"][key], weights, rtol=0, atol=1e-10, msg=key)
