"""The option `-device`, which all commands that compute have."""

from typing import Any

from nnunet_moe.runtime.options import option

DEVICES = ("cpu", "cuda", "mps")


def default_device() -> str:
    """Return "cuda" if a GPU is available, else "cpu"."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def device_option(
    *, help: str = "compute on this device (default: cuda if a GPU is available, else cpu)", **default: Any
) -> Any:
    """Make the field of the option `-device`.

    Args:
        help: the help text.
        default: `default=...`, if it is not `default_device`.
    """
    default = default or {"default_factory": default_device}
    return option("-device", choices=DEVICES, group="compute", help=help, **default)
