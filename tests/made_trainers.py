"""Trainers of every class with a small network, which need no data on disk, and targets for them."""

from pathlib import Path

import pytest
import torch

from made_plans import DATASET_JSON, NAMES, made_plans
from nnunet_moe.trainers.external import nnunet_moe_trainers

TRAINERS = {name: getattr(nnunet_moe_trainers, name) for name in nnunet_moe_trainers.__all__}
COMPILED = ("nnUNetTrainerMoESD", "nnUNetTrainerLCKD")
"""Two trainers to compile in tests: two backward passes in a step, and a network that also returns features."""


def made_trainer(
    name: str,
    folder: Path,
    patch: pytest.MonkeyPatch,
    *,
    patch_size: list[int],
    num_iterations: int = 200,
    features: tuple = (4, 6, 8),
    dataset_json: dict = DATASET_JSON,
    device: str = "cpu",
    previous_stage: str | None = None,
    **settings,
):
    """A trainer by its name, initialised; its one epoch drops modalities from the first iteration on.

    Args:
        folder: gets nnU-Net's three folders, to which `patch` points nnU-Net.
        features: of each stage.
        previous_stage: see `made_plans`.
        settings: in the plans, besides those that make it small.
    """
    for each in ("raw", "preprocessed", "results"):
        patch.setenv(f"nnUNet_{each}", str(folder / each))
    length = {"num_epochs": 1, "num_iterations_per_epoch": num_iterations}
    settings = {**length, "warm_up_fraction": 0.0, "width": 12, **settings}
    if TRAINERS[name].is_dedicated:
        settings["modality_code"] = [1, 0, 1]
    if name == "nnUNetTrainerLCKDFixedTeacher":
        settings["teacher"] = NAMES[0]
    plans = made_plans(folder / "preprocessed", patch_size, settings, features, previous_stage)
    trainer = TRAINERS[name](plans, "small", 0, dataset_json, torch.device(device))
    trainer.initialize()
    return trainer


def levels_of(trainer, label: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
    """A target `(B, 1, *space)` as nnU-Net's loader gives it: one per resolution under deep supervision."""
    scales = trainer._get_deep_supervision_scales()
    if scales is None:
        return label
    return [label[(..., *(slice(None, None, round(1 / factor)) for factor in scale))] for scale in scales]
