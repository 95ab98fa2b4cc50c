"""The device that a command computes on."""

from typing import Any

from nnunet_moe.runtime.options import option

DEVICES = ("cpu", "cuda", "mps")


def default_device() -> str:
    """Take a GPU where there is one."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def device_option(**default: Any) -> Any:
    """Make the field of the option `-device`.

    Args:
        default: another `default` than `default_device`.
    """
    default = default or {"default_factory": default_device}
    return option("-device", choices=DEVICES, help="default: cuda where there is one, else cpu", **default)
