"""One process of `test_distributed`: two training steps on its share of each batch, on the CPU.

Called with the folder of the inputs, the rank and the number of processes; writes weights and counts into the folder.
"""

import copy
import sys
from pathlib import Path

import torch
from torch import distributed
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from nnunet_moe.trainers.moesd import nnUNetTrainerMoESD


def initialised(inputs: dict, batch_dice: bool) -> nnUNetTrainerMoESD:
    """Made before torch.distributed is, since nnU-Net then asks for CUDA devices."""
    plans = copy.deepcopy(inputs["plans"])
    plans["continue_training"] = False
    plans["configurations"]["3d_fullres"]["batch_dice"] = batch_dice
    trainer = nnUNetTrainerMoESD(plans, "3d_tiny", 0, inputs["dataset_json"], torch.device("cpu"))
    trainer.initialize()
    trainer.network.double()
    return trainer


def two_steps(trainer: nnUNetTrainerMoESD, inputs: dict, rank: int, world: int) -> dict:
    share = slice(rank * 2 // world, (rank + 1) * 2 // world)
    trainer.is_ddp = True
    trainer.loss = trainer._build_loss()
    trainer.self_distillation = trainer._build_self_distillation_loss()
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
        trainer.train_step({"data": batch["data"][share], "target": target})
    weights = trainer._modality_network().state_dict()
    return {
        "weights": weights,
        "reductions": reductions[1:],
        "after_first_pass": after_first_pass,
        "synchronises_buffers": world > 1 and trainer.network.will_sync_module_buffers(),
        "ranks": trainer._of_all_processes([{"rank": rank}]),
    }


def counted(reductions: list[int]):
    def hook(state, bucket):
        reductions[-1] += 1
        return allreduce_hook(state, bucket)

    return hook


def main() -> None:
    folder, rank, world = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    inputs = torch.load(folder / "inputs.pt", weights_only=False)
    trainers = {batch_dice: initialised(inputs, batch_dice) for batch_dice in (False, True)}
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store{world}", rank=rank, world_size=world)
    for batch_dice, trainer in trainers.items():
        torch.save(two_steps(trainer, inputs, rank, world), folder / f"{batch_dice}_{rank}_of_{world}.pt")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
