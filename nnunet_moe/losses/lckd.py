"""The loss of LCKD: distillation between modalities.

Source: Wang et al., "Learnable cross-modal knowledge distillation for multi-modal learning with missing modality",
MICCAI 2023. Decisions: docs/explanation/lckd.md.
"""

import torch
from torch import Tensor

from nnunet_moe.losses.precision import at_least_float32


def cross_modal_distillation(features: Tensor, available: Tensor, teachers: Tensor) -> Tensor:
    """Compute L_kd of LCKD: the distances between the features of available modalities and available teachers.

    L_kd is the mean over items of the sum over t and s of mean |stopgrad(f_t) - f_s|. Here t runs over the available
    teachers and s over the available modalities. The inner mean is over channels and space. Teachers also learn from
    each other. The distance of a teacher to itself is 0.

    Args:
        features: f, `(B, K, C, *space)`; values of missing modalities have no effect.
        available: `(B, K)` bool.
        teachers: `(K,)` bool.

    Returns:
        A scalar in float32 or float64, at least 0; it is 0 if no item has both a teacher and another modality.
    """
    features = at_least_float32(features)
    pairs = (available & teachers)[:, :, None] & available[:, None, :]
    distances = [
        (teacher.detach()[:, None] - features).abs().flatten(2).mean(dim=2) for teacher in features.unbind(dim=1)
    ]
    return torch.where(pairs, torch.stack(distances, dim=1), 0).sum() / len(features)
