#!/usr/bin/env python3
"""Compare M4oE, its ablations and U-Nets on a phantom cohort of abdomens with three image types, on a CPU.

    python benchmarks/m4oe.py --out m4oe

All images are simulated (`abdomen.py`). It prints the DSC by image type and label, the number of parameters, and the
time of a training step. For the times, the candidates take turns. To resume, rerun the command with the same --out.

Every row has the same number of steps. 'U-Net, label sets' computes each step twice, because its two views of a case
with one modality are the same.
"""

import argparse
import json
import os
import statistics
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from abdomen import FILE_ENDING, LABEL_SETS, SIGNAL, write_cohort
from measuring import in_turn, ratio, table
from torch import Tensor

from nnunet_moe.architectures.moe_mlp import gates_kept
from nnunet_moe.architectures.swin_network import SwinUNetwork
from nnunet_moe.commands.demo.small_configuration import add_small_configuration
from nnunet_moe.commands.evaluate.models import folder_cases
from nnunet_moe.models.choice import ModelChoice
from nnunet_moe.models.networks import find_trainer
from nnunet_moe.models.prediction_settings import PredictionSettings
from nnunet_moe.models.segmenter import Segmenter
from nnunet_moe.reports.table import markdown_table
from nnunet_moe.runtime.environment import machine, trainers_known
from nnunet_moe.runtime.workspace import Workspace

OF_KINDS, ONE_CHANNEL = "Dataset510_Abdomen", "Dataset511_AbdomenOneChannel"
NUM_TRAINING, NUM_TEST = 12, 8  # cases of each image type
ITERATIONS = {"num_iterations_per_epoch": 50, "num_val_iterations_per_epoch": 6}
NETWORK = {"patch_size": [96, 96], "features_per_stage": [32, 64, 128, 256], "batch_size": 12}
WIDTH = 48  # half of the published width
PHASE_ONE = "nnUNetTrainerM4oEMAE"


@dataclass(frozen=True)
class Row:
    """A training. All trainings after phase one start from the same checkpoint."""

    trainer: str
    dataset: str = OF_KINDS
    after_phase_one: bool = False

    @property
    def configuration(self) -> str:
        return f"2d_cpu{'_after_phase_one' if self.after_phase_one else ''}"


ROWS = {
    "Swin U-Net": Row("nnUNetTrainerSwinUNet"),
    "M4oE without gate": Row("nnUNetTrainerM4oENoGate"),
    "M4oE": Row("nnUNetTrainerM4oE"),
    "M4oE after phase one": Row("nnUNetTrainerM4oE", after_phase_one=True),
    "M4oE, channel gate": Row("nnUNetTrainerM4oEChannelGate"),
    "U-Net, label sets": Row("nnUNetTrainerModalityDropout"),
    "U-Net, one channel": Row("nnUNetTrainerDedicated", ONE_CHANNEL),
}
CONTROL = "Swin U-Net"
GATED = "nnUNetTrainerM4oE"


def main() -> None:
    options = _options()
    workspace = Workspace(options.out, reuse=True)
    os.environ["nnUNet_preprocessed"] = str(workspace.preprocessed)
    os.environ["nnUNet_results"] = str(workspace.results)
    rows = {name: row for name, row in ROWS.items() if name in options.rows}
    print(f"{machine()}, torch {torch.__version__}\n")
    for dataset in (OF_KINDS, ONE_CHANNEL):
        _plan(workspace, dataset, options.epochs)
    with trainers_known(), ThreadPoolExecutor(options.jobs) as pool:
        rest = [row for row in rows.values() if row.after_phase_one]
        phase_one = pool.submit(_train, workspace, Row(PHASE_ONE)) if rest else None
        scored = [pool.submit(_score, workspace, row) for row in rows.values() if not row.after_phase_one]
        if phase_one is not None:
            scored += [pool.submit(_score, workspace, row, phase_one.result()) for row in rest]
        for each in scored:
            each.result()
    print(dice_table({name: _scores(workspace, row) for name, row in rows.items()}))
    for name, row in rows.items():
        if row.trainer == GATED:
            print(gate_table(name, mean_gates(workspace, row)))
    report_cost(workspace, rows, options.repetitions)


