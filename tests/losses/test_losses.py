import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from nnunet_moe.losses.lckd import cross_modal_distillation
from nnunet_moe.losses.moesd import coefficient_of_variation, gate_regularisation, ramp_up, self_distillation_loss


def distillation(student, teacher, valid=None, *, regions=False, **more):
    return self_distillation_loss(student, teacher, valid, temperature=2.0, regions=regions, **more)


def logits(seed, shape=(2, 3, 4, 4)):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_coefficient_of_variation_by_hand():
    assert coefficient_of_variation(torch.tensor([1.0, 3.0])).item() == pytest.approx(0.5)
    assert coefficient_of_variation(torch.tensor([[0.0, 0.0, 0.0, 1.0]])).item() == pytest.approx(math.sqrt(3))


@pytest.mark.parametrize("sign", [-1, 0, 1])
def test_l_reg_at_uniform_gates_is_zero_with_zero_gradient(sign):
    gates = torch.full((7, 4), 0.25, requires_grad=True)
    loss = gate_regularisation(gates, sign)
    loss.backward()
    assert loss.item() == 0 and torch.equal(gates.grad, torch.zeros(7, 4))


@pytest.mark.parametrize("sign", [-1, 0, 1])
def test_l_reg_when_one_expert_serves_all_codes(sign):
    gates = F.one_hot(torch.zeros(7, dtype=torch.long), 4).double()
    assert gate_regularisation(gates, sign).item() == pytest.approx(math.sqrt(3) * (1 + sign))


@pytest.mark.parametrize("sign", [-1, 0, 1])
def test_l_reg_when_codes_are_dealt_evenly_to_single_experts(sign):
    assert gate_regularisation(torch.eye(4), sign).item() == pytest.approx(math.sqrt(3) * sign)


@pytest.mark.parametrize("sign", [-1, 0, 1])
def test_l_reg_of_one_expert_is_zero(sign):
    assert gate_regularisation(torch.ones(7, 1), sign).item() == 0


def test_l_reg_by_hand():
    gates = torch.tensor([[0.8, 0.2], [0.6, 0.4]])  # loads 0.7 and 0.3; cv 0.4; single codes 0.6 and 0.2
    assert gate_regularisation(gates, 0).item() == pytest.approx(0.4)
    assert gate_regularisation(gates, 1).item() == pytest.approx(0.8)
    assert gate_regularisation(gates, -1).item() == pytest.approx(0.0, abs=1e-6)


def test_l_sd_by_hand():
    student = torch.tensor([[[0.0], [0.0]]], dtype=torch.float64)  # softened 0.5, 0.5
    teacher = torch.tensor([[[0.0], [2 * math.log(3)]]], dtype=torch.float64)  # tau 2: softened 0.25, 0.75
    dice = 2 * 0.5 * 0.75 / (0.5**2 + 0.75**2)
    assert distillation(student, teacher, smooth=0).item() == pytest.approx(math.log(2) + 1 - dice)


def test_l_sd_of_regions_by_hand():
    student, teacher = torch.zeros(1, 1, 1), torch.full((1, 1, 1), 2 * math.log(3))  # 0.5 and 0.75
    dice = 2 * 0.5 * 0.75 / (0.5**2 + 0.75**2)
    assert distillation(student, teacher, regions=True, smooth=0).item() == pytest.approx(math.log(2) + 1 - dice)


def test_batch_dice_sums_over_the_batch_before_the_ratio():
    student, teacher = logits(0), logits(1)
    whole, single = distillation(student, teacher, batch_dice=True), distillation(student, teacher)
    joined = [x.transpose(0, 1).reshape(1, 3, 8, 4) for x in (student, teacher)]
    assert whole.item() == pytest.approx(distillation(*joined).item(), rel=1e-12)
    assert abs(whole.item() - single.item()) > 1e-4


@pytest.mark.parametrize("regions", [False, True])
@pytest.mark.parametrize("batch_dice", [False, True])
def test_the_students_gradient_is_zero_where_student_is_teacher(regions, batch_dice):
    student = logits(0).requires_grad_()
    distillation(student, student.detach().clone(), regions=regions, batch_dice=batch_dice).backward()
    assert student.grad.abs().max() < 1e-15


@pytest.mark.parametrize("regions", [False, True])
def test_no_gradient_reaches_the_teacher(regions):
    student, teacher = logits(0).requires_grad_(), logits(1).requires_grad_()
    distillation(student, teacher, regions=regions).backward()
    assert teacher.grad is None and student.grad.abs().max() > 0


