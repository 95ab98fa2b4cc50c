"""The settings of LCKD."""

from dataclasses import dataclass
from typing import Literal

from nnunet_moe.settings.base import Settings
from nnunet_moe.settings.fields import number, setting, switch, whole


@dataclass(frozen=True)
class LCKDSettings(Settings):
    """Elected teachers over a shared encoder. Symbols as in docs/explanation/lckd.md."""

    fill_skips: bool = switch(False)
    """Whether a missing modality's features are the mean of the available ones' in the skips, too."""
    distillation_weight: float = number(0.1, 0, 1000)
    """Weight of L_kd."""
    warm_up_fraction: float = number(0.7, 0, 1)
    """The part of all epochs in which nothing is dropped."""
    drop_none_too: bool = switch(True)
    """Whether all modalities are among the subsets that are drawn after the warm-up."""
    election_interval: int = whole(20, 1)
    """Epochs from one election to the next."""
    election_fraction: float = number(0.1, 0, 0.5)
    """The part of the fold's training cases, at least one, that is kept for elections."""
    max_election_cases: int = whole(20, 1)
    """The largest number of cases that are kept for elections."""
    teacher: str | None = setting(None, lambda value: isinstance(value, str) and value != "", "the name of a modality")
    """The one teacher of `nnUNetTrainerLCKDFixedTeacher`."""
    election: Literal["by_label", "most_frequent", "fixed", "random"] = "by_label"
    """Who teaches: the best modality of each label, that which is best most often, the setting `teacher`, or a random
    one for each label; the trainer's business."""
