"""Measure how much more two trainings on the CPU train together than one, with one thread each.

    python benchmarks/threads.py --out threads --repetitions 3

Trains on the simulated images of `nnunet_moe demo`. In each repetition one training runs, then two run at the same
time. The figure is the throughput of the two over that of the one. Augmentation runs in the process of the training
(nnUNet_n_proc_DA=0), so that a training uses one core.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path

from nnunet_moe.commands.demo.demo import CONFIGURATION, DATASET, DATASET_ID, PHANTOM_SHAPE
from nnunet_moe.commands.demo.small_configuration import add_small_configuration
from nnunet_moe.images.phantom import write_phantom_cohort
from nnunet_moe.runtime.environment import machine, trainers_known
from nnunet_moe.runtime.workspace import Workspace

EPOCHS = 4
LENGTH = {"num_epochs": EPOCHS, "num_iterations_per_epoch": 20, "num_val_iterations_per_epoch": 7}


def main() -> None:
    """Plan once, then train in turns."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="write all files to this folder")
    parser.add_argument("--trainer", default="nnUNetTrainerMoESD", help="train this trainer (default: %(default)s)")
    parser.add_argument("--repetitions", type=int, default=3, help="repeat so many times (default: %(default)s)")
    options = parser.parse_args()
    workspace = Workspace(options.out)
    write_phantom_cohort(workspace.raw / DATASET, num_training=16, num_test=4, shape=PHANTOM_SHAPE)
    workspace.run("nnUNetv2_plan_and_preprocess", "-d", str(DATASET_ID), "-c", "3d_fullres", "-np", "2")
    plans = workspace.preprocessed / DATASET / "nnUNetPlans.json"
    for number in range(2):
        add_small_configuration(
            plans, f"{CONFIGURATION}_{number}", patch_size=[32] * 3, features_per_stage=[16, 32, 64], settings=LENGTH
        )
    ratios = []
    for _ in range(options.repetitions):
        (single,) = seconds_per_epoch(workspace, options.trainer, 1)
        together = seconds_per_epoch(workspace, options.trainer, 2)
        ratios.append(sum(single / each for each in together))
        print(
            f"one: {single:.1f} s per epoch; two: {together[0]:.1f} and {together[1]:.1f} s; {ratios[-1]:.2f}",
            flush=True,
        )
    print(f"throughput of two over one: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    content = {"machine": machine(), "trainer": options.trainer, "ratios": ratios}
    (options.out / "threads.json").write_text(json.dumps(content, indent=4), encoding="utf-8")


def seconds_per_epoch(workspace: Workspace, trainer: str, number: int) -> list[float]:
    """Run so many trainings at the same time, and return the median seconds of an epoch of each, without the first."""
    environment = {
        "nnUNet_raw": str(workspace.raw),
        "nnUNet_preprocessed": str(workspace.preprocessed),
        "nnUNet_results": str(workspace.results),
        "nnUNet_n_proc_DA": "0",
        "OMP_NUM_THREADS": "1",
    }
    command = str(Path(sys.executable).with_name("nnUNetv2_train"))
    with trainers_known():
        running = [
            subprocess.Popen(
                [command, str(DATASET_ID), f"{CONFIGURATION}_{each}", "0", "-tr", trainer, "-device", "cpu"],
                env={**os.environ, **environment},
                stdout=subprocess.PIPE,
                text=True,
            )
            for each in range(number)
        ]
    found = []
    for process in running:
        output = process.communicate()[0]
        if process.returncode != 0:
            raise SystemExit(output)
        times = [float(text) for text in re.findall(r"Epoch time: ([\d.]+) s", output)]
        found.append(statistics.median(times[1:]))
    return found


if __name__ == "__main__":
    main()
