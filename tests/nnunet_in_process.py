"""nnU-Net's commands inside the test's process, which saves what starting one costs."""

import sys
from importlib.metadata import entry_points

import pytest
import torch
from nnunetv2.run.run_training import get_trainer_from_args, maybe_load_checkpoint

from nnunet_moe.runtime.environment import trainers_known

CPU = torch.device("cpu")


def command(name: str, *arguments: object) -> None:
    """Run one of nnU-Net's console scripts in this process, on as many threads as the others after it."""
    threads = torch.get_num_threads()
    (script,) = entry_points(group="console_scripts", name=name)
    with trainers_known(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [name, *map(str, arguments)])
        if "plan" in name or "preprocess" in name:  # there nnU-Net takes 0 for a number of threads, and fails
            patch.setenv("nnUNet_n_proc_DA", "1")
        try:
            script.load()()
        finally:
            torch.set_num_threads(threads)


def make_trainer(dataset_id, configuration, trainer, *, plans="nnUNetPlans", fold=0, pretrained=None, go_on=False):
    """What `nnUNetv2_train` makes before it trains."""
    with trainers_known():
        made = get_trainer_from_args(str(dataset_id), configuration, fold, trainer, plans, go_on, device=CPU)
    maybe_load_checkpoint(made, go_on, False, pretrained)
    return made


def train(dataset_id, configuration, trainer="nnUNetTrainerMoESD", **more):
    """`nnUNetv2_train` up to its final validation."""
    made = make_trainer(dataset_id, configuration, trainer, **more)
    made.run_training()
    return made
