#!/usr/bin/env python3
"""Train MoE-SD on the simulated MS cohort on a CPU; score it there and on two real patients, under all codes.

    python benchmarks/simulated_ms.py --shared ../shared --out simulated_ms

Needs the data beside the checkout (`tools/simulate_ms.py`, `data/simulated_ms`, `data/open_ms`) and says so if it is
not there. Writes the tables and the time of a prediction to the screen, the pictures and all else into --out.
"""

import argparse
import json
import platform
import re
import subprocess
import sys
import time
from pathlib import Path

from nnunet_moe.case_subsets import CaseSubsets, cases_of, median_case
from nnunet_moe.codes import channel_names
from nnunet_moe.workspace import Workspace, add_small_configuration, case_line, epoch_line

DATASET_ID, DATASET = 502, "Dataset502_SimMS"
CONFIGURATION = "3d_cpu"


def main() -> None:
    options = _options()
    script, inputs, real = (
        options.shared / path for path in ("tools/simulate_ms.py", "data/simulated_ms/inputs.npz", "data/open_ms")
    )
    if missing := [str(path) for path in (script, inputs, real) if not path.exists()]:
        sys.exit(f"This benchmark needs data that is not here: {', '.join(missing)}. Name its folder with --shared.")
    workspace = Workspace(options.out)
    raw = workspace.raw / DATASET
    subprocess.run([sys.executable, script, "--inputs", inputs, "--out", raw], check=True, stdout=subprocess.DEVNULL)
    planning = ("-d", str(DATASET_ID), "-c", "3d_fullres", "-np", "2", "-npfp", "2")
    workspace.run("nnUNetv2_plan_and_preprocess", *planning)
    modalities = channel_names(json.loads((raw / "dataset.json").read_text()))
    add_small_configuration(
        workspace.preprocessed / DATASET / "nnUNetPlans.json",
        CONFIGURATION,
        patch_size=[48, 48, 48],
        features_per_stage=[16, 32, 64, 128],
        settings={"num_epochs": options.epochs, "num_iterations_per_epoch": 50, "num_val_iterations_per_epoch": 14},
    )
    start = time.monotonic()
    model = ("-tr", options.trainer, "-device", options.device)
    workspace.run("nnUNetv2_train", str(DATASET_ID), CONFIGURATION, "0", *model, progress=epoch_line)
    print(
        f"\n{options.trainer}, {50 * options.epochs} iterations: {(time.monotonic() - start) / 60:.0f} min of training"
    )
    print(f"{platform.platform()}, {_processor()}\n")
    for name, images, labels in (
        ("simulated test cases", raw / "imagesTs", raw / "labelsTs"),
        ("real patients", real / "imagesTr", real / "labelsTr"),
    ):
        folder = workspace.folder / name.replace(" ", "_")
        subsets = CaseSubsets(images, labels, folder / "predictions", cases_of(labels), modalities)
        _predict(workspace, subsets, folder, model)
        print(f"\n{len(subsets.cases)} {name}\n\n{subsets.table()}")
        subsets.plot(median_case(subsets), folder / "codes.png")


def _predict(workspace: Workspace, subsets: CaseSubsets, folder: Path, model: tuple[str, ...]) -> None:
    subsets.write_inputs(folder / "incoming")
    where = ("-i", str(folder / "incoming"), "-o", str(subsets.predictions))
    prediction = ("-d", str(DATASET_ID), "-c", CONFIGURATION, "-f", "0", *model, *where, "-npp", "1", "-nps", "1")
    start = time.monotonic()
    workspace.run("nnUNetv2_predict", *prediction, progress=case_line)
    seconds = (time.monotonic() - start) / len(list((folder / "predictions").glob(f"*{subsets.file_ending}")))
    print(f"\nnnUNetv2_predict: {seconds:.1f} s a case and code, start-up shared")


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.exists() else []
    return f"{len(names)} x {names[0]}" if names else platform.processor()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shared", type=Path, default=Path(__file__).resolve().parents[2] / "shared")
    parser.add_argument("--out", type=Path, default=Path("simulated_ms"), help="an empty folder")
    parser.add_argument("--trainer", default="nnUNetTrainerMoESD")
    parser.add_argument("--epochs", type=int, default=60, help="of 50 iterations each")
    parser.add_argument("--device", choices=("cpu", "cuda", "mps"), default="cpu")
    return parser.parse_args()


if __name__ == "__main__":
    main()
