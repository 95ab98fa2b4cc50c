"""The settings that a user may write into a configuration of the plans, under the key `nnunet_moe`."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from nnunet_moe.errors import SettingsError

PLANS_KEY = "nnunet_moe"
PLACEMENTS = ("stem", "encoder", "decoder")


@dataclass(frozen=True)
class _Range:
    accepts: Callable[[Any], bool]
    description: str


def _setting(default: object, accepts: Callable[[Any], bool], description: str) -> Any:
    return field(default=default, metadata={"range": _Range(accepts, description)})


def _number(default: float, low: float, high: float) -> Any:
    def accepts(value: object) -> bool:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high

    return _setting(default, accepts, f"a number from {low} to {high}")


def _switch(default: bool) -> Any:
    return _setting(default, lambda value: isinstance(value, bool), "true or false")


def _whole(default: int, low: int, high: int | None = None) -> Any:
    def accepts(value: object) -> bool:
        if not isinstance(value, int) or isinstance(value, bool):
            return False
        return low <= value and (high is None or value <= high)

    return _setting(default, accepts, f"a whole number from {low}" + ("" if high is None else f" to {high}"))


def _is_placement(value: object) -> bool:
    if not isinstance(value, (list, tuple)):
        return False
    return all(place in PLACEMENTS and value.count(place) == 1 for place in value)


def _is_code(value: object) -> bool:
    if not isinstance(value, (list, tuple)):
        return False
    return any(value) and all(digit in (0, 1) for digit in value)


def _is_width(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0 and value % 3 == 0


def _is_table(value: object) -> bool:
    if not isinstance(value, (list, tuple)) or not value:
        return False
    return all(_is_code(row) and len(row) == len(value[0]) for row in value)


@dataclass(frozen=True)
class Settings:
    """What can be set in the plans. Symbols as in docs/method.md."""

    num_experts: int = _whole(4, 1, 64)
    """N, experts in each mixture."""
    expert_spread: float = _number(0.1, 0, 1)
    """How far a mixture's experts start apart: 1 independent draws, 0 copies of one draw."""
    placement: tuple[str, ...] = _setting(
        ("stem", "encoder"), _is_placement, f"a list with any of {', '.join(PLACEMENTS)}, each once"
    )
    """Where convolutions depend on the code."""
    alpha: float = _number(0.1, 0, 1000)
    """Weight of the gate regularisation L_reg."""
    beta: float = _number(1.0, 0, 1000)
    """Weight of the self-distillation loss L_sd."""
    temperature: float = _number(2.0, 0.01, 1000)
    """tau, by which logits are divided in L_sd."""
    code_noise_sd: float = _number(0.2, 0, 1000)
    """SD of the noise on the code that the gates see in training."""
    specialization_sign: int = _whole(0, -1, 1)
    """s, the sign of the second term of L_reg."""
    ramp_up_fraction: float = _number(1 / 3, 0, 1)
    """T_r over the number of all training iterations."""
    modality_code: tuple[int, ...] | None = _setting(None, _is_code, "a list of 0 and 1, one a channel, not all 0")
    """The one code of a dedicated model."""
    num_epochs: int = _whole(1000, 1)
    num_iterations_per_epoch: int = _whole(250, 1)
    num_val_iterations_per_epoch: int = _whole(50, 1)
    fill_skips: bool = _switch(False)
    """LCKD: an absent modality's features are the mean of the available ones' in the skips, too."""
    distillation_weight: float = _number(0.1, 0, 1000)
    """LCKD: weight of L_kd."""
    warm_up_fraction: float = _number(0.7, 0, 1)
    """LCKD: the part of all epochs in which nothing is dropped."""
    drop_none_too: bool = _switch(True)
    """LCKD: whether all modalities are among the subsets that are drawn after the warm-up."""
    election_interval: int = _whole(20, 1)
    """LCKD: epochs from one election to the next."""
    election_fraction: float = _number(0.1, 0, 0.5)
    """LCKD: the part of the fold's training cases, at least one, that is kept for elections."""
    max_election_cases: int = _whole(20, 1)
    """LCKD: not more than so many."""
    teacher: str | None = _setting(None, lambda value: isinstance(value, str) and value != "", "the name of a modality")
    """LCKD: the one teacher of `nnUNetTrainerLCKDFixedTeacher`."""
    width: int = _setting(96, _is_width, "a whole multiple of 3")
    """M4oE: channels of the first stage; the others have 2, 4 and 8 times as many."""
    label_sets: tuple[tuple[int, ...], ...] | None = _setting(None, _is_table, "a list of lists of 0 and 1")
    """For each modality a 0 or 1 an output of the network: what its annotation covers. Trainers write it into their
    model's plans; users write `label_sets` into dataset.json."""
    predict_all_labels: bool = _switch(False)
    """Whether labels outside the sets of a case's modalities may appear in predictions."""
    seed: int = _whole(0, 0)
    """Fixes the initial weights, the order of the dropped codes and the noise on the codes."""
    # The trainer's business, which cannot stand in the plans:
    conditioning: Literal["experts", "filter_scaling"] = "experts"
    """How convolutions depend on the code."""
    routing: Literal["gate", "kind", "channel_gate"] = "gate"
    """M4oE: who chooses experts: a gate for each token, the image's kind, or nobody (a gate over channels)."""
    election: Literal["by_label", "most_frequent", "fixed", "random"] = "by_label"
    """LCKD: who teaches: the best modality of each label, that which is best most often, the setting `teacher`, or a
    random one for each label."""

    @classmethod
    def from_plans(cls, configuration: dict, forced: dict | None = None) -> "Settings":
        """Read the settings of one configuration of the plans.

        Args:
            configuration: a resolved configuration (nnU-Net's `ConfigurationManager.configuration`).
            forced: settings that a trainer fixes; they win over the plans, so that one plans file serves all trainers.

        Raises:
            SettingsError: an unknown key or a value out of range; the message lists what is allowed.
        """
        for key in configuration:
            if key != PLANS_KEY and re.sub("[^a-z]", "", key.lower()) == "nnunetmoe":
                raise SettingsError(
                    f"The configuration in the plans has a key {key!r}; the settings' key is {PLANS_KEY!r}."
                )
        given = configuration.get(PLANS_KEY, {})
        if not isinstance(given, dict):
            raise SettingsError(f"'{PLANS_KEY}' in the plans is {given!r}; it must be an object of settings.")
        cls.require_allowed(given, f"under '{PLANS_KEY}' in the plans")
        merged: dict[str, Any] = {**given, **(forced or {})}
        return cls(**{name: _frozen(value) for name, value in merged.items()})

    @classmethod
    def require_allowed(cls, given: dict[str, Any], where: str) -> None:
        """Make sure that settings as someone has written them are known and in range.

        Args:
            given: name -> value.
            where: they were written, for the message.

        Raises:
            SettingsError: an unknown name, or a value out of range; the message lists what is allowed.
        """
        ranges = {setting.name: setting.metadata["range"] for setting in fields(cls) if setting.metadata}
        for name, value in given.items():
            if name not in ranges:
                raise SettingsError(f"Unknown setting {name!r} {where}. Allowed are {', '.join(ranges)}.")
            if not ranges[name].accepts(value):
                raise SettingsError(
                    f"Setting {name!r} {where} is {value!r}; allowed is {ranges[name].description}. Correct it there."
                )


def _frozen(value: Any) -> Any:
    """A list of the plans' JSON as a tuple, the lists in it, too."""
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
