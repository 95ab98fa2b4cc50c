"""The loss of LCKD: distillation across modalities.

Wang et al., "Learnable cross-modal knowledge distillation for multi-modal learning with missing modality", MICCAI 2023;
decisions: docs/explanation/lckd.md.
"""

import torch
from torch import Tensor

from nnunet_moe.losses.precision import at_least_float32


def cross_modal_distillation(features: Tensor, available: Tensor, teachers: Tensor) -> Tensor:
    """L_kd of LCKD: the distance of every available modality's feature from every available teacher's.

    For each item, sum over teachers t and modalities s, both available, of mean |stopgrad(f_t) - f_s| over channels and
    space; then the mean over the batch. Teachers learn from each other; one's distance from itself is 0.

    Args:
        features: `(B, K, C, *space)`; what stands in place of absent modalities does not count.
        available: `(B, K)` bool.
        teachers: `(K,)` bool.

    Returns:
        A scalar in float32 or wider; 0 where no teacher is available, or nothing else.
    """
    features = at_least_float32(features)
    pairs = (available & teachers)[:, :, None] & available[:, None, :]
    distances = [
        (teacher.detach()[:, None] - features).abs().flatten(2).mean(dim=2) for teacher in features.unbind(dim=1)
    ]
    return torch.where(pairs, torch.stack(distances, dim=1), 0).sum() / len(features)
