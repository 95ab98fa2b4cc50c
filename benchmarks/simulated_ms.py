#!/usr/bin/env python3
"""Train on the simulated MS cohort on a CPU; score the models there and on two real patients, under all codes.

    python benchmarks/simulated_ms.py --shared ../shared --out simulated_ms

Needs the data beside the checkout (`tools/simulate_ms.py`, `data/simulated_ms`, `data/open_ms`) and says so if it is
not there. Writes the tables to the screen and all else into --out: an evaluation of the simulated test cases and one of
the real patients, with their reports. Run it again with the same --out, and models that have been trained there are
only scored.

Both are predicted without test-time mirroring.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

from nnunet_moe.workspace import Workspace, add_small_configuration, epoch_line, machine

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
    print(machine())
    if not raw.exists():
        subprocess.run([sys.executable, simulator, "--inputs", inputs, "--out", raw], check=True, stdout=sys.stderr)
        _plan(workspace, options.epochs)
    for trainer in options.trainers:
        _train(workspace, trainer, options.device)
    for name, folder, suffix in (("simulated test cases", raw, "Ts"), ("real patients", real, "Tr")):
        _evaluate(workspace, options, name, folder / f"images{suffix}", folder / f"labels{suffix}")


def _plan(workspace: Workspace, num_epochs: int) -> None:
    workspace.run("nnUNetv2_plan_and_preprocess", "-d", str(DATASET_ID), "-c", "3d_fullres", "-np", "2", "-npfp", "2")
    add_small_configuration(
        workspace.preprocessed / DATASET / "nnUNetPlans.json",
        CONFIGURATION,
        patch_size=[48, 48, 48],
        features_per_stage=[16, 32, 64, 128],
        settings={"num_epochs": num_epochs, "num_iterations_per_epoch": 50, "num_val_iterations_per_epoch": 14},
    )


def _train(workspace: Workspace, trainer: str, device: str) -> None:
    model_folder = workspace.results / DATASET / f"{trainer}__nnUNetPlans__{CONFIGURATION}"
    if (model_folder / "fold_0" / "checkpoint_final.pth").exists():
        return
    model = (str(DATASET_ID), CONFIGURATION, "0", "-tr", trainer, "-device", device)
    start = time.monotonic()
    workspace.run("nnUNetv2_train", *model, progress=epoch_line)
    print(f"\n{trainer} trained in {(time.monotonic() - start) / 60:.0f} min, final validation included")


def _evaluate(workspace: Workspace, options: argparse.Namespace, name: str, images: Path, labels: Path) -> None:
    out = workspace.folder / name.replace(" ", "_")
    model = ("-d", str(DATASET_ID), "-c", CONFIGURATION, "-f", "0", "-device", options.device, "-tr", *options.trainers)
    start = time.monotonic()
    workspace.run(
        "nnunet_moe", "evaluate", *model, "-i", str(images), "-l", str(labels), "-o", str(out), "--disable_tta"
    )
    minutes = (time.monotonic() - start) / 60
    tables = "\n".join((out / "tables" / f"lesion_{table}.md").read_text() for table in ("codes", "modalities"))
    print(f"\n{name} ({minutes:.1f} min)\n\n{tables}\nReport: {out / 'report.html'}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shared", type=Path, default=Path(__file__).resolve().parents[2] / "shared")
    parser.add_argument("--out", type=Path, default=Path("simulated_ms"), help="a new folder, or one of an earlier run")
    parser.add_argument("--trainers", nargs="+", default=["nnUNetTrainerMoESD", "nnUNetTrainerModalityDropout"])
    parser.add_argument("--epochs", type=int, default=40, help="of 50 iterations each")
    parser.add_argument("--device", choices=("cpu", "cuda", "mps"), default="cpu")
    return parser.parse_args()


if __name__ == "__main__":
    main()
