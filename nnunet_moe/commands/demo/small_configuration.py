"""A configuration that is small enough to train on a CPU."""

import copy
import json
from pathlib import Path

from nnunet_moe.runtime.json_files import read_json
from nnunet_moe.settings.plans import PLANS_KEY


def add_small_configuration(
    plans_file: Path,
    name: str,
    *,
    patch_size: list[int],
    features_per_stage: list[int],
    settings: dict,
    batch_size: int | None = None,
) -> None:
    """Add a configuration with a small patch and network, derived from `2d` or `3d_fullres`, to the plans.

    Args:
        plans_file: an `nnUNetPlans.json` with a `2d` or `3d_fullres` configuration of the plain U-Net.
        name: name of the new configuration.
        patch_size: two or three numbers, in pixels or voxels; divisible by 2 once for each stage after the first.
        features_per_stage: features of each stage; their number is the number of stages.
        settings: the value of the key `nnunet_moe`.
        batch_size: the batch size; None keeps the planned one.
    """
    plans = read_json(plans_file)
    planned = "2d" if len(patch_size) == 2 else "3d_fullres"
    architecture = copy.deepcopy(plans["configurations"][planned]["architecture"])
    num_stages, dimensions = len(features_per_stage), len(patch_size)
    architecture["arch_kwargs"].update(
        n_stages=num_stages,
        features_per_stage=features_per_stage,
        kernel_sizes=[[3] * dimensions] * num_stages,
        strides=[[1] * dimensions] + [[2] * dimensions] * (num_stages - 1),
        n_conv_per_stage=[2] * num_stages,
        n_conv_per_stage_decoder=[2] * (num_stages - 1),
    )
    plans["configurations"][name] = {
        "inherits_from": planned,
        "patch_size": patch_size,
        "architecture": architecture,
        PLANS_KEY: settings,
        **({} if batch_size is None else {"batch_size": batch_size}),
    }
    plans_file.write_text(json.dumps(plans, indent=4), encoding="utf-8")
