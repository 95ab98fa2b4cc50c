"""The settings of LCKD."""

from dataclasses import dataclass
from typing import Literal

from nnunet_moe.settings.base import Settings
from nnunet_moe.settings.fields import number, setting, switch, whole


@dataclass(frozen=True)
class LCKDSettings(Settings):
    """The settings of LCKD's network, distillation and election of teachers.

    Symbols are as in docs/explanation/lckd.md.
    """

    fill_skips: bool = switch(False)
    """Whether the skip connections also replace a missing modality's features by the mean of the available ones."""
    distillation_weight: float = number(0.1, 0, 1000)
    """Weight of the distillation loss L_kd."""
    warm_up_fraction: float = number(0.7, 0, 1)
    """Fraction of all epochs, from the first one on, in which no modality is dropped."""
    drop_none_too: bool = switch(True)
    """Whether the random subsets after the warm-up include the complete set of modalities."""
    election_interval: int = whole(20, 1)
    """Number of epochs from one election to the next."""
    election_fraction: float = number(0.1, 0, 0.5)
    """Fraction of the fold's training cases that is kept for elections; at least one case."""
    max_election_cases: int = whole(20, 1)
    """Largest number of cases that are kept for elections."""
    teacher: str | None = setting(None, lambda value: isinstance(value, str) and value != "", "the name of a modality")
    """The one teacher of `nnUNetTrainerLCKDFixedTeacher`."""
    election: Literal["by_label", "most_frequent", "fixed", "random"] = "by_label"
    """Which modalities teach: the best one for each label, the one that is best for the most labels, the setting
    `teacher`, or a random one for each label. The trainer fixes it; it cannot be set in the plans."""