@pytest.mark.parametrize("regions", [False, True])
def test_steps_against_the_gradient_bring_the_student_to_the_teacher(regions):
    teacher, student = logits(1), logits(0)
    start = (student.sigmoid() - teacher.sigmoid()).abs().mean() if regions else None
    if not regions:
        start = (student.softmax(1) - teacher.softmax(1)).abs().mean()
    for _ in range(400):
        student = student.detach().requires_grad_()
        loss = distillation(student, teacher, regions=regions)
        (gradient,) = torch.autograd.grad(loss, student)
        student = student - 10 * gradient
    activation = torch.sigmoid if regions else (lambda x: x.softmax(1))
    assert (activation(student) - activation(teacher)).abs().mean() < 0.1 * start


@pytest.mark.parametrize("regions", [False, True])
def test_voxels_with_the_ignore_label_count_for_nothing(regions):
    student, teacher = logits(0), logits(1)
    valid = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(2)) > 0.5
    spoilt = torch.where(valid, student, 50.0).requires_grad_()
    loss = distillation(spoilt, teacher, valid, regions=regions)
    loss.backward()
    assert loss.item() == distillation(student, teacher, valid, regions=regions).item()
    assert not spoilt.grad[(~valid).expand_as(spoilt)].any() and spoilt.grad.any()
    assert distillation(student, teacher, torch.zeros_like(valid), regions=regions).isfinite()


def test_l_sd_of_half_precision_logits_is_computed_in_single_precision():
    student, teacher = logits(0).half(), logits(1).half()
    assert distillation(student, teacher).dtype == torch.float32
    torch.testing.assert_close(distillation(student, teacher), distillation(student.float(), teacher.float()))


def test_ramp_up_rises_from_exp_minus_five_to_one_and_stays():
    assert ramp_up(0, 100) == pytest.approx(math.exp(-5))
    assert ramp_up(50, 100) == pytest.approx(math.exp(-1.25))
    assert ramp_up(100, 100) == ramp_up(1000, 100) == ramp_up(0, 0) == 1.0


def test_distillation_across_modalities_is_the_published_sum_over_pairs():
    """Hand-computed: features are constant maps, so each distance is a difference of two numbers."""
    values = torch.tensor([[1.0, 4.0, 6.0, 20.0], [3.0, 3.5, 100.0, 0.0]])
    features = values[..., None, None, None, None].expand(2, 4, 5, 2, 3, 2)
    available = torch.tensor([[True, True, True, False], [True, True, False, True]])
    both = cross_modal_distillation(features, available, torch.tensor([True, False, True, False]))
    # first item: from 0: 3 + 5, from 2: 5 + 2; second item: 2 is not there, from 0: 0.5 + 3
    assert both.item() == pytest.approx(((3 + 5 + 5 + 2) + (0.5 + 3)) / 2)
    absent = cross_modal_distillation(features, available, torch.tensor([False, False, False, True]))
    assert absent.item() == pytest.approx((3 + 3.5) / 2)


def test_a_lone_modality_and_no_teacher_distil_nothing():
    features = torch.randn(2, 3, 4, 2, 2, dtype=torch.float64, requires_grad=True)
    lone = torch.tensor([[True, False, False], [False, False, True]])
    everyone, nobody = torch.ones(3, dtype=torch.bool), torch.zeros(3, dtype=torch.bool)
    for available, teachers in ((lone, everyone), (torch.ones_like(lone), nobody), (lone, nobody)):
        loss = cross_modal_distillation(features, available, teachers)
        (gradient,) = torch.autograd.grad(loss, features)
        assert loss == 0 and not gradient.any()


def test_no_gradient_of_the_distillation_reaches_a_teachers_features():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 3, 4, 2, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    available = torch.tensor([[True, True, True], [True, True, False]])
    loss = cross_modal_distillation(features, available, torch.tensor([False, True, False]))
    (gradient,) = torch.autograd.grad(loss, features)
    assert not gradient[:, 1].any() and gradient[:, 0].all() and gradient[0, 2].all() and not gradient[1, 2].any()
    # towards the teacher, each value by the same step: mean of |difference| over 16 values, mean over 2 items
    expected = (features[:, 0] - features[:, 1]).sign() / 16 / 2
    torch.testing.assert_close(gradient[:, 0], expected.detach())


def test_distillation_is_computed_in_single_precision_and_what_stands_for_the_absent_does_not_count():
    features = torch.full((1, 3, 2, 2, 2), 300.0, dtype=torch.float16)
    features[:, 1], features[:, 2] = 300.25, torch.nan
    available = torch.tensor([[True, True, False]])
    loss = cross_modal_distillation(features, available, torch.tensor([True, True, True]))
    assert loss.dtype == torch.float32 and loss.item() == 0.5
