"""Self-distillation without experts: a row of the paper's table 1."""

from typing import Any, ClassVar

from nnunet_moe.trainers.two_views import nnUNetTrainerTwoViews


class nnUNetTrainerSD(nnUNetTrainerTwoViews):
    """Both views supervised, self-distillation; no experts."""

    forced_settings: ClassVar[dict[str, Any]] = {"placement": (), "alpha": 0.0}
