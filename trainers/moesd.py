"""The trainers of MoE-SD and of the other rows of the paper's table 1.

They differ in their experts, in the gate regularization and in the self-distillation:

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
    """Trains MoE-SD: mixtures of experts in stem and encoder, gate regularization and self-distillation.

    L = L_seg(full view) + L_seg(dropped view) + alpha L_reg + w(t) beta L_sd. The dropped view is a random subset of
    each case's modalities. The full view is the teacher of the dropped view.

    Source: Novosad, Carano, Krishnan, "A task-conditional mixture-of-experts model for missing modality segmentation",
    MICCAI 2024. Settings: `MoESDSettings`. Where their defaults differ from the paper, the page
    docs/explanation/decisions.md gives the reason.
    """

    settings_class = MoESDSettings


class nnUNetTrainerMoESDPaper(nnUNetTrainerTwoViews):
    """Trains MoE-SD with the paper's literal settings: eq. 4 as it is printed, with + before its second term."""

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
    """Trains the baseline: both views are supervised, without experts and without self-distillation."""


class nnUNetTrainerMoE(nnUNetTrainerTwoViews):
    """Trains with mixtures in stem and encoder and with gate regularization, without self-distillation."""

    settings_class = MoESettings


class nnUNetTrainerMoEStem(nnUNetTrainerTwoViews):
    """Trains as `nnUNetTrainerMoE`, but with a mixture only in the stem."""

    settings_class = MoESettings
    forced_settings: ClassVar[dict[str, Any]] = {"placement": ("stem",)}


class nnUNetTrainerMoENoReg(nnUNetTrainerTwoViews):
    """Trains as `nnUNetTrainerMoE`, but without gate regularization."""

    settings_class = ExpertSettings


class nnUNetTrainerSD(nnUNetTrainerTwoViews):
    """Trains with self-distillation and without experts; both views are supervised."""

    settings_class = SelfDistillationSettings


class nnUNetTrainerDynamicStem(nnUNetTrainerTwoViews):
    """Trains modality dropout with the dynamic stem of ModDrop++ (Liu et al., MICCAI 2022).

    A small network computes a factor for each filter of the stem from the modality code, without noise. No other part
    of ModDrop++ is used.
    """

    settings_class = ExpertSettings
    forced_settings: ClassVar[dict[str, Any]] = {
        "placement": ("stem",),
        "conditioning": "filter_scaling",
        "code_noise_sd": 0.0,
    }
