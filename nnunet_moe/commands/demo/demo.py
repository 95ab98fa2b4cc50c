"""Plan, preprocess, train, predict every subset of the modalities, score and draw, on a simulated dataset."""

import time
from pathlib import Path

from nnunet_moe.commands.demo.case_subsets import CaseSubsets, cases_of, median_case
from nnunet_moe.commands.demo.progress import TrainingProgress, case_line
from nnunet_moe.commands.demo.small_configuration import add_small_configuration
from nnunet_moe.images.phantom import SIGNAL, write_phantom_cohort
from nnunet_moe.runtime.workspace import Workspace

DATASET_ID = 999
DATASET = f"Dataset{DATASET_ID}_Phantom"
CONFIGURATION = "3d_demo"
TRAINER = "nnUNetTrainerMoESD"
PHANTOM_SHAPE = (48, 56, 48)
TRAINING_LENGTH = {"num_epochs": 20, "num_iterations_per_epoch": 20, "num_val_iterations_per_epoch": 7}
NEXT_STEPS = f"""
Next, use your own data: put a raw dataset, for example Dataset502_NAME, into nnUNet_raw. Files may be missing.
  plan:    nnunet_moe plan_and_preprocess -d 502 -c 3d_fullres --verify_dataset_integrity
  train:   eval "$(nnunet_moe env)" && nnUNetv2_train 502 3d_fullres 0 -tr {TRAINER}
  predict: nnunet_moe predict -i INPUT_FOLDER -o OUTPUT_FOLDER -d 502 -c 3d_fullres -f 0 -tr {TRAINER}"""


def run_demo(folder: Path, device: str) -> None:
    """Run the demo in an empty or new folder, and print the results and the next steps.

    Args:
        folder: for nnU-Net's three folders, the logs, the test inputs, the predictions and `demo.png`.
        device: `cpu`, `cuda` or `mps`.

    Raises:
        CommandError: the folder is not empty, or one of nnU-Net's commands failed.
    """
    start = time.monotonic()
    workspace = Workspace(folder)
    raw = workspace.raw / DATASET
    model = ("-tr", TRAINER, "-device", device)

    _say(start, "1/4 simulate images (16 training and 4 test cases)")
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

    num_epochs = TRAINING_LENGTH["num_epochs"]
    _say(start, f"3/4 train {TRAINER} on {device} for {num_epochs} short epochs")
    fold = workspace.results / DATASET / f"{TRAINER}__nnUNetPlans__{CONFIGURATION}" / "fold_0"
    progress = TrainingProgress(fold, num_epochs)
    workspace.run("nnUNetv2_train", str(DATASET_ID), CONFIGURATION, "0", *model, progress=progress)

    images, labels = raw / "imagesTs", raw / "labelsTs"
    subsets = CaseSubsets(images, labels, workspace.folder / "predictions", cases_of(labels), tuple(SIGNAL))
    _say(start, f"4/4 predict each test case from all {len(subsets.codes)} subsets of its modalities")
    subsets.write_inputs(workspace.folder / "incoming")
    where = ("-i", str(workspace.folder / "incoming"), "-o", str(subsets.predictions))
    prediction = ("-d", str(DATASET_ID), "-c", CONFIGURATION, "-f", "0", *model, *where)
    # mirroring would double the time of the demo on a CPU without bfloat16 units
    quick = ("--disable_tta", "-npp", "1", "-nps", "1")
    workspace.run("nnUNetv2_predict", *prediction, *quick, progress=case_line)

    picture = workspace.folder / "demo.png"
    subsets.plot(median_case(subsets), picture)
    _say(start, f"done\n\nMean Dice of {len(subsets.cases)} simulated test cases\n\n{subsets.table()}\n")
    print(f"Picture: {picture}\nModel, predictions and logs: {workspace.folder}\n{NEXT_STEPS}")


def _say(start: float, text: str) -> None:
    print(f"[{time.monotonic() - start:4.0f} s] {text}", flush=True)
