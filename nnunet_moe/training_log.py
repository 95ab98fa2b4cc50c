"""What a training tells of itself each epoch: written by the trainers, read for learning curves.

They write lines for people into nnU-Net's log, and beside it a line of data an epoch, from which curves are read. Of
epochs that a version before these data trained, the log is read.
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

FILE_NAME = "learning_curves.jsonl"
"""In the folder of a fold; one JSON object a line and epoch, null where a number is not finite."""

_EPOCH = re.compile(r"Epoch (\d+)\s*$")
_LOSS = re.compile(r": train_loss (\S+)\s*$")
_DICE = re.compile(r"Pseudo dice (.+): \[(.*)\]\s*$")
_ENTROPY = re.compile(r"Gate entropy, each code/over codes, by layer: (.*?)\s*$")


@dataclass
class Epoch:
    """What is known of an epoch; the log's lines and the data have the same numbers, rounded alike."""

    dice: dict[str, list[float]] = field(default_factory=dict)
    """Code -> pseudo Dice of each label, NaN where undefined."""
    gate_entropy: list[tuple[float, float]] = field(default_factory=list)
    """Of each mixture in the order of the network, as `gate_entropies` gives it."""
    train_loss: float | None = None
    loss_parts: dict[str, float] = field(default_factory=dict)
    """Part of the loss -> its mean, weighted; as all below, of the data alone."""
    mean_gates: dict[str, list[float]] = field(default_factory=dict)
    """Type of images -> the experts' weights, which sum to 1."""
    election_scores: dict[str, list[float]] = field(default_factory=dict)
    """Modality -> its soft Dice alone for each label, NaN where it was not scored; empty without an election."""
    teachers: list[str] | None = None
    """The modalities that teach after the epoch; None where nothing is distilled between modalities."""


def gate_entropies(gates: Tensor) -> tuple[float, float]:
    """How evenly a mixture uses its experts: entropies over that of equal weights, 0 (one expert) to 1 (all alike).

    Args:
        gates: `(M, E)`, the weights of each code, rows summing to 1, E > 1.

    Returns:
        The mean of the codes' entropies, and the entropy of the mean over the codes. Both 1: the mixture does nothing.
        0 and 1: each code has its one expert, and all are used. Both 0: one expert does everything.
    """
    gates = gates.detach().double()
    each, over = (-p.xlogy(p).sum(dim=-1).mean().item() / math.log(gates.shape[1]) for p in (gates, gates.mean(dim=0)))
    return each, over


def dice_line(code: str, dice: Sequence[float]) -> str:
    """The line for one code, given by the names of its modalities."""
    return f"Pseudo dice {code}: {[round(float(value), 4) for value in dice]}"


def entropy_line(entropies: Sequence[tuple[float, float]]) -> str:
    """The line for all mixtures."""
    return "Gate entropy, each code/over codes, by layer: " + ", ".join(f"{a:.3f}/{b:.3f}" for a, b in entropies)


def gates_line(image_type: str, weights: Sequence[float]) -> str:
    """The line for what the gates make of one image type: the experts' weights, which sum to 1."""
    return f"Mean gate of {image_type}, by expert: " + ", ".join(f"{weight:.3f}" for weight in weights)


def append_epoch(folder: Path, number: int, epoch: Epoch, labels: Sequence[str]) -> None:
    """Add an epoch to the data of a fold.

    Args:
        folder: of the fold.
        number: of the epoch.
        labels: names of the labels that the epoch's lists are of.
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
            if file.read(1) != b"\n":  # of a training that was killed while it wrote
                file.write(b"\n")
        file.write(json.dumps(line).encode() + b"\n")


def read_training_logs(folder: Path) -> Mapping[int, Epoch]:
    """The epochs of a fold's trainings, by number; what a resumed training did again counts as done last.

    Of epochs that the data do not have, which an older version trained, or in which the training was stopped, the logs
    tell.

    Args:
        folder: of the fold, `fold_0`.
    """
    return dict(sorted({**_from_logs(folder), **_from_data(folder / FILE_NAME)}.items()))


def _from_data(file: Path) -> dict[int, Epoch]:
    epochs = {}
    for line in file.read_bytes().splitlines() if file.exists() else ():
        try:
            found = json.loads(line)
        except ValueError:  # a line that a killed training did not finish
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
        for line in file.read_text(errors="replace").splitlines():
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
    """A number as JSON has it, rounded as in the log."""
    return round(float(value), digits) if math.isfinite(value) else None


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _by_label(labels: Sequence[str], values: Sequence[float]) -> dict[str, float | None]:
    return {label: _plain(value) for label, value in zip(labels, values, strict=True)}
