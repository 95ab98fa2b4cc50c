#!/usr/bin/env python3
"""Compare all methods on the simulated MS cohort, on a CPU: train them, and score them with all codes.

    python benchmarks/simulated_ms.py --shared ../shared --out simulated_ms

It makes the cohort and a configuration that a CPU can train. Then it runs the study `simulated_ms.yaml`, or another
study of that dataset and configuration (--study). The study also scores two real patients. To resume, rerun the command
with the same --out.

It needs `tools/simulate_ms.py`, `data/simulated_ms` and `data/open_ms` below --shared, and reports an error if one is
missing.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from nnunet_moe.commands.demo.small_configuration import add_small_configuration
from nnunet_moe.runtime.environment import machine
from nnunet_moe.runtime.workspace import Workspace

DATASET_ID, DATASET = 502, "Dataset502_SimMS"
CONFIGURATION = "2d_cpu"
LENGTH = {"num_epochs": 60, "num_iterations_per_epoch": 50, "num_val_iterations_per_epoch": 14}


def main() -> None:
    options = _options()
    simulator, inputs, real = (
        options.shared / path for path in ("tools/simulate_ms.py", "data/simulated_ms/inputs.npz", "data/open_ms")
    )
    if missing := [str(path) for path in (simulator, inputs, real) if not path.exists()]:
        sys.exit(f"This benchmark needs missing data: {', '.join(missing)}. Give the folder of the data with --shared.")
    workspace = Workspace(options.out, reuse=True)
    plans = workspace.preprocessed / DATASET / "nnUNetPlans.json"
    print(machine())
    if not (workspace.raw / DATASET / "dataset.json").exists():  # the simulator writes this file last
        command = [sys.executable, simulator, "--inputs", inputs, "--out", workspace.raw / DATASET]
        subprocess.run(command, check=True, stdout=sys.stderr)
    if not plans.exists():
        workspace.run("nnUNetv2_plan_and_preprocess", "-d", str(DATASET_ID), "-c", "2d", "-np", "2", "-npfp", "2")
    add_small_configuration(
        plans, CONFIGURATION, patch_size=[64, 64], features_per_stage=[16, 32, 64], batch_size=8, settings=LENGTH
    )
    os.environ["OPEN_MS"] = str(real.resolve())
    study = ("study", str(options.study), "-o", str(workspace.folder / "study"), "-device", options.device)
    workspace.run("nnunet_moe", *study, "-jobs", str(options.jobs), progress=lambda line: line.rstrip())


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--shared",
        type=Path,
        default=Path(__file__).resolve().parents[2] / "shared",
        help="read the data from this folder (default: shared next to the checkout)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("simulated_ms"),
        help="write to this folder, which must be new or from an earlier run (default: %(default)s)",
    )
    parser.add_argument(
        "--study",
        type=Path,
        default=Path(__file__).with_suffix(".yaml"),
        help="run this study (default: simulated_ms.yaml next to this file)",
    )
    parser.add_argument("--jobs", type=int, default=1, help="run this many jobs at a time (default: %(default)s)")
    parser.add_argument(
        "--device", choices=("cpu", "cuda", "mps"), default="cpu", help="run on this device (default: %(default)s)"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
