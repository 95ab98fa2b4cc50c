"""ModDrop++'s dynamic stem on modality dropout (Liu et al., MICCAI 2022): a row of the paper's table 1."""

from typing import Any, ClassVar

from nnunet_moe.trainers.two_views import nnUNetTrainerTwoViews


class nnUNetTrainerDynamicStem(nnUNetTrainerTwoViews):
    """The stem's filters are scaled by a small network of the code, which sees it without noise; nothing else."""

    forced_settings: ClassVar[dict[str, Any]] = {
        "placement": ("stem",),
        "conditioning": "filter_scaling",
        "code_noise_sd": 0.0,
        "alpha": 0.0,
        "beta": 0.0,
    }
