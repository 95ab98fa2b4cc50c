"""Compare predictions with bfloat16 and float32 on the CPU: Dice by code, and the time.

It uses a workspace that `nnunet_moe demo` or `simulated_ms.py` has filled. It predicts the test cases with every
code, with nnU-Net's command: once with `nnunet_moe_bf16=0` and once with `nnunet_moe_bf16=1`.
"""

import argparse
import json
import os
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from nnunet_moe.commands.demo.case_subsets import CaseSubsets, cases_of
from nnunet_moe.commands.demo.progress import case_line
from nnunet_moe.modalities.codes import channel_names, code_text
from nnunet_moe.reports.table import markdown_table
from nnunet_moe.runtime.environment import machine
from nnunet_moe.runtime.workspace import Workspace


def main() -> None:
    options = _options()
    workspace = Workspace(options.workspace, reuse=True)
    models = list(workspace.results.glob(f"*/{options.trainer}__*__{options.configuration}"))
    if len(models) != 1:
        sys.exit(f"{workspace.results} has {len(models)} models of {options.trainer}. Choose one with --configuration.")
    model = models[0]
    dataset, (trainer, plans, configuration) = model.parent.name, model.name.split("__")
    raw = workspace.raw / dataset
    images, labels = options.images or raw / "imagesTs", options.labels or raw / "labelsTs"
    modalities = channel_names(json.loads((raw / "dataset.json").read_text(encoding="utf-8")))
    folder = workspace.folder / "bfloat16"
    shutil.rmtree(folder, ignore_errors=True)
    subsets = CaseSubsets(images, labels, folder, cases_of(labels), modalities)
    subsets.write_inputs(folder / "incoming")
    arguments = ("-d", dataset, "-c", configuration, "-tr", trainer, "-p", plans, "-f", "0", "-chk", options.chk)
    arguments += ("-i", str(folder / "incoming"), "-device", "cpu", "-npp", "1", "-nps", "1")
    arguments += () if options.tta else ("--disable_tta",)

    dice, seconds = {}, {}
    for name, value in (("float32", "0"), ("bfloat16", "1")):
        os.environ["nnunet_moe_bf16"] = value
        start = time.monotonic()
        workspace.run("nnUNetv2_predict", *arguments, "-o", str(folder / name), progress=case_line)
        seconds[name] = time.monotonic() - start
        dice[name] = replace(subsets, predictions=folder / name).dice().mean(axis=1)

    number = len(subsets.cases) * len(subsets.codes)
    print(f"{machine()}, torch {torch.__version__}\n{model.name}, {options.chk}, {len(subsets.cases)} cases\n")
    rows = [
        (code_text(code, modalities), f"{single:.4f}", f"{half:.4f}", f"{half - single:+.4f}")
        for code, single, half in zip(subsets.codes, dice["float32"], dice["bfloat16"], strict=True)
    ]
    print(markdown_table(("modalities", "Dice, float32", "Dice, bfloat16", "difference"), rows))
    print(f"\nlargest difference {np.abs(dice['bfloat16'] - dice['float32']).max():.4f}")
    print(", ".join(f"{name} {value / number:.2f} s a prediction" for name, value in seconds.items()))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("workspace", type=Path, help="use the data and models of this workspace")
    parser.add_argument("--images", type=Path, help="predict these images (default: the dataset's test cases)")
    parser.add_argument("--labels", type=Path, help="score with these labels (default: those of the test cases)")
    parser.add_argument("--trainer", default="nnUNetTrainerMoESD", help="use this trainer (default: %(default)s)")
    parser.add_argument("--configuration", default="*", help="use this configuration (default: the only one)")
    parser.add_argument("--chk", default="checkpoint_final.pth", help="use this checkpoint (default: %(default)s)")
    parser.add_argument(
        "--tta", action="store_true", help="mirror in prediction, as nnU-Net does (default: no mirroring)"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
