"""What several benchmarks share: candidates that take turns, and trainers that need no data."""

import statistics
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import Tensor

from nnunet_moe.images.phantom import SIGNAL
from nnunet_moe.reports.table import markdown_table


def in_turn(
    candidates: Mapping[str, Callable[[], object]], repetitions: int, device: torch.device, *, warm_up: bool = True
) -> dict[str, list[float]]:
    """Measure the seconds of each candidate in each repetition, by default after a warm-up repetition."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for repetition in range(0 if warm_up else 1, repetitions + 1):
        first = repetition % len(candidates)  # the order matters, because the first candidate finds other free memory
        for name in [*list(candidates)[first:], *list(candidates)[:first]]:
            seconds = seconds_of(candidates[name], device)
            if repetition:
                times[name].append(seconds)
    return times


def seconds_of(candidate: Callable[[], object], device: torch.device) -> float:
    """Measure one run, until the device has finished."""
    wait(device)
    start = time.perf_counter()
    candidate()
    wait(device)
    return time.perf_counter() - start


def ratios(times: Mapping[str, list[float]], name: str, reference: str) -> list[float]:
    """Return the paired ratios, one for each repetition."""
    return [a / b for a, b in zip(times[name], times[reference], strict=True)]


def ratio(times: Mapping[str, list[float]], name: str, reference: str, *, digits: int = 2) -> str:
    """Return the median of the paired ratios, with the lowest and the highest."""
    paired = ratios(times, name, reference)
    median, lowest, highest = (f"{value:.{digits}f}" for value in (statistics.median(paired), min(paired), max(paired)))
    return f"{median} ({lowest} to {highest})"


def table(title: str, rows: dict[str, str]) -> str:
    return markdown_table((title, ""), list(rows.items())) + "\n"


def wait(device: torch.device) -> None:
    """Wait until the device has finished."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def initialized(
    trainer: type[nnUNetTrainer], plans: dict, configuration: str, device: torch.device, **hooks: Callable
) -> Any:
    """Return an initialized trainer for the channels of `SIGNAL` and one label; what it prints goes to stderr.

    Args:
        trainer: its class.
        plans: the plans file's content.
        configuration: name of a configuration.
        device: the device to train on.
        hooks: methods that replace those of the trainer.
    """
    made_class: Any = type(trainer.__name__, (trainer,), hooks) if hooks else trainer
    with redirect_stdout(sys.stderr):
        made = made_class({**plans, "continue_training": False}, configuration, 0, dataset_json(), device)
        made.initialize()
    return made


def levels_of(trainer: Any, label: Tensor) -> Tensor | list[Tensor]:
    """Return a target `(B, 1, *space)` as nnU-Net's loader gives it: one per resolution under deep supervision."""
    scales = trainer._get_deep_supervision_scales()
    if scales is None:
        return label
    steps = [[slice(None, None, round(1 / factor)) for factor in scale] for scale in scales]
    return [label[(..., *of_level)].contiguous() for of_level in steps]


def dataset_json() -> dict:
    names = {str(channel): name for channel, name in enumerate(SIGNAL)}
    return {"channel_names": names, "labels": {"background": 0, "lesion": 1}, "file_ending": ".nii.gz"}
