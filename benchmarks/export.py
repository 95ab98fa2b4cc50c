"""What prediction costs beside stock nnU-Net, and whether exported models segment real patients alike.

Exports a trained model for every subset of its modalities (or one with its first weights, which costs the same), and
runs stock nnU-Net on the exports in an environment in which this package cannot be imported. Prints Markdown.
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
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from cost import in_turn, ratio
from nnunetv2.inference.export_prediction import export_prediction_from_logits
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.paths import nnUNet_preprocessed, nnUNet_results
from nnunetv2.run.run_training import get_trainer_from_args
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import Tensor, nn

from nnunet_moe.case_subsets import CaseSubsets, cases_of
from nnunet_moe.codes import Code, channel_names, code_digits, code_text
from nnunet_moe.environment import VARIABLE, trainers_known
from nnunet_moe.export.export import Request, export_models
from nnunet_moe.files import dataset_name, folder_name, nnunet_folder
from nnunet_moe.trained import planned_network
from nnunet_moe.workspace import machine

COMMAND = "nnUNetv2_predict_from_modelfolder"
STOCK, SINGLE, HALF = "stock nnU-Net", "ours, single precision", "ours, bfloat16"
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Setup:
    """One trained model, its exports and the patients."""

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
    export_models(Request(dataset, options.c, options.tr, out / "models", None, (0,)))
    (out / "stranger").mkdir()  # where importing this package fails
    (out / "stranger" / "nnunet_moe.py").write_text("raise ModuleNotFoundError('nnunet_moe is not installed')")
    modalities = channel_names(json.loads((model / "dataset.json").read_text()))
    labels = options.images.with_name(options.images.name.replace("images", "labels"))
    subsets = CaseSubsets(options.images, labels, out / "plugin", cases_of(labels), modalities)
    setup = Setup(model, options.c, out / "models", subsets, out, options.repetitions)
    weights = "first weights" if options.untrained else "trained weights"
    print(f"{machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads; {model.name}, {weights}\n")
    for part in options.parts:
        PARTS[part](setup)


def report_equality(setup: Setup) -> None:
    """Every patient under every code by the plugin and by stock nnU-Net with the export, without mirroring."""
    subsets, tta = setup.subsets, ("--disable_tta",)
    subsets.write_inputs(setup.out / "incoming")
    _predict(SINGLE, setup.model, setup.out / "incoming", subsets.predictions, *tta)
    print("| modalities | voxels that differ | of | lesion voxels |\n|---|---|---|---|")
    for code in subsets.codes:
        name = code_digits(code)
        images, out = setup.out / f"incoming_{name}", setup.out / f"stock_{name}"
        _renumbered(setup, code, images)
        _predict(STOCK, setup.export(code), images, out, *tta)
        by_stock = np.stack([_read(out / f"{case}.nii.gz") > 0 for case in subsets.cases])
        by_plugin = np.stack([subsets.prediction(case, code) for case in subsets.cases])
        differing, size, lesions = int((by_stock != by_plugin).sum()), by_plugin.size, int(by_plugin.sum())
        print(f"| {code_text(code, subsets.modalities)} | {differing} | {size} | {lesions} |", flush=True)
    print()


def report_forward(setup: Setup) -> None:
    """A patch through an exported network and through the one that nnU-Net plans for these channels."""
    print("| modalities | parameters, exported and planned | forward time, exported / planned |\n|---|---|---|")
    for code in (setup.subsets.codes[0], setup.subsets.codes[-1]):
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
        print(f"| {name} | {counts[0]}, {counts[1]} | {ratio(times, 'exported', 'planned', digits=3)} |", flush=True)
    print()


def report_command(setup: Setup) -> None:
    """A complete patient by the whole command, in turns."""
    images = setup.out / "patient"
    images.mkdir()
    for channel in range(len(setup.subsets.modalities)):
        shutil.copy(setup.subsets.images / f"{setup.subsets.cases[0]}_{channel:04d}.nii.gz", images)
    models = {STOCK: setup.complete, SINGLE: setup.model, HALF: setup.model}
    peaks: dict[str, list[int]] = {name: [] for name in models}

    def run(name: str) -> None:
        peaks[name].append(_predict(name, models[name], images, setup.out / f"command_{name}"))

    times = in_turn({name: partial(run, name) for name in models}, setup.repetitions, CPU, warm_up=False)
    print("| a patient by the whole command | time | / stock | peak memory of the largest process | / stock |")
    print("|---|---|---|---|---|")
    for name in models:
        gib = statistics.median(peaks[name]) / 2**20
        of_stock = statistics.median(a / b for a, b in zip(peaks[name], peaks[STOCK], strict=True))
        seconds = statistics.median(times[name])
        print(f"| {name} | {seconds:.1f} s | {ratio(times, name, STOCK)} | {gib:.2f} GiB | {of_stock:.2f} |")
    file = f"{setup.subsets.cases[0]}.nii.gz"
    by = {name: _read(setup.out / f"command_{name}" / file) for name in models}
    for name in (SINGLE, HALF):
        print(f"\nVoxels that differ between {name} and {STOCK}: {int((by[name] != by[STOCK]).sum())}")
    print()


def report_stages(setup: Setup) -> None:
    """Where the time of a command goes, stage by stage inside one process; start-up by a command of its own."""
    files = [
        str(setup.subsets.images / f"{setup.subsets.cases[0]}_{n:04d}.nii.gz")
        for n in range(len(setup.subsets.modalities))
    ]
    rows: dict[str, dict[str, float]] = {}
    for name, model in ((STOCK, setup.complete), (SINGLE, setup.model), (HALF, setup.model)):
        seconds = rows.setdefault(name, {})
        with _timed(seconds, "start-up"):
            subprocess.run([_script(), "-h"], env=_environment(name, setup.out), check=True, stdout=subprocess.DEVNULL)
        with _timed(seconds, "model"), trainers_known(), redirect_stdout(io.StringIO()):
            predictor: Any = nnUNetPredictor(device=CPU, allow_tqdm=False)
            predictor.initialize_from_trained_model_folder(str(model), (0,))
        plans, configuration = predictor.plans_manager, predictor.configuration_manager
        with _timed(seconds, "reading, preprocessing"):
            preprocessor = configuration.preprocessor_class(verbose=False)
            data, _, properties = preprocessor.run_case(files, None, plans, configuration, predictor.dataset_json)
        os.environ["nnunet_moe_bf16"] = "1" if name == HALF else "0"
        with _timed(seconds, "network"):
            logits = predictor.predict_logits_from_preprocessed_data(torch.from_numpy(data))
        with _timed(seconds, "resampling, writing"):
            export_prediction_from_logits(
                logits.numpy(), properties, configuration, plans, predictor.dataset_json, str(setup.out / "stages")
            )
    stages = list(rows[STOCK])
    print(f"| | {' | '.join(stages)} |\n|---{'|---' * len(stages)}|")
    for name, seconds in rows.items():
        print(f"| {name} | {' | '.join(f'{seconds[stage]:.1f} s' for stage in stages)} |")
    print()


PARTS = {"equal": report_equality, "forward": report_forward, "command": report_command, "stages": report_stages}


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[stage] = time.perf_counter() - start


def _forward(network: nn.Module, image: Tensor) -> None:
    with torch.inference_mode():
        network(image)


def _predict(name: str, model: Path, images: Path, out: Path, *more: str) -> int:
    """Run nnU-Net's command in the environment of a candidate; returns the largest process's peak memory in KiB."""
    workers = ("-f", "0", "-device", "cpu", "-npp", "1", "-nps", "1", "--disable_progress_bar")
    command = [_script(), "-m", str(model), "-i", str(images), "-o", str(out), *workers, *more]
    environment = _environment(name, out.parent)
    with (out.parent / f"{out.name}.log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        sys.exit(f"{COMMAND} failed; its output: {log.name}")
    return usage.ru_maxrss


def _environment(name: str, out: Path) -> dict[str, str]:
    if name == STOCK:
        environment = {**os.environ, "PYTHONPATH": str(out / "stranger")}
        environment.pop(VARIABLE, None)
        return environment
    with trainers_known():
        return {**os.environ, "nnunet_moe_bf16": "1" if name == HALF else "0"}


def _script() -> str:
    return str(Path(sys.executable).parent / COMMAND)


def _renumbered(setup: Setup, code: Code, folder: Path) -> None:
    """The patients' files of a code as its export wants them."""
    folder.mkdir()
    for case in setup.subsets.cases:
        for number, channel in enumerate(np.flatnonzero(code)):
            file = setup.subsets.images / f"{case}_{channel:04d}.nii.gz"
            shutil.copyfile(file, folder / f"{case}_{number:04d}.nii.gz")


def _write_untrained(dataset: str, configuration: str, trainer: str) -> None:
    """A model folder with the weights that a training starts with."""
    with trainers_known(), redirect_stdout(io.StringIO()):
        made: Any = get_trainer_from_args(dataset, configuration, 0, trainer, device=CPU)
        made.initialize()
    folder, preprocessed = Path(made.output_folder), nnunet_folder(nnUNet_preprocessed) / dataset
    made.save_checkpoint(str(folder / "checkpoint_final.pth"))
    shutil.copy(preprocessed / "nnUNetPlans.json", folder.with_name("plans.json"))
    shutil.copy(preprocessed / "dataset.json", folder.with_name("dataset.json"))


def _read(file: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(file)))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-d", required=True, help="dataset that a model was trained on")
    parser.add_argument("-c", required=True, help="configuration")
    parser.add_argument("-tr", default="nnUNetTrainerMoESD", help="trainer (default: %(default)s); fold 0, nnUNetPlans")
    parser.add_argument("--untrained", action="store_true", help="with the weights that a training starts with")
    parser.add_argument("--images", type=Path, required=True, help="imagesXX of patients, beside labelsXX")
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--repetitions", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    main()
