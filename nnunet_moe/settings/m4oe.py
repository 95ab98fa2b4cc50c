"""The settings of M4oE and of its control, the Swin U-Net."""

from dataclasses import dataclass
from typing import Literal

from nnunet_moe.settings.base import Settings
from nnunet_moe.settings.fields import setting


def _is_width(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0 and value % 3 == 0


@dataclass(frozen=True)
class M4oESettings(Settings):
    """A 2D Swin U-Net, with experts per image type where `placement` names a part of it."""

    width: int = setting(96, _is_width, "a whole multiple of 3")
    """Channels of the first stage; the others have 2, 4 and 8 times as many."""
    placement: tuple[Literal["encoder", "decoder"], ...] = ()
    """The parts whose blocks have experts; the trainer's business."""
    routing: Literal["gate", "image_type", "channel_gate"] = "gate"
    """Who chooses experts: a gate for each token, the image's type, or nobody (a gate over channels); the trainer's
    business."""
