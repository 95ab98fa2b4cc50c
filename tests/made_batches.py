"""Batches for trainers that tests make by `make_trainer`."""

import torch

LABELS = {
    "labels": {"labels": {"background": 0, "lesion": 1, "other": 2}},
    "regions": {"labels": {"background": 0, "whole": [1, 2], "core": 2}, "regions_class_order": [1, 2]},
}


def batch_for(trainer, *, num_modalities=3, dtype=torch.float64, seed=0):
    """A batch as nnU-Net's loader gives it, one item without its first channel, with a target per resolution."""
    generator = torch.Generator().manual_seed(seed)
    data = torch.randn(2, num_modalities, 16, 16, 16, generator=generator, dtype=dtype)
    if num_modalities > 1:
        data[1, 0] = torch.nan
    highest = 3 if trainer.label_manager.has_ignore_label else 2
    target = torch.randint(0, highest + 1, (2, 1, 16, 16, 16), generator=generator).to(torch.int16)
    if trainer.label_manager.has_regions:
        regions = [(target >= 1) & (target <= 2), target == 2]
        target = torch.cat([*regions, target == 3] if trainer.label_manager.has_ignore_label else regions, dim=1)
    scales = trainer._get_deep_supervision_scales()
    return {
        "data": data,
        "target": [target[:, :, :: round(1 / s[0]), :: round(1 / s[1]), :: round(1 / s[2])] for s in scales],
    }
