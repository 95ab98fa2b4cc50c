#!/usr/bin/env python3
"""Compare all methods on the simulated MS cohort, on a CPU: train them, and score them with all codes.

    python benchmarks/simulated_ms.py --shared ../shared --out simulated_ms

It makes the cohort and a configuration that a CPU can train. Then it runs the study `simulated_ms.yaml`, or another
study of that dataset and configuration (--study). The study also scores two real patients. To resume, rerun the command
with the same --out. Each study has a folder with its name below --out.

It needs `tools/simulate_ms.py`, `data/simulated_ms` and `data/open_ms` below --shared, and reports an error if one is
missing.
"""

import os
import subprocess
import sys
from pathlib import Path

from cohort import Cohort, open_workspace, parse_options

COHORT = Cohort(
    "Dataset502_SimMS",
    patch_size=[64, 64],
    features_per_stage=[16, 32, 64],
    batch_size=8,
    length={"num_epochs": 60, "num_iterations_per_epoch": 50, "num_val_iterations_per_epoch": 14},
)


def main() -> None:
    options = parse_options(Path(__file__), __doc__)
    simulator, inputs, real = (
        options.shared / path for path in ("tools/simulate_ms.py", "data/simulated_ms/inputs.npz", "data/open_ms")
    )
    workspace = open_workspace(options, (simulator, inputs, real))
    if not COHORT.is_raw(workspace):
        command = [sys.executable, simulator, "--inputs", inputs, "--out", workspace.raw / COHORT.dataset]
        subprocess.run(command, check=True, stdout=sys.stderr)
    if not COHORT.is_preprocessed(workspace):
        workspace.run("nnUNetv2_plan_and_preprocess", "-d", "502", "-c", "2d", "-np", "2", "-npfp", "2")
    os.environ["OPEN_MS"] = str(real.resolve())
    COHORT.run_study(workspace, options)


if __name__ == "__main__":
    main()
