"""One process of `test_distributed`: training steps on its share of each batch, and an election, on the CPU.

Called with the folder of the inputs, the rank and the number of processes; writes weights and counts into the folder.
"""

import copy
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import distributed
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from made_plans import NAMES
from made_trainers import COMPILED, TRAINERS, levels_of, made_trainer
from nnunet_moe.modalities.codes import available_modalities
from nnunet_moe.trainers import m4oe_mae
from nnunet_moe.trainers.lckd import nnUNetTrainerLCKD
from nnunet_moe.trainers.moesd import nnUNetTrainerMoESD

NUM_STEPS = 3
SMALL_BUCKET = 2**14
"""In bytes, so that the gradients of small networks, too, are averaged in several parts."""


def of_classes(names: Iterable[str], folder: Path, rank: int, world: int) -> dict[str, Any]:
    """Trainers by their names with small networks, without draws that depend on the process."""
    found = {}
    for name in names:
        size = 32 if TRAINERS[name].network_class.takes_one_image_type else 16
        own = folder / f"{name}_{rank}_of_{world}"
        trainer = made_trainer(name, own, pytest.MonkeyPatch(), patch_size=[size, size], features=(2, 4, 4))
        trainer.network.double().train().code_noise_sd = 0.0
        for module in trainer.network.modules():
            if hasattr(module, "drop_prob"):
                module.drop_prob = 0.0
        found[name] = trainer
    return found


def joined_batches(trainer: Any) -> list[dict]:
    """A batch of two items for each step; the second process has codes and image types that the first one has not."""
    available = [[[0, 1, 1], [1, 0, 0]], [[1, 1, 1], [0, 1, 0]], [[0, 0, 1], [1, 1, 1]]]
    if trainer.network_class.takes_one_image_type:
        available = [[[1, 0, 0], [0, 1, 0]], [[1, 0, 0], [0, 0, 1]], [[1, 0, 0], [0, 1, 0]]]
    elif trainer.is_dedicated:
        available = [[[1, 1, 1], [1, 0, 1]]] * NUM_STEPS
    generator, size = torch.Generator().manual_seed(0), trainer.configuration_manager.patch_size
    batches = []
    for of_items in available:
        data = torch.randn(2, len(NAMES), *size, generator=generator, dtype=torch.float64)
        data[~torch.tensor(of_items).bool()] = torch.nan
        label = torch.randint(0, 2, (2, 1, *size), generator=generator).to(torch.int16)
        batches.append({"data": data, "target": levels_of(trainer, label)})
    return batches


