"""Seeds: what a training draws is a function of the setting, the fold, the process and where it stands."""

import random

import numpy as np
import torch


def seed_of(setting: int, fold: int | str, process: int, *position: int) -> int:
    """A seed that no other position, process or fold has.

    Args:
        setting: the setting `seed`.
        fold: a number, or `all`.
        process: rank of the process; 0 for what all processes are to draw alike.
        position: an iteration, or what else tells one draw from another.
    """
    number = 0 if fold == "all" else int(fold) + 1
    return int(np.random.SeedSequence([setting, number, process, *position]).generate_state(1)[0])


def seed_generators(seed: int) -> None:
    """Seed the generators of Python, numpy and torch."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
