"""Compare a model with its exports in stock nnU-Net: segmentations of real patients, time and memory.

It exports a trained model for every subset of its modalities, or an untrained model, which costs the same. Then it runs
stock nnU-Net on the exports, in an environment where this package cannot be imported. It prints Markdown.
"""

import argparse
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from measuring import in_turn, ratio
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.paths import nnUNet_preprocessed, nnUNet_results
from nnunetv2.run.run_training import get_trainer_from_args
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import Tensor, nn

from nnunet_moe.commands.demo.case_subsets import CaseSubsets, cases_of
from nnunet_moe.commands.export.export import export_models
from nnunet_moe.commands.export.request import Request
from nnunet_moe.modalities.codes import Code, channel_names, code_digits, code_text
from nnunet_moe.models.choice import ModelChoice
from nnunet_moe.models.networks import planned_network
from nnunet_moe.reports.table import markdown_table
from nnunet_moe.runtime.environment import VARIABLE, external_trainers_folder, machine, trainers_known
from nnunet_moe.runtime.files import dataset_name, folder_name, nnunet_folder

COMMAND = "nnUNetv2_predict_from_modelfolder"
STOCK, SINGLE, HALF = "stock nnU-Net", "ours, single precision", "ours, bfloat16"
CPU = torch.device("cpu")
STAGES = {
    "cases in the source folder": "start-up, model",
    "Predicting ": "start of workers, reading, preprocessing",
    "sending off prediction": "network",
    "Segmentation export complete": "resampling, writing",
}
"""Text that nnU-Net's command prints at the end of a stage -> the stage."""


@dataclass(frozen=True)
class Run:
    """One run of the command."""

    stages: tuple[float, ...]
    """Seconds of each of `STAGES`, and of the rest."""
    peak_kib: int
    """Peak memory of the largest process."""


@dataclass(frozen=True)
class Setup:
    """A trained model, its exports and the cases."""

    model: Path
    configuration: str
    exports: Path
    subsets: CaseSubsets
    out: Path
    repetitions: int

    def export(self, code: Code) -> Path:
        return self.exports / folder_name(code_text(code, self.subsets.modalities))

    @property
    def complete(self) -> Path:
        return self.export(self.subsets.codes[-1])


def main() -> None:
    options = _options()
    out = options.out.resolve()
    out.mkdir(parents=True)
    dataset = dataset_name(options.d)
    if options.untrained:
        os.environ["nnUNet_results"] = str(out / "nnUNet_results")
        _write_untrained(dataset, options.c, options.tr)
    model = nnunet_folder(nnUNet_results) / dataset / f"{options.tr}__nnUNetPlans__{options.c}"
    choice = ModelChoice(dataset=dataset, configuration=options.c, trainer=options.tr, folds=(0,))
    export_models(Request(model=choice, out=out / "models", modalities=None))
    (out / "stranger").mkdir()  # importing this package fails here
    (out / "stranger" / "nnunet_moe.py").write_text(
        "raise ModuleNotFoundError('nnunet_moe is not installed')", encoding="utf-8"
    )
    modalities = channel_names(json.loads((model / "dataset.json").read_text(encoding="utf-8")))
    labels = options.images.with_name(options.images.name.replace("images", "labels"))
    subsets = CaseSubsets(options.images, labels, out / "plugin", cases_of(labels), modalities)
    setup = Setup(model, options.c, out / "models", subsets, out, options.repetitions)
    weights = "first weights" if options.untrained else "trained weights"
    print(f"{machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads; {model.name}, {weights}\n")
    for part in options.parts:
        PARTS[part](setup)


