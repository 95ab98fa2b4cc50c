"""The losses of MoE-SD: gate regularization and self-distillation.

Novosad, Carano, Krishnan, "A task-conditional mixture-of-experts model for missing modality segmentation", MICCAI 2024,
eqs. 4, 6 and 7; decisions where the paper is silent or contradicts itself: docs/explanation/decisions.md.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from nnunet_moe.losses.precision import at_least_float32


def coefficient_of_variation(values: Tensor) -> Tensor:
    """Population standard deviation over mean, along the last axis: `(..., E)` to `(...)`.

    0 where all values are the same (with gradient 0, not NaN), sqrt(E - 1) where one value carries everything.
    """
    return values.std(dim=-1, correction=0) / values.mean(dim=-1)


def gate_regularisation(gates: Tensor, specialization_sign: int = 0) -> Tensor:
    """L_reg of one layer: `cv(E_m[phi(m)]) + s E_m[cv(phi(m))]` (eq. 4).

    The first term is 0 when the experts carry the same load over all codes. The second, scaled by s, rewards (-1) or
    punishes (+1) that single codes lean to few experts.

    Args:
        gates: `(M, E)`, the gate weights of each code, rows summing to 1.
        specialization_sign: s; -1, 0 or 1.
    """
    balance = coefficient_of_variation(gates.mean(dim=0))
    if specialization_sign == 0:
        return balance
    return balance + specialization_sign * coefficient_of_variation(gates).mean()


def self_distillation_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    valid: Tensor | None = None,
    *,
    temperature: float,
    regions: bool,
    batch_dice: bool = False,
    sum_over_processes: Callable[[Tensor], Tensor] | None = None,
    smooth: float = 1e-5,
) -> Tensor:
    """L_tau: cross-entropy plus soft Dice between softened distributions (eq. 6).

    The Dice has squared terms in its denominator (V-Net): with soft targets only that form is largest where student
    and teacher agree. Like nnU-Net's Dice it leaves out the background, except that regions have none. No gradient
    reaches the teacher.

    Args:
        student_logits: `(B, C, *space)`.
        teacher_logits: `(B, C, *space)`.
        valid: `(B, 1, *space)` bool, false at voxels with the ignore label; None if all count.
        temperature: tau > 0; logits are divided by it.
        regions: sigmoid and binary cross-entropy instead of softmax and cross-entropy.
        batch_dice: sum the Dice over the batch before the ratio, as nnU-Net's configuration says.
        sum_over_processes: where a batch is spread over processes, adds up what `batch_dice` sums, gradients included.
        smooth: added to the Dice's numerator and denominator.

    Returns:
        A scalar in float32 or wider; at its minimum the Dice part is 0 and the cross-entropy the teacher's entropy.
    """
    student_logits = at_least_float32(student_logits) / temperature
    teacher_logits = at_least_float32(teacher_logits.detach()) / temperature
    if regions:
        student, teacher = student_logits.sigmoid(), teacher_logits.sigmoid()
        cross_entropy = F.binary_cross_entropy_with_logits(student_logits, teacher, reduction="none")
        cross_entropy = cross_entropy.mean(dim=1, keepdim=True)
    else:
        student, teacher = student_logits.softmax(dim=1), teacher_logits.softmax(dim=1)
        cross_entropy = -(teacher * student_logits.log_softmax(dim=1)).sum(dim=1, keepdim=True)
        student, teacher = student[:, 1:], teacher[:, 1:]

    weight = torch.ones_like(cross_entropy) if valid is None else valid.to(cross_entropy.dtype)
    axes = [0, *range(2, student.ndim)] if batch_dice else list(range(2, student.ndim))
    overlap = (weight * student * teacher).sum(dim=axes)
    size = (weight * (student.square() + teacher.square())).sum(dim=axes)
    if batch_dice and sum_over_processes is not None:
        overlap, size = sum_over_processes(overlap), sum_over_processes(size)
    dice = (2 * overlap + smooth) / (size + smooth)
    return (weight * cross_entropy).sum() / weight.sum().clamp_min(1) + 1 - dice.mean()


def ramp_up(iteration: int, ramp_up_iterations: float) -> float:
    """w(t) = exp(-5 (1 - min(1, t / T_r))^2): exp(-5) at the start, 1 from T_r on; 1 throughout if T_r is 0 (eq. 7)."""
    progress = 1.0 if ramp_up_iterations <= 0 else min(1.0, iteration / ramp_up_iterations)
    return math.exp(-5 * (1 - progress) ** 2)
