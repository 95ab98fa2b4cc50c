"""The options of nnU-Net's sliding-window prediction."""

from dataclasses import dataclass
from typing import Any

from nnunet_moe.errors import SettingsError
from nnunet_moe.runtime.devices import device_option
from nnunet_moe.runtime.options import option

DEFAULT_STEP_SIZE = 0.5


@dataclass(frozen=True, kw_only=True)
class PredictionSettings:
    """How nnU-Net predicts, with the same defaults as nnU-Net.

    Raises:
        SettingsError: a step size out of range.
    """

    step_size: float = option(
        "-step_size",
        type=float,
        default=DEFAULT_STEP_SIZE,
        group="inference",
        help="move the sliding window by this fraction of the patch (default: %(default)s)",
    )
    """As a fraction of the patch, above 0 and at most 1."""
    mirroring: bool = option(
        "--disable_tta",
        action="store_false",
        group="inference",
        help="turn off mirroring: faster, but less accurate",
    )
    device: str = device_option()

    def __post_init__(self) -> None:
        require_step_size(self.step_size)


def require_step_size(step_size: Any) -> None:
    """Make sure that a step size is a fraction of the patch.

    Raises:
        SettingsError: the value is not a number above 0 and at most 1.
    """
    is_number = isinstance(step_size, (int, float)) and not isinstance(step_size, bool)
    if not is_number or not 0 < step_size <= 1:
        raise SettingsError(f"step_size is {step_size!r}. Allowed are numbers above 0 and up to 1. Change step_size.")