def steps_of(trainer: Any, rank: int, world: int, *, compiled: bool = False) -> dict:
    """Weights after steps on this process's items, with draws that are those of the joined batch."""
    share = slice(rank * 2 // world, (rank + 1) * 2 // world)
    network = trainer.network
    if hasattr(network, "teachers"):
        network.teachers[1] = True
    trainer.is_ddp = True
    trainer.loss = trainer._build_loss()  # as nnU-Net has it in several processes
    trainer.is_ddp = world > 1
    if compiled:  # before DDP, as nnU-Net does it; without inductor, which would take a minute for each graph
        trainer.network = torch.compile(network, backend="aot_eager")
    if world > 1:
        trainer.network = DistributedDataParallel(trainer.network, bucket_cap_mb=SMALL_BUCKET / 2**20)
    kept = torch.tensor([[0, 1, 1], [1, 1, 0]]).bool()[share]
    trainer.draw_codes = lambda data, iteration: _within(kept, data)
    draw = m4oe_mae.draw_masked_patches
    with mock.patch.object(m4oe_mae, "draw_masked_patches", lambda _, *more: draw(2, *more)[share]):
        losses = [float(trainer.train_step(_of_share(batch, share))["loss"]) for batch in joined_batches(trainer)]
    weights = {name: weight.clone() for name, weight in network.state_dict().items()}
    return {"weights": weights, "losses": losses}


def _within(kept: torch.Tensor, data: torch.Tensor) -> torch.Tensor:
    """The codes `kept`, or all that an item has if it has none of these."""
    available = available_modalities(data)
    reduced = kept & available
    return torch.where(reduced.any(dim=1, keepdim=True), reduced, available)


def _of_share(batch: dict, share: slice) -> dict:
    target = batch["target"]
    target = [level[share] for level in target] if isinstance(target, list) else target[share]
    return {"data": batch["data"][share], "target": target}


def initialised(trainer_class: type, inputs: dict, batch_dice: bool = False) -> Any:
    """Made before torch.distributed is, since nnU-Net then asks for CUDA devices."""
    plans = copy.deepcopy(inputs["plans"])
    plans["continue_training"] = False
    plans["configurations"]["3d_fullres"]["batch_dice"] = batch_dice
    trainer = trainer_class(plans, "3d_tiny", 0, inputs["dataset_json"], torch.device("cpu"))
    trainer.initialize()
    return trainer


def two_steps(trainer: nnUNetTrainerMoESD, inputs: dict, rank: int, world: int) -> dict:
    share = slice(rank * 2 // world, (rank + 1) * 2 // world)
    trainer.is_ddp = True
    trainer.loss = trainer._build_loss()
    trainer.self_distillation = trainer._build_self_distillation_loss(trainer.settings.temperature)
    trainer.is_ddp = world > 1
    trainer.draw_codes = lambda data, iteration: inputs["codes"][iteration][share]
    reductions = [0]
    if world > 1:
        trainer.network = DistributedDataParallel(trainer.network)
        trainer.network.register_comm_hook(None, counted(reductions))
    after_first_pass = []
    backward = trainer.backward_full_view
    trainer.backward_full_view = lambda *a: (backward(*a), after_first_pass.append(reductions[-1]))[0]
    for batch in inputs["batches"]:
        reductions.append(0)
        target = [level[share] for level in batch["target"]]
        trainer.train_step({"data": batch["data"][share], "target": target, "keys": ["a", "b"][share]})
    weights = trainer._modality_network().state_dict()
    return {
        "weights": weights,
        "reductions": reductions[1:],
        "after_first_pass": after_first_pass,
        "synchronises_buffers": world > 1 and trainer.network.will_sync_module_buffers(),
        "ranks": trainer._of_all_processes([{"rank": rank}]),
    }


def election(trainer: nnUNetTrainerLCKD, rank: int, world: int) -> dict:
    trainer.is_ddp, trainer.local_rank = world > 1, rank
    if world > 1:
        trainer.network = DistributedDataParallel(trainer.network)
    held = trainer.election
    scored, score = [], held.case_scores
    held.case_scores = lambda case, predictor: (scored.append(case), score(case, predictor))[1]
    found = {"cases": held.cases, "scores": held.scores_alone()[0], "scored": tuple(scored)}
    trainer._appoint(held.hold())
    return {**found, "teachers": trainer._modality_network().teachers.tolist()}


def two_distilling_steps(trainer: nnUNetTrainerLCKD, inputs: dict, rank: int, world: int) -> dict:
    share = slice(rank * 2 // world, (rank + 1) * 2 // world)
    network = trainer._modality_network().double()
    network.teachers[1] = True
    trainer.is_ddp = True
    trainer.loss = trainer._build_loss()
    trainer.is_ddp = world > 1
    if world > 1:
        trainer.network = DistributedDataParallel(network)
    trainer.draw_codes = lambda data, iteration: inputs["codes"][0, iteration : iteration + 1]
    parts = [
        trainer.train_step({"data": batch["data"][share], "target": [level[share] for level in batch["target"]]})
        for batch in inputs["batches"]
    ]
    found = {"parts": trainer._of_all_processes(parts), "weights": network.state_dict()}
    if world > 1:
        compiled = DistributedDataParallel(torch.compile(network))  # as nnU-Net has it on GPUs
        found["synchronises_buffers"] = compiled.will_sync_module_buffers()
    return found


def counted(reductions: list[int]):
    def hook(state, bucket):
        reductions[-1] += 1
        return allreduce_hook(state, bucket)

    return hook


def main() -> None:
    folder, rank, world = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    inputs = torch.load(folder / "inputs.pt", weights_only=False)
    trainers = {batch_dice: initialised(nnUNetTrainerMoESD, inputs, batch_dice) for batch_dice in (False, True)}
    sets = {"label_sets_of_cases": {"a": ["lesion"], "b": ["other"]}}
    description = {**inputs["dataset_json"], "labels": {"background": 0, "lesion": 1, "other": 2}, **sets}
    trainers["label_sets"] = initialised(nnUNetTrainerMoESD, {**inputs, "dataset_json": description}, True)
    elector, lckd = (initialised(nnUNetTrainerLCKD, inputs) for _ in range(2))
    elector.do_split()
    every = of_classes(TRAINERS, folder, rank, world)
    compiled = of_classes(COMPILED if world > 1 else (), folder / "compiled", rank, world)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store{world}", rank=rank, world_size=world)
    for name, trainer in trainers.items():
        trainer.network.double()
        torch.save(two_steps(trainer, inputs, rank, world), folder / f"{name}_{rank}_of_{world}.pt")
    torch.save(election(elector, rank, world), folder / f"election_{rank}_of_{world}.pt")
    torch.save(two_distilling_steps(lckd, inputs, rank, world), folder / f"lckd_{rank}_of_{world}.pt")
    distributed._DEFAULT_FIRST_BUCKET_BYTES = SMALL_BUCKET
    found = {name: steps_of(trainer, rank, world) for name, trainer in every.items()}
    torch.save(found, folder / f"every_{rank}_of_{world}.pt")
    found = {name: steps_of(trainer, rank, world, compiled=True) for name, trainer in compiled.items()}
    torch.save(found, folder / f"compiled_{rank}_of_{world}.pt")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
