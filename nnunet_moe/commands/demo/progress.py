"""What of the output of nnU-Net's commands is shown as progress."""

import re


def epoch_line(line: str) -> str | None:
    """The line of nnU-Net's training log that closes an epoch, without its time stamp."""
    match = re.search(r"(Epoch \d+|Pseudo dice \[.*\]|predicting \S+)\s*$", line)
    return match[1] if match else None


def case_line(line: str) -> str | None:
    """The line of nnU-Net's prediction that names the case."""
    match = re.match(r"Predicting \S+:", line)
    return match[0] if match else None