def dice_table(scores: dict[str, pd.DataFrame]) -> str:
    """Make a table of the mean DSC over test cases in percent.

    Each training has a row. Each image type and label has a column, and the last column is the mean of the others.
    """
    columns = [(kind, label) for kind, labels in LABEL_SETS.items() for label in labels]
    rows = []
    for name, table_of_row in scores.items():
        by_kind = 100 * table_of_row.groupby(["kind", "label"])["dsc"].mean()
        means = [float(by_kind[column]) for column in columns]
        rows.append([name, *(f"{mean:.1f}" for mean in means), f"{np.mean(means):.2f}"])
    return markdown_table(["DSC (%)", *(f"{kind} {label}" for kind, label in columns), "mean"], rows) + "\n"


def mean_gates(workspace: Workspace, row: Row) -> dict[str, Tensor]:
    """Return image type -> the experts' mean weights `(blocks, experts)` over all tokens of the test cases."""
    choice = ModelChoice(dataset=row.dataset, configuration=row.configuration, trainer=row.trainer, folds=(0,))
    segmenter = Segmenter(choice.find(), choice.folds, PredictionSettings(mirroring=False, device="cpu"))
    assert isinstance(segmenter.network, SwinUNetwork)
    raw = workspace.raw / row.dataset
    cases, _ = folder_cases(raw / "imagesTs", raw / "labelsTs", FILE_ENDING)
    found = {}
    for channel, kind in enumerate(SIGNAL):
        with gates_kept(segmenter.network.mixtures) as kept:
            for case in cases:
                if case.channels == {channel}:
                    loaded = segmenter.context.read(case.images)
                    segmenter.segment(loaded, loaded.available)
        found[kind] = torch.stack([torch.stack(weights).mean(dim=0) for weights in kept])
    return found


def gate_table(name: str, gates: dict[str, Tensor]) -> str:
    """Make a table of the experts' mean weights, with one row for each image type.

    Below it stands the largest difference between two image types in a block.
    """
    number = next(iter(gates.values())).shape[1]
    rows = [[kind, *(f"{weight:.3f}" for weight in weights.mean(dim=0))] for kind, weights in gates.items()]
    of_kinds = torch.stack(list(gates.values()))
    spread = float((of_kinds.amax(dim=0) - of_kinds.amin(dim=0)).max())
    text = markdown_table([name, *(f"expert {expert + 1}" for expert in range(number))], rows)
    return f"{text}\n\nLargest difference between image types in a block: {spread:.3f}\n"


def report_cost(workspace: Workspace, rows: Mapping[str, Row], repetitions: int) -> None:
    """Print the number of parameters and the time of a training step, compared with the control."""
    steps, parameters = {}, {}
    for name, row in ROWS.items():
        if name == CONTROL or (name in rows and not row.after_phase_one):
            steps[name], parameters[name] = _step(workspace, row)
    times = in_turn(steps, repetitions, torch.device("cpu"))
    print(table("parameters", {name: f"{number / 1e6:.2f} million" for name, number in parameters.items()}))
    print(table("training step", {name: f"{statistics.median(seconds):.2f} s" for name, seconds in times.items()}))
    print(table(f"training step / {CONTROL}", {name: ratio(times, name, CONTROL) for name in times}))


def _plan(workspace: Workspace, dataset: str, epochs: int) -> None:
    plans = workspace.preprocessed / dataset / "nnUNetPlans.json"
    if not plans.exists():
        raw = workspace.raw / dataset
        write_cohort(raw, num_training=NUM_TRAINING, num_test=NUM_TEST, one_channel=dataset == ONE_CHANNEL)
        workspace.run("nnunet_moe", "plan_and_preprocess", "-d", dataset, "-c", "2d", "--no_pbar")
    own = {"modality_code": [1]} if dataset == ONE_CHANNEL else {"width": WIDTH}
    for row in {row.configuration: row for row in ROWS.values()}.values():
        settings = {**ITERATIONS, **own, "num_epochs": epochs}
        add_small_configuration(plans, row.configuration, **NETWORK, settings=settings)