def report_equality(setup: Setup) -> None:
    """Compare the segmentations of the model and of its exports in stock nnU-Net, for every case and code.

    Mirroring is off.
    """
    subsets, tta = setup.subsets, ("--disable_tta",)
    subsets.write_inputs(setup.out / "incoming")
    _predict(SINGLE, setup.model, setup.out / "incoming", subsets.predictions, *tta)
    rows = []
    for code in subsets.codes:
        name = code_digits(code)
        images, out = setup.out / f"incoming_{name}", setup.out / f"stock_{name}"
        _renumbered(setup, code, images)
        _predict(STOCK, setup.export(code), images, out, *tta)
        by_stock = np.stack([_read(out / f"{case}.nii.gz") for case in subsets.cases])
        by_plugin = np.stack([_read(subsets.predictions / f"{case}_{name}.nii.gz") for case in subsets.cases])
        differing, size, lesions = int((by_stock != by_plugin).sum()), by_plugin.size, int((by_plugin > 0).sum())
        rows.append((code_text(code, subsets.modalities), *map(str, (differing, size, lesions))))
    print(markdown_table(("modalities", "voxels that differ", "of", "lesion voxels"), rows), end="\n\n", flush=True)


def report_forward(setup: Setup) -> None:
    """Compare the forward pass of an exported network with that of the network that nnU-Net plans."""
    rows = []
    for code in (setup.subsets.codes[0], setup.subsets.codes[-1]):
        with redirect_stdout(io.StringIO()):
            exported: Any = nnUNetPredictor(device=CPU)
            exported.initialize_from_trained_model_folder(str(setup.export(code)), (0,))
        plans, configuration = exported.plans_manager, exported.configuration_manager
        planned = planned_network(
            nnUNetTrainer.__name__, plans, configuration, exported.dataset_json, deep_supervision=False
        )
        networks = {"exported": exported.network.eval(), "planned": planned.eval()}
        image = torch.randn(1, sum(code), *configuration.patch_size)
        runs = {name: partial(_forward, network, image) for name, network in networks.items()}
        times = in_turn(runs, 20 * setup.repetitions, CPU)
        counts = [sum(weight.numel() for weight in network.parameters()) for network in networks.values()]
        name = code_text(code, setup.subsets.modalities)
        rows.append((name, f"{counts[0]}, {counts[1]}", ratio(times, "exported", "planned", digits=3)))
    columns = ("modalities", "parameters, exported and planned", "forward time, exported / planned")
    print(markdown_table(columns, rows), end="\n\n", flush=True)


def report_command(setup: Setup) -> None:
    """Measure the whole command on a complete case, in turns, and the time of each stage from its output."""
    images = setup.out / "patient"
    images.mkdir()
    for channel in range(len(setup.subsets.modalities)):
        shutil.copy(setup.subsets.images / f"{setup.subsets.cases[0]}_{channel:04d}.nii.gz", images)
    models = {STOCK: setup.complete, SINGLE: setup.model, HALF: setup.model}
    runs: dict[str, list[Run]] = {name: [] for name in models}

    def run(name: str) -> None:
        runs[name].append(_predict(name, models[name], images, setup.out / f"command_{name}"))

    times = in_turn({name: partial(run, name) for name in models}, setup.repetitions, CPU, warm_up=False)
    peaks = {name: [float(run.peak_kib) for run in runs[name]] for name in models}
    whole, by_stage = [], []
    for name in models:
        seconds, gib = statistics.median(times[name]), statistics.median(peaks[name]) / 2**20
        ratios = ratio(times, name, STOCK), ratio(peaks, name, STOCK)
        whole.append((name, f"{seconds:.1f} s", ratios[0], f"{gib:.2f} GiB", ratios[1]))
        stages = [statistics.median(seconds) for seconds in zip(*(run.stages for run in runs[name]), strict=True)]
        by_stage.append((name, *(f"{seconds:.1f} s" for seconds in stages)))
    columns = ("whole command for one case", "time", "/ stock", "peak memory of the largest process", "/ stock")
    print(markdown_table(columns, whole), end="\n\n")
    print(markdown_table(("", *STAGES.values(), "exit"), by_stage))
    file = f"{setup.subsets.cases[0]}.nii.gz"
    by = {name: _read(setup.out / f"command_{name}" / file) for name in models}
    for name in (SINGLE, HALF):
        print(f"\nVoxels that differ between {name} and {STOCK}: {int((by[name] != by[STOCK]).sum())}")
    print()


