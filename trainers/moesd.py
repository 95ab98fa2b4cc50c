"""MoE-SD and the other rows of the paper's table 1: what each has of experts, gate regularisation and distillation.

| trainer | experts in | alpha L_reg | beta L_sd |
|---|---|---|---|
| `nnUNetTrainerModalityDropout` | | | |
| `nnUNetTrainerDynamicStem` | (filters of the stem are scaled) | | |
| `nnUNetTrainerSD` | | | yes |
| `nnUNetTrainerMoEStem` | stem | yes | |
| `nnUNetTrainerMoENoReg` | stem, encoder | | |
| `nnUNetTrainerMoE` | stem, encoder | yes | |
| `nnUNetTrainerMoESD` | stem, encoder | yes | yes |
"""

from typing import Any, ClassVar

from nnunet_moe.settings.moesd import ExpertSettings, MoESDSettings, MoESettings, SelfDistillationSettings
from nnunet_moe.trainers.two_views import nnUNetTrainerTwoViews


class nnUNetTrainerMoESD(nnUNetTrainerTwoViews):
    """Mixtures of experts in stem and encoder, gate regularisation, online self-distillation."""

    settings_class = MoESDSettings


class nnUNetTrainerMoESDPaper(nnUNetTrainerTwoViews):
    """The same with the paper's literal settings: eq. 4 as it is printed, with + before its second term."""

    settings_class = MoESDSettings
    forced_settings: ClassVar[dict[str, Any]] = {
        "num_experts": 4,
        "expert_spread": 1.0,
        "placement": ("stem", "encoder"),
        "alpha": 0.1,
        "beta": 1.0,
        "temperature": 2.0,
        "code_noise_sd": 0.2,
        "specialization_sign": 1,
        "ramp_up_fraction": 1 / 3,
    }


class nnUNetTrainerModalityDropout(nnUNetTrainerTwoViews):
    """The baseline: both views supervised; no experts, no self-distillation."""


class nnUNetTrainerMoE(nnUNetTrainerTwoViews):
    """Mixtures in stem and encoder, gate regularisation; no self-distillation."""

    settings_class = MoESettings


class nnUNetTrainerMoEStem(nnUNetTrainerTwoViews):
    """As `nnUNetTrainerMoE`, with a mixture in the stem only."""

    settings_class = MoESettings
    forced_settings: ClassVar[dict[str, Any]] = {"placement": ("stem",)}


class nnUNetTrainerMoENoReg(nnUNetTrainerTwoViews):
    """As `nnUNetTrainerMoE`, without gate regularisation."""

    settings_class = ExpertSettings


class nnUNetTrainerSD(nnUNetTrainerTwoViews):
    """Both views supervised, self-distillation; no experts."""

    settings_class = SelfDistillationSettings


class nnUNetTrainerDynamicStem(nnUNetTrainerTwoViews):
    """ModDrop++'s dynamic stem on modality dropout (Liu et al., MICCAI 2022).

    The stem's filters are scaled by a small network of the code, which sees it without noise; nothing else.
    """

    settings_class = ExpertSettings
    forced_settings: ClassVar[dict[str, Any]] = {
        "placement": ("stem",),
        "conditioning": "filter_scaling",
        "code_noise_sd": 0.0,
    }
