"""Compare the time of `nnunet_moe evaluate` with and without worker processes. Print Markdown.

    python benchmarks/evaluate.py --out evaluate --finer 2

Trains the model of `nnunet_moe demo` for a few steps, and scores it on simulated cases with every subset of their
modalities. Both ways take turns. The images have voxels of 1 mm / FINER, and the network works at 1 mm, so that
`--finer` sets how much there is to do apart from the network. The results must be the same byte for byte.
"""

import argparse
import re
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from demo_model import MODEL, train_demo_model
from measuring import in_turn, ratio

from nnunet_moe.commands.demo.demo import PHANTOM_SHAPE
from nnunet_moe.images.phantom import FILE_ENDING, draw_phantom
from nnunet_moe.reports.table import markdown_table
from nnunet_moe.runtime.environment import machine
from nnunet_moe.runtime.threads import usable_cores
from nnunet_moe.runtime.workspace import Workspace

LENGTH = {"num_epochs": 4, "num_iterations_per_epoch": 20, "num_val_iterations_per_epoch": 7}
WITHOUT, WITH = "no workers", "workers"
SENTENCE = re.compile(r"The network ran for (\d+) of (\d+) s")


def main() -> None:
    """Train once, then evaluate in turns."""
    options = _options()
    workspace = Workspace(options.out, reuse=True)
    train_demo_model(workspace, num_training=16, length=LENGTH)
    cohort = workspace.folder / f"cohort_{options.finer}"
    if not cohort.exists():
        _write_cohort(cohort, options.cases, options.finer)
    runs = {
        WITHOUT: partial(_evaluate, workspace, cohort, WITHOUT, ("-npp", "0", "-nps", "0")),
        WITH: partial(_evaluate, workspace, cohort, WITH, ("-npp", options.workers, "-nps", options.workers)),
    }
    times = in_turn(runs, options.repetitions, torch.device("cpu"), warm_up=False)
    outputs = [_contents(workspace.folder / name) for name in runs]
    rows = [
        (name, " ".join(f"{seconds:.0f}" for seconds in times[name]), _said(workspace.folder / name)) for name in runs
    ]
    print(f"{machine()}, {usable_cores()} cores usable, torch {torch.__version__}\n")
    print(f"{options.cases} cases, voxels of 1/{options.finer} mm, {options.repetitions} repetitions\n")
    print(markdown_table(("", "seconds", "last run"), rows))
    print(f"\nworkers / no workers, time: {ratio(times, WITH, WITHOUT)}")
    print(f"Same results byte for byte: {'yes' if outputs[0] == outputs[1] else 'NO'}, {len(outputs[0])} files")


def _write_cohort(folder: Path, num_cases: int, finer: int) -> None:
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for number in range(num_cases):
        first, second, third = (finer * size for size in PHANTOM_SHAPE)
        phantom = draw_phantom(np.random.default_rng([number]), (first, second, third))
        files = [folder / "images" / f"case{number:03d}_{channel:04d}{FILE_ENDING}" for channel in range(3)]
        files.append(folder / "labels" / f"case{number:03d}{FILE_ENDING}")
        for file, array in zip(files, (*phantom.images, phantom.lesions), strict=True):
            image = sitk.GetImageFromArray(array)
            image.SetSpacing((1 / finer,) * 3)
            sitk.WriteImage(image, str(file))


def _evaluate(workspace: Workspace, cohort: Path, name: str, workers: tuple[str, ...]) -> None:
    out = workspace.folder / name
    shutil.rmtree(out, ignore_errors=True)
    where = ("-i", str(cohort / "images"), "-l", str(cohort / "labels"), "-o", str(out))
    workspace.run("nnunet_moe", "evaluate", *MODEL, *where, "--disable_tta", "--save_predictions", *workers)
    log = max(workspace.logs.iterdir(), key=lambda file: int(file.name.split("_")[0]))
    (out / "said.txt").write_text(log.read_text(encoding="utf-8"), encoding="utf-8")


def _said(out: Path) -> str:
    match = SENTENCE.search((out / "said.txt").read_text(encoding="utf-8"))
    return "" if match is None else f"network {match[1]} of {match[2]} s"


def _contents(out: Path) -> dict[Path, bytes]:
    """Return the scores and segmentations: file -> content."""
    files = [out / "results.csv", *(file for file in out.rglob("predictions/**/*") if file.is_file())]
    return {file.relative_to(out): file.read_bytes() for file in files}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--out", type=Path, required=True, help="write all files to this folder; a model and cases in it are used again"
    )
    parser.add_argument("--cases", type=int, default=20, help="score so many cases (default: %(default)s)")
    parser.add_argument(
        "--finer", type=int, default=1, help="divide the size of the images' voxels by this (default: %(default)s)"
    )
    parser.add_argument(
        "--workers",
        default="1",
        help="use this number for -npp and -nps (default: %(default)s)",
    )
    parser.add_argument("--repetitions", type=int, default=3, help="repeat so many times (default: %(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
