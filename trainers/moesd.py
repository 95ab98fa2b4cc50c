"""MoE-SD: the method of the paper, with the decisions of docs/method.md."""

from typing import Any, ClassVar

from nnunet_moe.trainers.two_views import nnUNetTrainerTwoViews


class nnUNetTrainerMoESD(nnUNetTrainerTwoViews):
    """Mixtures of experts in stem and encoder, gate regularisation, online self-distillation."""


class nnUNetTrainerMoESDPaper(nnUNetTrainerTwoViews):
    """The same with the paper's literal settings: eq. 4 as it is printed, with + before its second term."""

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
