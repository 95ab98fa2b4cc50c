import math

import pytest
import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler

from nnunet_moe.trainers.learning_rates import TwoPhasePolyLR, WarmUpCosineLR


def rates(schedule, optimizer, num_epochs):
    found = []
    for epoch in range(num_epochs):
        schedule.step(epoch)
        found.append(optimizer.param_groups[0]["lr"])
    return found


@pytest.fixture
def optimizer():
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 0.01)


def test_it_restarts_at_the_rate_that_the_published_code_restarts_at(optimizer):
    found = rates(TwoPhasePolyLR(optimizer, 0.01, 115, 80), optimizer, 115)
    assert found[0] == 0.01 and found[80] == pytest.approx(3.4e-3, rel=0.01)
    for epoch in (1, 40, 79):
        assert found[epoch] == pytest.approx(0.01 * (1 - epoch / 80) ** 0.9)
    for epoch in (80, 81, 114):
        assert found[epoch] == pytest.approx(0.01 * (35 / 115) ** 0.9 * (1 - (epoch - 80) / 35) ** 0.9)


@pytest.mark.parametrize("first_phase", [0, 30])
def test_with_one_phase_it_is_nnunets(optimizer, first_phase):
    assert rates(TwoPhasePolyLR(optimizer, 0.01, 30, first_phase), optimizer, 30) == rates(
        PolyLRScheduler(optimizer, 0.01, 30), optimizer, 30
    )


def test_it_is_a_function_of_the_epoch_so_that_a_resumed_training_goes_on(optimizer):
    through = rates(TwoPhasePolyLR(optimizer, 0.01, 10, 6), optimizer, 10)
    resumed = TwoPhasePolyLR(optimizer, 0.01, 10, 6)
    for epoch in (7, 2, 9):
        resumed.step(epoch)
        assert optimizer.param_groups[0]["lr"] == through[epoch]


def test_it_rises_in_a_line_and_falls_as_half_a_cosine(optimizer):
    found = rates(WarmUpCosineLR(optimizer, 0.01, 20, 4), optimizer, 20)
    assert found[:4] == pytest.approx([0.0025, 0.005, 0.0075, 0.01])
    assert found[4] == 0.01 and found[12] == pytest.approx(0.005) and found[8] == pytest.approx(0.01 * 0.8535534)
    assert found[19] == pytest.approx(0.01 * (1 + math.cos(math.pi * 15 / 16)) / 2)
    assert found[4:] == sorted(found[4:], reverse=True)


def test_a_training_of_one_epoch_has_the_highest_rate(optimizer):
    assert rates(WarmUpCosineLR(optimizer, 0.01, 1, 1), optimizer, 1) == [0.01]
