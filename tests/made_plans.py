"""Plans as nnU-Net makes them, for trainers that need no data on disk."""

import json
from pathlib import Path

from nnunet_moe.commands.demo.small_configuration import add_small_configuration

NAMES = ("A", "B", "C")
DATASET = "Dataset905_Made"
DATASET_JSON = {
    "channel_names": {str(channel): name for channel, name in enumerate(NAMES)},
    "labels": {"background": 0, "cube": 1},
    "file_ending": ".nii.gz",
}


def _planned(dimensions: int) -> dict:
    """A configuration with a plain U-Net, which `add_small_configuration` makes small."""
    return {
        "data_identifier": "made",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": [64] * dimensions,
        "spacing": [1.0] * dimensions,
        "normalization_schemes": ["ZScoreNormalization"] * len(NAMES),
        "use_mask_for_norm": [False] * len(NAMES),
        "batch_dice": False,
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": {
                "conv_op": f"torch.nn.modules.conv.Conv{dimensions}d",
                "conv_bias": True,
                "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dimensions}d",
                "norm_op_kwargs": {"eps": 1e-5, "affine": True},
                "dropout_op": None,
                "dropout_op_kwargs": None,
                "nonlin": "torch.nn.LeakyReLU",
                "nonlin_kwargs": {"inplace": True},
            },
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
    }


def made_plans(
    folder: Path,
    patch_size: list[int],
    settings: dict,
    features_per_stage: tuple = (4, 6, 8),
    previous_stage: str | None = None,
) -> dict:
    """Plans of three modalities with one small configuration, `small`, as a trainer takes them.

    Args:
        folder: that `nnUNet_preprocessed` names; the plans are written there.
        patch_size: in pixels or voxels, two or three numbers.
        settings: what goes under the key `nnunet_moe`.
        features_per_stage: also says how many stages there are.
        previous_stage: the configuration whose segmentations are further channels, as in a cascade; none by default.
    """
    dataset = folder / DATASET
    (dataset / "made").mkdir(parents=True)
    (dataset / "made" / "case.b2nd").touch()  # by whose ending nnU-Net knows the format
    planned = {2: "2d", 3: "3d_fullres"}[len(patch_size)]
    plans = {
        "dataset_name": DATASET,
        "plans_name": "nnUNetPlans",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {planned: _planned(len(patch_size))},
    }
    file = dataset / "nnUNetPlans.json"
    file.write_text(json.dumps(plans))
    add_small_configuration(
        file, "small", patch_size=patch_size, features_per_stage=list(features_per_stage), settings=settings
    )
    plans = {**json.loads(file.read_text()), "continue_training": False}
    plans["configurations"]["small"]["previous_stage"] = previous_stage
    return plans
