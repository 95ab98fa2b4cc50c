"""The lines that the demo shows while nnU-Net's commands run."""

import math
import re
from pathlib import Path

from nnunet_moe.training_log import read_training_logs


class TrainingProgress:
    """Shows one line per epoch: its number, the mean Dice of the validation, and the time left.

    Args:
        fold: folder of the fold, to which the trainer writes its learning curves.
        num_epochs: length of the training.
    """

    def __init__(self, fold: Path, num_epochs: int) -> None:
        self._fold = fold
        self._num_epochs = num_epochs
        self._seconds: list[float] = []

    def __call__(self, line: str) -> str | None:
        """Return what to show for a line of nnU-Net's training log, or None."""
        if match := re.search(r"Epoch time: (\S+) s\s*$", line):
            self._seconds.append(float(match[1]))
            return self._epoch()
        if match := re.search(r"predicting (\S+)\s*$", line):
            return f"Validating {match[1]}"
        return None

    def _epoch(self) -> str:
        num_done = len(self._seconds)
        seconds_left = sum(self._seconds) / num_done * (self._num_epochs - num_done)
        dice = mean_dice(self._fold)
        shown_dice = "" if dice is None else f", mean Dice {dice:.2f}"
        shown_time = "" if num_done == self._num_epochs else f", about {duration(seconds_left)} left"
        return f"Epoch {num_done} of {self._num_epochs}{shown_dice}{shown_time}"


def mean_dice(fold: Path) -> float | None:
    """Return the last epoch's validation Dice, averaged over codes and labels; None if no label occurred."""
    epochs = read_training_logs(fold)
    if not epochs:
        return None
    values = [value for of_code in epochs[max(epochs)].dice.values() for value in of_code if not math.isnan(value)]
    return sum(values) / len(values) if values else None


def duration(seconds: float) -> str:
    """Return a time in words: seconds below 90 s, else minutes."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def case_line(line: str) -> str | None:
    """Return the part of a line of nnU-Net's prediction that names the case, or None for other lines."""
    match = re.match(r"Predicting \S+:", line)
    return match[0] if match else None
