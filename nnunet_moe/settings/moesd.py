"""The settings of MoE-SD, split into the parts that the rows of the paper's table 1 combine.

Symbols are as in docs/explanation/moesd.md.
"""

from dataclasses import dataclass
from typing import Literal

from nnunet_moe.settings.fields import number, whole
from nnunet_moe.settings.two_views import TwoViewsSettings


@dataclass(frozen=True)
class ExpertSettings(TwoViewsSettings):
    """The settings of convolutions that depend on the modality code."""

    num_experts: int = whole(4, 1, 64)
    """N, the number of experts in each mixture."""
    expert_spread: float = number(0.1, 0, 1)
    """How different a mixture's experts are at the start: from 0 (copies of one draw) to 1 (independent draws)."""
    code_noise_sd: float = number(0.2, 0, 1000)
    """SD of the Gaussian noise that is added to the code in training, where each modality is 0 or 1."""
    conditioning: Literal["experts", "filter_scaling"] = "experts"
    """How convolutions depend on the code. The trainer fixes it; it cannot be set in the plans."""


@dataclass(frozen=True)
class MoESettings(ExpertSettings):
    """The settings of experts with gate regularization."""

    alpha: float = number(0.1, 0, 1000)
    """Weight of the gate regularization L_reg."""
    specialization_sign: int = whole(0, -1, 1)
    """s, the sign of the second term of L_reg: -1 rewards codes that use few experts, 1 punishes it, 0 ignores it."""


@dataclass(frozen=True)
class SelfDistillationSettings(TwoViewsSettings):
    """The settings of self-distillation, where the full view is the teacher of the dropped view."""

    beta: float = number(1.0, 0, 1000)
    """Weight of the self-distillation loss L_sd."""
    temperature: float = number(2.0, 0.01, 1000)
    """tau, the temperature by which logits are divided in L_sd."""
    ramp_up_fraction: float = number(1 / 3, 0, 1)
    """T_r as a fraction of all training iterations; the weight of L_sd rises until then."""


@dataclass(frozen=True)
class MoESDSettings(MoESettings, SelfDistillationSettings):
    """The settings of the whole method: experts, gate regularization and self-distillation."""
