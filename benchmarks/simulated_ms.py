#!/usr/bin/env python3
"""Train MoE-SD on the simulated MS cohort on a CPU; score it there and on two real patients, under all codes.

    python benchmarks/simulated_ms.py --shared ../shared --out simulated_ms

Needs the data beside the checkout (`tools/simulate_ms.py`, `data/simulated_ms`, `data/open_ms`) and says so if it is
not there. Writes the tables and the time of a prediction to the screen, the pictures and all else into --out. Run it
again with the same --out, and a model that has been trained there is predicted and scored anew.

The real patients are predicted with nnUNetv2_predict's defaults, the 105 simulated inputs without test-time mirroring.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

from nnunet_moe.case_subsets import CaseSubsets, cases_of, median_case
from nnunet_moe.codes import channel_names
from nnunet_moe.workspace import Workspace, add_small_configuration, case_line, epoch_line, machine

DATASET_ID, DATASET = 502, "Dataset502_SimMS"
CONFIGURATION = "3d_cpu"


def main() -> None:
    options = _options()
    simulator, inputs, real = (
        options.shared / path for path in ("tools/simulate_ms.py", "data/simulated_ms/inputs.npz", "data/open_ms")
    )
    if missing := [str(path) for path in (simulator, inputs, real) if not path.exists()]:
        sys.exit(f"This benchmark needs data that is not here: {', '.join(missing)}. Name its folder with --shared.")
    workspace = Workspace(options.out, reuse=True)
    raw = workspace.raw / DATASET
    model = ("-tr", options.trainer, "-device", options.device)
    model_folder = workspace.results / DATASET / f"{options.trainer}__nnUNetPlans__{CONFIGURATION}"
    print(machine())
    if not (model_folder / "fold_0" / "checkpoint_final.pth").exists():
        subprocess.run([sys.executable, simulator, "--inputs", inputs, "--out", raw], check=True, stdout=sys.stderr)
        _train(workspace, model, options.epochs)
    for name, images, labels, more in (
        ("simulated test cases", raw / "imagesTs", raw / "labelsTs", ("--disable_tta",)),
        ("real patients", real / "imagesTr", real / "labelsTr", ()),
    ):
        folder = workspace.folder / name.replace(" ", "_")
        modalities = channel_names(json.loads((raw / "dataset.json").read_text()))
        subsets = CaseSubsets(images, labels, folder / "predictions", cases_of(labels), modalities)
        seconds = _predict(workspace, subsets, (*model, *more))
        print(f"\n{len(subsets.cases)} {name}\n\n{subsets.table()}\n\n{seconds:.1f} s a prediction, start-up shared")
        subsets.plot(median_case(subsets), folder / "codes.png")


def _train(workspace: Workspace, model: tuple[str, ...], num_epochs: int) -> None:
    workspace.run("nnUNetv2_plan_and_preprocess", "-d", str(DATASET_ID), "-c", "3d_fullres", "-np", "2", "-npfp", "2")
    add_small_configuration(
        workspace.preprocessed / DATASET / "nnUNetPlans.json",
        CONFIGURATION,
        patch_size=[48, 48, 48],
        features_per_stage=[16, 32, 64, 128],
        settings={"num_epochs": num_epochs, "num_iterations_per_epoch": 50, "num_val_iterations_per_epoch": 14},
    )
    start = time.monotonic()
    workspace.run("nnUNetv2_train", str(DATASET_ID), CONFIGURATION, "0", *model, progress=epoch_line)
    print(f"\n{50 * num_epochs} iterations in {(time.monotonic() - start) / 60:.0f} min, final validation included")


def _predict(workspace: Workspace, subsets: CaseSubsets, options: tuple[str, ...]) -> float:
    """Predict all cases under all codes with nnU-Net's command; returns seconds a prediction."""
    shutil.rmtree(subsets.predictions.parent, ignore_errors=True)
    incoming = subsets.predictions.parent / "incoming"
    subsets.write_inputs(incoming)
    where = ("-i", str(incoming), "-o", str(subsets.predictions), "-npp", "1", "-nps", "1")
    model = ("-d", str(DATASET_ID), "-c", CONFIGURATION, "-f", "0", *options)
    start = time.monotonic()
    workspace.run("nnUNetv2_predict", *model, *where, progress=case_line)
    return (time.monotonic() - start) / (len(subsets.cases) * len(subsets.codes))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shared", type=Path, default=Path(__file__).resolve().parents[2] / "shared")
    parser.add_argument("--out", type=Path, default=Path("simulated_ms"), help="a new folder, or one of an earlier run")
    parser.add_argument("--trainer", default="nnUNetTrainerMoESD")
    parser.add_argument("--epochs", type=int, default=60, help="of 50 iterations each")
    parser.add_argument("--device", choices=("cpu", "cuda", "mps"), default="cpu")
    return parser.parse_args()


if __name__ == "__main__":
    main()
