"""Compare the time and the output of `nnunet_moe predict` and nnU-Net's own command. Print Markdown.

Both commands take turns and predict every case of a folder with every subset of its modalities.
"""

import argparse
import json
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import torch
from measuring import in_turn, ratio
from nnunetv2.paths import nnUNet_results

from nnunet_moe.commands.demo.case_subsets import CaseSubsets, cases_of
from nnunet_moe.modalities.codes import channel_names
from nnunet_moe.runtime.environment import machine, trainers_known
from nnunet_moe.runtime.files import dataset_name, nnunet_folder

COMMANDS = {"nnUNetv2_predict": ("nnUNetv2_predict",), "nnunet_moe predict": ("nnunet_moe", "predict")}


def main() -> None:
    options = _options()
    options.out.mkdir(parents=True)
    model = nnunet_folder(nnUNet_results) / dataset_name(options.d) / f"{options.tr}__nnUNetPlans__{options.c}"
    modalities = channel_names(json.loads((model / "dataset.json").read_text(encoding="utf-8")))
    labels = options.images.with_name(options.images.name.replace("images", "labels"))
    subsets = CaseSubsets(options.images, labels, options.out / "unused", cases_of(labels), modalities)
    subsets.write_inputs(options.out / "incoming")
    workers = ("-npp", str(options.workers), "-nps", str(options.workers))
    arguments = ("-d", options.d, "-c", options.c, "-tr", options.tr, "-f", "0", "-device", "cpu", *workers)
    more = ("-i", str(options.out / "incoming"), "--disable_tta", "--disable_progress_bar")
    runs = {name: partial(_run, name, options.out, (*arguments, *more)) for name in COMMANDS}
    times = in_turn(runs, options.repetitions, torch.device("cpu"), warm_up=False)
    stock, ours = COMMANDS
    files = sorted((options.out / stock).glob("*.nii.gz"))
    same = sum(file.read_bytes() == (options.out / ours / file.name).read_bytes() for file in files)
    print(f"{machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads; {model.name}\n")
    print(f"{len(files)} cases, -npp and -nps {options.workers}, {options.repetitions} repetitions")
    print(f"nnunet_moe predict / nnUNetv2_predict, time: {ratio(times, ours, stock)}")
    print(f"Identical segmentation files: {same} of {len(files)}")


def _run(name: str, folder: Path, arguments: tuple[str, ...]) -> None:
    command, *verb = COMMANDS[name]
    out = folder / name
    shutil.rmtree(out, ignore_errors=True)
    script = str(Path(sys.executable).parent / command)
    with trainers_known(), (folder / f"{name}.log").open("w", encoding="utf-8") as log:
        subprocess.run([script, *verb, *arguments, "-o", str(out)], check=True, stdout=log, stderr=log)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-d", required=True, help="use a model of this dataset (name or id)")
    parser.add_argument("-c", required=True, help="use this configuration")
    parser.add_argument("-tr", default="nnUNetTrainerMoESD", help="use this trainer (default: %(default)s)")
    parser.add_argument("--images", type=Path, required=True, help="predict this folder imagesXX, next to labelsXX")
    parser.add_argument("--out", type=Path, required=True, help="write to this folder, which must not exist")
    parser.add_argument(
        "--workers", type=int, default=1, help="use this number for -npp and -nps (default: %(default)s)"
    )
    parser.add_argument(
        "--repetitions", type=int, default=3, help="run each command this many times (default: %(default)s)"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
