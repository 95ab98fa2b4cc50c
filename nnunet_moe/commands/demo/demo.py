"""The whole job on a phantom cohort: plan, preprocess, train, predict under every code, score, draw."""

import time
from pathlib import Path

from nnunet_moe.commands.demo.case_subsets import CaseSubsets, cases_of, median_case
from nnunet_moe.commands.demo.progress import case_line, epoch_line
from nnunet_moe.commands.demo.small_configuration import add_small_configuration
from nnunet_moe.images.phantom import SIGNAL, write_phantom_cohort
from nnunet_moe.runtime.workspace import Workspace

DATASET_ID = 999
DATASET = f"Dataset{DATASET_ID}_Phantom"
CONFIGURATION = "3d_demo"
TRAINER = "nnUNetTrainerMoESD"
PHANTOM_SHAPE = (48, 56, 48)
TRAINING_LENGTH = {"num_epochs": 20, "num_iterations_per_epoch": 20, "num_val_iterations_per_epoch": 7}


def run_demo(folder: Path, device: str) -> None:
    """Run the demo into a folder that is empty or does not exist yet; print the table and where the picture is.

    Args:
        folder: gets nnU-Net's three folders, the logs, the test inputs, the predictions and `demo.png`.
        device: `cpu`, `cuda` or `mps`.

    Raises:
        CommandError: the folder holds something already, or a command of nnU-Net failed.
    """
    start = time.monotonic()
    workspace = Workspace(folder)
    raw = workspace.raw / DATASET
    model = ("-tr", TRAINER, "-device", device)

    _say(start, "1/4 write a phantom cohort (simulated images; 16 training and 4 test cases)")
    write_phantom_cohort(raw, num_training=16, num_test=4, shape=PHANTOM_SHAPE)

    _say(start, "2/4 plan and preprocess")
    planning = ("-d", str(DATASET_ID), "-c", "3d_fullres", "-np", "2", "-npfp", "2")
    workspace.run("nnUNetv2_plan_and_preprocess", *planning)
    add_small_configuration(
        workspace.preprocessed / DATASET / "nnUNetPlans.json",
        CONFIGURATION,
        patch_size=[32, 32, 32],
        features_per_stage=[16, 32, 64],
        settings=TRAINING_LENGTH,
    )

    _say(start, f"3/4 train {TRAINER} on {device} for {TRAINING_LENGTH['num_epochs']} short epochs")
    workspace.run("nnUNetv2_train", str(DATASET_ID), CONFIGURATION, "0", *model, progress=epoch_line)

    images, labels = raw / "imagesTs", raw / "labelsTs"
    subsets = CaseSubsets(images, labels, workspace.folder / "predictions", cases_of(labels), tuple(SIGNAL))
    _say(start, f"4/4 predict each test case under all {len(subsets.codes)} codes, its other files missing")
    subsets.write_inputs(workspace.folder / "incoming")
    where = ("-i", str(workspace.folder / "incoming"), "-o", str(subsets.predictions))
    prediction = ("-d", str(DATASET_ID), "-c", CONFIGURATION, "-f", "0", *model, *where)
    # mirrored predictions would double the demo's time on a CPU without bfloat16 units
    quick = ("--disable_tta", "-npp", "1", "-nps", "1")
    workspace.run("nnUNetv2_predict", *prediction, *quick, progress=case_line)

    picture = workspace.folder / "demo.png"
    subsets.plot(median_case(subsets), picture)
    _say(start, f"done\n\nMean Dice of {len(subsets.cases)} simulated test cases\n\n{subsets.table()}\n")
    print(f"Picture: {picture}\nModel, predictions and logs: {workspace.folder}")


def _say(start: float, text: str) -> None:
    print(f"[{time.monotonic() - start:4.0f} s] {text}", flush=True)
