"""A loss and a measure for training one model for every subset; see docs/explanation/any_subset.md."""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from nnunet_moe.losses.precision import at_least_float32


def ranking_loss(full_view: Tensor, dropped_view: Tensor) -> Tensor:
    """Compute how much larger the loss with more modalities is: max(0, L(full view) - L(dropped view)).

    The full view contains all modalities of the dropped view, so its loss should not be larger. Where the order is
    right, the value and its gradient are 0. SimMLM (arXiv 2507.19264) compares the losses of more and fewer modalities
    in the same way, in a network with one part for each modality.

    Args:
        full_view: L_seg of the view with more modalities, a scalar.
        dropped_view: L_seg of the view with fewer modalities, a scalar.
    """
    return F.relu(full_view - dropped_view)


def soft_overlap(logits: Tensor, target: Tensor, valid: Tensor | None, *, regions: bool) -> Tensor:
    """Compute the two sums of a soft Dice for each item, without gradient; sums over items give the Dice of all.

    Args:
        logits: `(B, C, *space)`.
        target: `(B, 1, *space)` label values, or `(B, >= C, *space)` 0 or 1 for regions.
        valid: `(B, 1, *space)` bool, false at voxels with the ignore label; None if all voxels count.
        regions: whether outputs are regions; otherwise the first output is the background, which is not counted.

    Returns:
        `(B, C', 2)` with C' the number of labels or regions: twice the sum of p t, and the sum of p + t.
    """
    with torch.no_grad():
        logits = at_least_float32(logits)
        if regions:
            predicted, reference = logits.sigmoid(), target[:, : logits.shape[1]].to(logits.dtype)
        else:
            labels = torch.arange(1, logits.shape[1], device=logits.device).reshape(1, -1, *[1] * (logits.ndim - 2))
            predicted, reference = logits.softmax(dim=1)[:, 1:], (target == labels).to(logits.dtype)
        if valid is not None:
            predicted, reference = predicted * valid, reference * valid
        both = 2 * (predicted * reference).flatten(2).sum(dim=2)
        return torch.stack((both, (predicted + reference).flatten(2).sum(dim=2)), dim=2)