def _train(workspace: Workspace, row: Row, pretrained: Path | None = None) -> Path:
    """Train or resume a row, and return its final checkpoint."""
    fold = workspace.results / row.dataset / f"{row.trainer}__nnUNetPlans__{row.configuration}" / "fold_0"
    final = fold / "checkpoint_final.pth"
    if not final.exists():
        has_begun = (fold / "checkpoint_latest.pth").exists()
        start = ["--c"] if has_begun or pretrained is None else ["-pretrained_weights", str(pretrained)]
        what = (row.dataset, row.configuration, "0", "-tr", row.trainer, "-device", "cpu")
        workspace.run("nnUNetv2_train", *what, *start)
        print(f"trained {row.trainer} {row.configuration}", file=sys.stderr, flush=True)
    return final


def _score(workspace: Workspace, row: Row, pretrained: Path | None = None) -> None:
    _train(workspace, row, pretrained)
    raw = workspace.raw / row.dataset
    what = ("-d", row.dataset, "-c", row.configuration, "-tr", row.trainer, "-f", "0", "-device", "cpu")
    cases = ("-i", str(raw / "imagesTs"), "-l", str(raw / "labelsTs"), "-o", str(_evaluation(workspace, row)))
    workspace.run("nnunet_moe", "evaluate", *what, *cases, "--disable_tta")


def _evaluation(workspace: Workspace, row: Row) -> Path:
    return workspace.folder / "evaluations" / f"{row.trainer}_{row.configuration}"


def _scores(workspace: Workspace, row: Row) -> pd.DataFrame:
    """Read the scores, one row for each case and label, and add the image type."""
    scores = pd.read_csv(_evaluation(workspace, row) / "results.csv")
    kinds = {kind.replace("-", "").lower(): kind for kind in SIGNAL}
    return scores.assign(kind=scores["case"].str.partition("Ts")[0].map(kinds))


def _step(workspace: Workspace, row: Row) -> tuple[Callable[[], Any], int]:
    """Return a training step on a batch of all image types, and the number of parameters."""
    folder = workspace.preprocessed / row.dataset
    plans, dataset_json = (
        json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in ("nnUNetPlans", "dataset")
    )
    with redirect_stdout(sys.stderr):
        trainer = find_trainer(row.trainer)(
            {**plans, "continue_training": False}, row.configuration, 0, dataset_json, torch.device("cpu")
        )
        trainer.initialize()
    num_channels, size = len(dataset_json["channel_names"]), trainer.configuration_manager.patch_size
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(trainer.batch_size, num_channels, *size, generator=generator)
    for number, item in enumerate(image):
        item[torch.arange(num_channels) != number % num_channels] = torch.nan
    # label 1 is the liver, which all image types have
    target = torch.randint(0, 2, (len(image), 1, *size), generator=generator).to(torch.int16)
    scales = trainer._get_deep_supervision_scales() or [[1.0, 1.0]]
    targets = [target[:, :, :: round(1 / y), :: round(1 / x)] for y, x in scales]
    batch = {"data": image, "target": targets if trainer.enable_deep_supervision else targets[0]}
    batch["keys"] = [f"case{number}" for number in range(len(image))]
    parameters = sum(parameter.numel() for parameter in trainer.network.parameters())
    return lambda: trainer.train_step(batch), parameters


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("m4oe"),
        help="write to this folder, which must be new or from an earlier run (default: %(default)s)",
    )
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), help="run these rows (default: all)")
    parser.add_argument(
        "--epochs", type=int, default=30, help="train this many epochs of 50 steps (default: %(default)s)"
    )
    parser.add_argument("--jobs", type=int, default=1, help="run this many jobs at a time (default: %(default)s)")
    parser.add_argument(
        "--repetitions", type=int, default=5, help="measure each step this many times (default: %(default)s)"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
