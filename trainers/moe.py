"""Mixtures of experts without self-distillation: three rows of the paper's table 1."""

from typing import Any, ClassVar

from nnunet_moe.trainers.two_views import nnUNetTrainerTwoViews


class nnUNetTrainerMoE(nnUNetTrainerTwoViews):
    """Mixtures in stem and encoder, gate regularisation; no self-distillation."""

    forced_settings: ClassVar[dict[str, Any]] = {"beta": 0.0}


class nnUNetTrainerMoEStem(nnUNetTrainerTwoViews):
    """As `nnUNetTrainerMoE`, with a mixture in the stem alone."""

    forced_settings: ClassVar[dict[str, Any]] = {**nnUNetTrainerMoE.forced_settings, "placement": ("stem",)}


class nnUNetTrainerMoENoReg(nnUNetTrainerTwoViews):
    """As `nnUNetTrainerMoE`, without gate regularisation."""

    forced_settings: ClassVar[dict[str, Any]] = {**nnUNetTrainerMoE.forced_settings, "alpha": 0.0}
