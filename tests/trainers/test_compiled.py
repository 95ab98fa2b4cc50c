"""Compiled training, as nnU-Net compiles on GPUs: few graphs, the same losses, and graphs that do not grow."""

import shutil

import pytest
import torch
from functorch.compile import make_boxed_func
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.utils import counters
from torch._inductor import config as inductor
from torch._inductor.decomposition import select_decomp_table

from made_plans import NAMES
from made_trainers import TRAINERS, levels_of, made_trainer
from nnunet_moe.architectures.item_kernels import way_for

QUICK = ("MoESD", "LCKD")
SLOW = ("DynamicStem", "Dedicated", "M4oENoGate", "M4oEMAE")
CHECKED = [
    *(f"nnUNetTrainer{name}" for name in QUICK),
    *(pytest.param(f"nnUNetTrainer{name}", marks=pytest.mark.slow) for name in SLOW),
]
"""A trainer of each network and of each training step."""
MOST_GRAPHS = 4
"""Training, validation, prediction of one patch, and prediction of another number of patches."""


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Trainers by their names, initialised, with a small 2D network; nothing is compiled yet."""
    monkeypatch.setenv("nnunet_moe_bf16", "0")
    torch.compiler.reset()
    counters.clear()

    def make(name, folder, features=(4, 6, 8)):
        trainer = made_trainer(name, tmp_path / folder, monkeypatch, patch_size=[32, 32], features=features)
        trainer.network.train()
        return trainer

    yield make
    torch.compiler.reset()


def batch_for(trainer, items, seed=0):
    """Items that differ in what they have, and other ones for each seed."""
    available = torch.tensor([[0, 1, 1], [1, 0, 0], [1, 1, 1]])
    if trainer.network_class.takes_one_image_type:
        available = torch.eye(3)
    elif trainer.is_dedicated:
        available = torch.tensor([[1, 1, 1], [1, 0, 1]])
    generator = torch.Generator().manual_seed(seed)
    data = torch.randn(items, len(NAMES), 32, 32, generator=generator)
    data[~available[(torch.arange(items) + seed) % len(available)].bool()] = torch.nan
    label = torch.randint(0, 2, (items, 1, 32, 32), generator=generator).to(torch.int16)
    return {"data": data, "target": levels_of(trainer, label)}


def steps_of(trainer):
    """Train, validate, hold an election, predict batches of other sizes and train again; yield what each step gives."""
    trainer.on_train_epoch_start()  # seeds the random generators
    for seed in range(3):
        yield trainer.train_step(batch_for(trainer, 2, seed))["loss"]
    trainer.network.eval()
    with torch.no_grad():
        trainer.on_validation_epoch_start()
        for seed in range(3):
            yield trainer.validation_step(batch_for(trainer, 2, seed))["loss"]
        if not trainer.is_pretraining:
            trainer.set_deep_supervision_enabled(False)
            if hasattr(trainer, "election"):
                yield trainer.election._predictor().network(batch_for(trainer, 3)["data"])
            for items in (1, 4, 1, 5):
                yield trainer.network(batch_for(trainer, items)["data"])
            trainer.set_deep_supervision_enabled(trainer.enable_deep_supervision)
    trainer.network.train()
    for seed in range(3, 5):
        yield trainer.train_step(batch_for(trainer, 2, seed))["loss"]


def assert_same_steps(compiled, eager):
    """Expect the same up to rounding: a compiled M4oE without gates applies all experts, an eager one those needed."""
    for got, expected in zip(list(steps_of(compiled)), list(steps_of(eager)), strict=True):
        torch.testing.assert_close(torch.as_tensor(got), torch.as_tensor(expected), rtol=1e-4, atol=1e-4)


def test_each_network_and_each_training_step_is_among_the_checked_ones():
    def kind(name):
        return TRAINERS[name].network_class, TRAINERS[name].backward

    assert {kind(name) for name in TRAINERS} == {kind(f"nnUNetTrainer{name}") for name in (*QUICK, *SLOW)}


@pytest.mark.parametrize("name", CHECKED)
def test_all_steps_together_compile_few_graphs_without_breaks_and_give_the_same(made, name):
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    eager, compiled = made(name, "eager"), made(name, "compiled")
    compiled.network = torch.compile(compiled.network, backend=backend)
    assert_same_steps(compiled, eager)
    assert 0 < len(graphs) <= MOST_GRAPHS and not counters["graph_break"]


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="inductor needs a C++ compiler")
def test_inductor_gives_the_same_loss_and_gradients(made):
    """Of mixtures of kernels; of the other networks, inductor gets ordinary layers."""
    found = []
    for compiled in (False, True):
        trainer = made("nnUNetTrainerMoESD", f"compiled {compiled}", (4, 6))
        network = torch.compile(trainer.network) if compiled else trainer.network
        torch.manual_seed(0)
        with inductor.patch(fallback_random=True):
            logits = network(batch_for(trainer, 3)["data"])
            loss = torch.stack([level.square().mean() for level in logits]).sum()
            loss.backward()
        found.append((loss.detach(), *(weight.grad for weight in trainer.network.parameters())))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


def nodes_of(trainer, items) -> int:
    """The operations that inductor gets of a forward and a backward pass."""
    found = []

    def count(graph, _):
        found.append(sum(node.op.startswith("call") for node in graph.graph.nodes))
        return make_boxed_func(graph.forward)

    torch.compiler.reset()
    backend = aot_autograd(fw_compiler=count, bw_compiler=count, decompositions=select_decomp_table())
    logits = torch.compile(trainer.network, backend=backend)(batch_for(trainer, items)["data"])
    torch.stack([level.sum() for level in logits]).sum().backward()
    assert len(found) == 2
    return sum(found)


def test_the_compiled_graph_grows_neither_with_the_batch_nor_far_beyond_modality_dropouts(made):
    baseline = nodes_of(made("nnUNetTrainerModalityDropout", "baseline", (4, 6, 8)), 2)
    trainer = made("nnUNetTrainerMoESD", "ours", (4, 6, 8))
    nodes = []
    for items in (2, 12, 40):
        for layer in trainer.network.mixtures:
            layer.item_kernels = way_for(
                device="cuda", dimensions=2, batch_size=items, num_terms=layer.num_terms, autocast=True
            )
        nodes.append(nodes_of(trainer, items))
    assert max(nodes) <= 1.5 * baseline and nodes[1] == nodes[2]
