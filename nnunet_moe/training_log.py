"""The results of each training epoch: the trainers write them, and reports read them for learning curves.

Trainers write readable lines into nnU-Net's log. They also write one line for each epoch into a JSON Lines file, from
which learning curves are read. Epochs of older versions of this package, which did not write this file, are read from
the log.
"""

import json
import math
import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from nnunet_moe.runtime.json_files import parse_json

FILE_NAME = "learning_curves.jsonl"
"""The file in the folder of a fold; each line is the JSON object of one epoch, with null for numbers not finite."""

_EPOCH = re.compile(r"Epoch (\d+)\s*$")
_LOSS = re.compile(r": train_loss (\S+)\s*$")
_DICE = re.compile(r"Pseudo dice (.+): \[(.*)\]\s*$")
_ENTROPY = re.compile(r"Gate entropy, each code/over codes, by layer: (.*?)\s*$")


@dataclass
class Epoch:
    """The results of an epoch; the log and the JSON Lines file contain the same numbers with the same rounding.

    `loss_parts` and the fields after it cannot be read from the log.
    """

    dice: dict[str, list[float]] = field(default_factory=dict)
    """Code -> pseudo Dice of each label, 0 to 1; NaN where undefined."""
    gate_entropy: list[tuple[float, float]] = field(default_factory=list)
    """The result of `gate_entropies` for each mixture, in the order of the network."""
    train_loss: float | None = None
    """Mean training loss of the epoch."""
    loss_parts: dict[str, float] = field(default_factory=dict)
    """Part of the loss -> its weighted mean over the epoch."""
    mean_gates: dict[str, list[float]] = field(default_factory=dict)
    """Image type -> the mean weights of the experts, which sum to 1."""
    election_scores: dict[str, list[float]] = field(default_factory=dict)
    """Modality -> its soft Dice for each label without the other modalities, 0 to 1; NaN where it was not scored.

    The dictionary is empty if the epoch had no election.
    """
    teachers: list[str] | None = None
    """The modalities that teach after the epoch; None for methods without teachers."""


def gate_entropies(gates: Tensor) -> tuple[float, float]:
    """Measure how evenly a mixture uses its experts.

    Entropies are divided by the entropy of equal weights, so they are from 0 (one expert) to 1 (all experts equally).

    Args:
        gates: `(M, E)`, the gate weights of M codes, rows summing to 1, E > 1.

    Returns:
        Two numbers: the mean of the codes' entropies, and the entropy of the mean over the codes.

            - Both are 1: all codes use all experts equally, so the mixture has no effect.
            - 0 and 1: each code uses one expert, and all experts are used.
            - Both are 0: all codes use the same single expert.
    """
    gates = gates.detach().double()
    each, over = (-p.xlogy(p).sum(dim=-1).mean().item() / math.log(gates.shape[1]) for p in (gates, gates.mean(dim=0)))
    return each, over


def dice_line(code: str, dice: Sequence[float]) -> str:
    """Format the log line for one code, which is given by the names of its modalities."""
    return f"Pseudo dice {code}: {[round(float(value), 4) for value in dice]}"


def entropy_line(entropies: Sequence[tuple[float, float]]) -> str:
    """Format the log line for the gate entropies of all mixtures."""
    return "Gate entropy, each code/over codes, by layer: " + ", ".join(f"{a:.3f}/{b:.3f}" for a, b in entropies)


def gates_line(image_type: str, weights: Sequence[float]) -> str:
    """Format the log line for the experts' mean weights for one image type, which sum to 1."""
    return f"Mean gate of {image_type}, by expert: " + ", ".join(f"{weight:.3f}" for weight in weights)


def append_epoch(folder: Path, number: int, epoch: Epoch, labels: Sequence[str]) -> None:
    """Append the results of an epoch to the file `learning_curves.jsonl`.

    Args:
        folder: the folder of the fold.
        number: number of the epoch, from 0.
        epoch: its results.
        labels: the names of the labels or regions, in the order of the lists in `epoch`.
    """
    line: dict[str, Any] = {
        "epoch": number,
        "train_loss": _plain(math.nan if epoch.train_loss is None else epoch.train_loss),
        "loss_parts": {name: _plain(value) for name, value in epoch.loss_parts.items()},
        "dice": {code: _by_label(labels, dice) for code, dice in epoch.dice.items()},
        "gate_entropy": [[_plain(value, 3) for value in pair] for pair in epoch.gate_entropy],
        "mean_gates": {name: [_plain(weight, 3) for weight in weights] for name, weights in epoch.mean_gates.items()},
        "election_scores": {name: _by_label(labels, scores) for name, scores in epoch.election_scores.items()},
        "teachers": epoch.teachers,
    }
    with (folder / FILE_NAME).open("a+b") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":  # a training that was killed during this left an unfinished line
                file.write(b"\n")
        file.write(json.dumps(line).encode() + b"\n")


def read_training_logs(folder: Path) -> Mapping[int, Epoch]:
    """Read the results of a fold's epochs.

    If a resumed training repeated an epoch, the last results count. Epochs that are missing in the JSON Lines file are
    read from the logs. These are epochs of older versions, or epochs during which the training was stopped.

    Args:
        folder: the folder of the fold, such as `fold_0`.

    Returns:
        Number of the epoch -> its results, in ascending order.
    """
    return dict(sorted({**_from_logs(folder), **_from_data(folder / FILE_NAME)}.items()))


def _from_data(file: Path) -> dict[int, Epoch]:
    epochs = {}
    for line in file.read_bytes().splitlines() if file.exists() else ():
        try:
            found = parse_json(line)
        except ValueError:  # an unfinished line of a training that was killed
            continue
        epochs[found["epoch"]] = Epoch(
            {code: [_number(value) for value in dice.values()] for code, dice in found["dice"].items()},
            [(_number(each), _number(over)) for each, over in found["gate_entropy"]],
            _number(found["train_loss"]),
            {name: _number(value) for name, value in found["loss_parts"].items()},
            {name: [_number(weight) for weight in weights] for name, weights in found["mean_gates"].items()},
            {
                name: [_number(score) for score in of_name.values()]
                for name, of_name in found["election_scores"].items()
            },
            found["teachers"],
        )
    return epochs


def _from_logs(folder: Path) -> dict[int, Epoch]:
    epochs: dict[int, Epoch] = defaultdict(Epoch)
    current = None
    for file in sorted(folder.glob("training_log_*.txt"), key=lambda log: log.stat().st_mtime):
        for line in file.read_text(errors="replace", encoding="utf-8").splitlines():
            if match := _EPOCH.search(line):
                current = int(match[1])
                epochs[current] = Epoch()
            elif current is not None and (match := _LOSS.search(line)):
                epochs[current].train_loss = float(match[1])
            elif current is not None and (match := _DICE.search(line)):
                epochs[current].dice[match[1]] = [float(value) for value in match[2].split(",")]
            elif current is not None and (match := _ENTROPY.search(line)):
                pairs = (pair.split("/") for pair in match[1].split(", "))
                epochs[current].gate_entropy = [(float(each), float(over)) for each, over in pairs]
    return epochs


def _plain(value: float, digits: int = 4) -> float | None:
    """Round a number as in the log; return None, JSON's null, if it is not finite."""
    return round(float(value), digits) if math.isfinite(value) else None


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _by_label(labels: Sequence[str], values: Sequence[float]) -> dict[str, float | None]:
    return {label: _plain(value) for label, value in zip(labels, values, strict=True)}
