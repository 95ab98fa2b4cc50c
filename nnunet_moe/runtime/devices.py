"""The option `-device`, which all commands that compute have."""

from typing import TYPE_CHECKING, Any

from nnunet_moe.errors import SettingsError
from nnunet_moe.runtime.options import option

if TYPE_CHECKING:
    import torch

DEVICES = ("cpu", "cuda", "mps")


def default_device() -> str:
    """Return "cuda" if a GPU is available, else "cpu"."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def require_device(device: "torch.device") -> None:
    """Check that a device works, before a command changes any file.

    Raises:
        SettingsError: it does not.
    """
    import torch

    try:
        torch.empty(1, device=device)
    except (AssertionError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise SettingsError(
            f"-device {device.type} does not work on this machine: {reason} Use -device cpu."
        ) from error


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
