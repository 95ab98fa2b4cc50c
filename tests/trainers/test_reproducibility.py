"""Seeds are those of the versions before: a training that is gone on from draws the same."""

import random

import numpy as np
import torch

from nnunet_moe.trainers.reproducibility import seed_generators, seed_of


def test_a_seed_is_numpys_of_setting_fold_process_and_position():
    expected = np.random.SeedSequence([5, 1, 2, 0, 7]).generate_state(1)[0]
    assert seed_of(5, 0, 2, 0, 7) == expected
    assert seed_of(5, "all", 2, 0, 7) == np.random.SeedSequence([5, 0, 2, 0, 7]).generate_state(1)[0]


def test_no_two_folds_processes_or_positions_have_the_same_seed():
    places = [(fold, process, step) for fold in ("all", 0, 1) for process in (0, 1) for step in range(20)]
    assert len({seed_of(0, *place) for place in places}) == len(places)


def test_all_generators_draw_the_same_again():
    def drawn():
        seed_generators(3)
        return random.random(), np.random.random(), torch.rand(()).item()

    assert drawn() == drawn()