PARTS = {"equal": report_equality, "forward": report_forward, "command": report_command}


def _forward(network: nn.Module, image: Tensor) -> None:
    with torch.inference_mode():
        network(image)


def _predict(name: str, model: Path, images: Path, out: Path, *more: str) -> Run:
    """Run nnU-Net's command in the environment of a candidate."""
    workers = ("-f", "0", "-device", "cpu", "-npp", "1", "-nps", "1", "--disable_progress_bar")
    script = str(Path(sys.executable).parent / COMMAND)
    command = [script, "-m", str(model), "-i", str(images), "-o", str(out), *workers, *more]
    marks, pending = [time.perf_counter()], list(STAGES)
    process = subprocess.Popen(
        command, env=_environment(name, out.parent), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    with (out.parent / f"{out.name}.log").open("w", encoding="utf-8") as log:
        for line in process.stdout:
            log.write(line)
            if pending and pending[0] in line:
                pending.pop(0)
                marks.append(time.perf_counter())
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0 or pending:
        sys.exit(f"{COMMAND} failed. Read its output: {log.name}")
    marks.append(time.perf_counter())
    return Run(tuple(after - before for before, after in pairwise(marks)), usage.ru_maxrss)


def _environment(name: str, out: Path) -> dict[str, str]:
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    if name == STOCK:
        environment.pop(VARIABLE, None)
        return {**environment, "PYTHONPATH": str(out / "stranger")}
    folder = str(external_trainers_folder())
    return {**environment, VARIABLE: folder, "nnunet_moe_bf16": "1" if name == HALF else "0"}


def _renumbered(setup: Setup, code: Code, folder: Path) -> None:
    """Copy the files of a code with the channel numbers of its export."""
    folder.mkdir()
    for case in setup.subsets.cases:
        for number, channel in enumerate(np.flatnonzero(code)):
            file = setup.subsets.images / f"{case}_{channel:04d}.nii.gz"
            shutil.copyfile(file, folder / f"{case}_{number:04d}.nii.gz")


def _write_untrained(dataset: str, configuration: str, trainer: str) -> None:
    """Write a model folder with the initial weights of a training."""
    with trainers_known(), redirect_stdout(io.StringIO()):
        made: Any = get_trainer_from_args(dataset, configuration, 0, trainer, device=CPU)
        made.initialize()
    made.inference_allowed_mirroring_axes = tuple(range(len(made.configuration_manager.patch_size)))
    folder, preprocessed = Path(made.output_folder), nnunet_folder(nnUNet_preprocessed) / dataset
    made.save_checkpoint(str(folder / "checkpoint_final.pth"))
    shutil.copy(preprocessed / "nnUNetPlans.json", folder.with_name("plans.json"))
    for name in ("dataset.json", "dataset_fingerprint.json"):
        shutil.copy(preprocessed / name, folder.parent)


def _read(file: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(file)))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-d", required=True, help="use a model of this dataset (name or id)")
    parser.add_argument("-c", required=True, help="use this configuration")
    parser.add_argument(
        "-tr",
        default="nnUNetTrainerMoESD",
        help="use fold 0 of this trainer with nnUNetPlans (default: %(default)s)",
    )
    parser.add_argument("--untrained", action="store_true", help="use initial weights (default: trained weights)")
    parser.add_argument("--images", type=Path, required=True, help="predict this folder imagesXX, next to labelsXX")
    parser.add_argument("--out", type=Path, required=True, help="write to this folder, which must not exist")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="run these parts (default: all)")
    parser.add_argument("--repetitions", type=int, default=3, help="repeat this many times (default: %(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
