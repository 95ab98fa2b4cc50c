"""The settings of M4oE and of its control, the Swin U-Net."""

from dataclasses import dataclass
from typing import Literal

from nnunet_moe.settings.base import Settings
from nnunet_moe.settings.fields import setting


def _is_width(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0 and value % 3 == 0


@dataclass(frozen=True)
class M4oESettings(Settings):
    """The settings of M4oE's 2D Swin U-Net; the parts in `placement` have one expert for each image type."""

    width: int = setting(96, _is_width, "a positive multiple of 3")
    """Number of channels of the first stage; the other stages have 2, 4 and 8 times as many."""
    placement: tuple[Literal["encoder", "decoder"], ...] = ()
    """The parts whose blocks have experts. The trainer fixes it; it cannot be set in the plans."""
    routing: Literal["gate", "image_type", "channel_gate"] = "gate"
    """How experts are chosen: by a gate for each token, by the image type, or not at all (a gate over channels). The
    trainer fixes it; it cannot be set in the plans."""
