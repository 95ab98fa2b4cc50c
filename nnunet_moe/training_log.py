"""What a training tells of itself in nnU-Net's log, each epoch: written by the trainers, read for learning curves."""

import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

_EPOCH = re.compile(r"Epoch (\d+)\s*$")
_LOSS = re.compile(r": train_loss (\S+)\s*$")
_DICE = re.compile(r"Pseudo dice (.+): \[(.*)\]\s*$")
_ENTROPY = re.compile(r"Gate entropy, each code/over codes, by layer: (.*?)\s*$")


@dataclass
class Epoch:
    """What the log has of an epoch."""

    dice: dict[str, list[float]] = field(default_factory=dict)
    """Code -> pseudo Dice of each label, NaN where undefined."""
    gate_entropy: list[tuple[float, float]] = field(default_factory=list)
    """Of each mixture in the order of the network, as `gate_entropies` gives it."""
    train_loss: float | None = None


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


def gates_line(kind: str, weights: Sequence[float]) -> str:
    """The line for what the gates make of one kind of images: the experts' weights, which sum to 1."""
    return f"Mean gate of {kind}, by expert: " + ", ".join(f"{weight:.3f}" for weight in weights)


def read_training_logs(folder: Path) -> Mapping[int, Epoch]:
    """The epochs of a fold's training logs, by number; what a resumed training did again counts as done last.

    Args:
        folder: of the fold, `fold_0`.
    """
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
    return dict(sorted(epochs.items()))
