"""The losses of MoE-SD: gate regularization and self-distillation.

Source: Novosad, Carano, Krishnan, "A task-conditional mixture-of-experts model for missing modality segmentation",
MICCAI 2024, eqs. 4, 6 and 7. Where the paper gives no detail or contradicts itself: docs/explanation/decisions.md.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from nnunet_moe.losses.precision import at_least_float32


def coefficient_of_variation(values: Tensor) -> Tensor:
    """Compute the coefficient of variation along the last axis: population standard deviation divided by mean.

    It is 0 if all values are the same (with gradient 0, not NaN), and sqrt(E - 1) if only one value is not 0.

    Args:
        values: `(..., E)`, at least 0.

    Returns:
        `(...)`, from 0 to sqrt(E - 1).
    """
    return values.std(dim=-1, correction=0) / values.mean(dim=-1)


def gate_regularisation(gates: Tensor, specialization_sign: int = 0) -> Tensor:
    """Compute L_reg of one layer: `cv(E_m[phi(m)]) + s E_m[cv(phi(m))]` (eq. 4).

    The first term is 0 if all experts have the same load, averaged over all codes. The second term measures how much
    single codes prefer few experts. It rewards this with s = -1 and punishes it with s = +1.

    Args:
        gates: phi, `(M, E)`, the gate weights of M codes, rows summing to 1.
        specialization_sign: s; -1, 0 or 1.

    Returns:
        A scalar.
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
    """Compute L_tau: cross-entropy plus soft Dice loss between softened distributions (eq. 6).

    The denominator of the Dice has squared terms (V-Net). With soft targets, only this form is largest if student and
    teacher agree. Like nnU-Net's Dice, it excludes the background; regions have no background. The teacher gets no
    gradient.

    Args:
        student_logits: `(B, C, *space)`, of the dropped view.
        teacher_logits: `(B, C, *space)`, of the full view.
        valid: `(B, 1, *space)` bool, false at voxels with the ignore label; None if all voxels count.
        temperature: tau > 0, by which logits are divided.
        regions: whether to use sigmoid and binary cross-entropy instead of softmax and cross-entropy.
        batch_dice: whether the Dice sums over the batch before the division, as set in nnU-Net's configuration.
        sum_over_processes: sums the terms of `batch_dice` over processes, with gradients; None for a single process.
        smooth: the constant that is added to the Dice's numerator and denominator.

    Returns:
        A scalar in float32 or float64. At its minimum the Dice part is 0 and the cross-entropy is the teacher's
            entropy.
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
    """Compute the ramp-up weight w(t) = exp(-5 (1 - min(1, t / T_r))^2) (eq. 7).

    Args:
        iteration: t, from 0.
        ramp_up_iterations: T_r; if it is 0, the weight is always 1.

    Returns:
        A number from exp(-5), at the start, to 1, from T_r on.
    """
    progress = 1.0 if ramp_up_iterations <= 0 else min(1.0, iteration / ramp_up_iterations)
    return math.exp(-5 * (1 - progress) ** 2)
