"""The small model of `nnunet_moe demo`, trained for a few steps. Several benchmarks use it."""

from collections.abc import Mapping

from nnunet_moe.commands.demo.demo import CONFIGURATION, DATASET, DATASET_ID, PHANTOM_SHAPE, TRAINER
from nnunet_moe.commands.demo.small_configuration import add_small_configuration
from nnunet_moe.images.phantom import write_phantom_cohort
from nnunet_moe.runtime.workspace import Workspace

MODEL = ("-d", str(DATASET_ID), "-c", CONFIGURATION, "-tr", TRAINER, "-f", "0", "-device", "cpu")
"""The options that choose the model, for all commands of this package."""


def train_demo_model(workspace: Workspace, *, num_training: int, length: Mapping[str, int]) -> None:
    """Plan, preprocess and train on a CPU with nnU-Net's commands, unless the workspace has a trained model.

    Args:
        num_training: how many simulated training cases.
        length: settings: the number of epochs, and of iterations in each.
    """
    if list(workspace.results.rglob("checkpoint_final.pth")):
        return
    write_phantom_cohort(workspace.raw / DATASET, num_training=num_training, num_test=1, shape=PHANTOM_SHAPE)
    planning = ("-d", str(DATASET_ID), "-c", "3d_fullres", "-np", "2", "-npfp", "2")
    workspace.run("nnUNetv2_plan_and_preprocess", *planning)
    plans, features = workspace.preprocessed / DATASET / "nnUNetPlans.json", [16, 32, 64]
    add_small_configuration(
        plans, CONFIGURATION, patch_size=[32] * 3, features_per_stage=features, settings=dict(length)
    )
    workspace.run("nnUNetv2_train", str(DATASET_ID), CONFIGURATION, "0", "-tr", TRAINER, "-device", "cpu")
