"""Seeds: all random draws of a training depend only on the setting, the fold, the process and the position."""

import random

import numpy as np
import torch


def seed_of(setting: int, fold: int | str, process: int, *position: int) -> int:
    """Compute a seed that is different for each fold, process and position.

    Args:
        setting: the setting `seed`.
        fold: a number, or `all`.
        process: rank of the process; 0 for draws that all processes share.
        position: the number of the iteration, or other numbers that distinguish draws.

    Returns:
        A whole number from 0 to 2^32 - 1.
    """
    number = 0 if fold == "all" else int(fold) + 1
    return int(np.random.SeedSequence([setting, number, process, *position]).generate_state(1)[0])


def seed_generators(seed: int) -> None:
    """Seed the global random generators of Python, numpy and torch."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
