"""The settings of MoE-SD, in the parts that the rows of the paper's table 1 combine.

Symbols as in docs/explanation/moesd.md.
"""

from dataclasses import dataclass
from typing import Literal

from nnunet_moe.settings.base import Settings
from nnunet_moe.settings.fields import number, setting, whole

PLACEMENTS = ("stem", "encoder", "decoder")


def _is_placement(value: object) -> bool:
    if not isinstance(value, (list, tuple)):
        return False
    return all(place in PLACEMENTS and value.count(place) == 1 for place in value)


@dataclass(frozen=True)
class ExpertSettings(Settings):
    """Convolutions that depend on the modality code."""

    num_experts: int = whole(4, 1, 64)
    """N, experts in each mixture."""
    expert_spread: float = number(0.1, 0, 1)
    """How far a mixture's experts start apart: 1 independent draws, 0 copies of one draw."""
    placement: tuple[str, ...] = setting(
        ("stem", "encoder"), _is_placement, f"a list with any of {', '.join(PLACEMENTS)}, each once"
    )
    """Where convolutions depend on the code."""
    code_noise_sd: float = number(0.2, 0, 1000)
    """SD of the noise on the code that the gates see in training."""
    conditioning: Literal["experts", "filter_scaling"] = "experts"
    """How convolutions depend on the code; the trainer's business."""


@dataclass(frozen=True)
class MoESettings(ExpertSettings):
    """Experts with gate regularization."""

    alpha: float = number(0.1, 0, 1000)
    """Weight of the gate regularisation L_reg."""
    specialization_sign: int = whole(0, -1, 1)
    """s, the sign of the second term of L_reg."""


@dataclass(frozen=True)
class SelfDistillationSettings(Settings):
    """The full view teaches the dropped view."""

    beta: float = number(1.0, 0, 1000)
    """Weight of the self-distillation loss L_sd."""
    temperature: float = number(2.0, 0.01, 1000)
    """tau, by which logits are divided in L_sd."""
    ramp_up_fraction: float = number(1 / 3, 0, 1)
    """T_r over the number of all training iterations."""


@dataclass(frozen=True)
class MoESDSettings(MoESettings, SelfDistillationSettings):
    """The whole method."""
