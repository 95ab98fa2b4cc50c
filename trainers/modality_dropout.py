"""Modality dropout: the baseline of the paper, L_seg on both views alone."""

from typing import Any, ClassVar

from nnunet_moe.trainers.two_views import nnUNetTrainerTwoViews


class nnUNetTrainerModalityDropout(nnUNetTrainerTwoViews):
    """Both views supervised; no experts, no self-distillation."""

    forced_settings: ClassVar[dict[str, Any]] = {"placement": (), "alpha": 0.0, "beta": 0.0}
