"""The options `-npp` and `-nps`: how many processes work while the network predicts."""

import os
from dataclasses import dataclass

from nnunet_moe.errors import SettingsError
from nnunet_moe.runtime.options import option
from nnunet_moe.runtime.processes import Workers
from nnunet_moe.runtime.threads import usable_cores

DEFAULT = 3  # nnU-Net's
VARIABLES = {"preparing": "nnUNet_npp", "finishing": "nnUNet_nps"}


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """The processes for the steps before and after the network.

    Raises:
        SettingsError: a number is below 0, or an environment variable is no whole number.
    """

    preparing: int | None = option(
        "-npp",
        type=int,
        default=None,
        group="compute",
        help="preprocess in this many processes, 0 for the command's own (default: on a GPU up to 3, or the "
        "environment variable nnUNet_npp, if they save time)",
    )
    finishing: int | None = option(
        "-nps",
        type=int,
        default=None,
        group="compute",
        help="write in this many processes, 0 for the command's own (default: on a GPU up to 3, or the environment "
        "variable nnUNet_nps, if they save time)",
    )

    def __post_init__(self) -> None:
        for flag, given in (("-npp", self.preparing), ("-nps", self.finishing)):
            if given is not None and given < 0:
                raise SettingsError(
                    f"{flag} is {given}. -npp and -nps must be at least 0. With 0, the command uses no other process."
                )
        for variable in VARIABLES.values():
            _from_environment(variable)

    def workers(self, step: str, device: str) -> Workers:
        """Make the workers for a step, "preparing" or "finishing"; on a CPU, the network goes first.

        Raises:
            SettingsError: the user gave a number, and this machine cannot start worker processes.
        """
        on_cpu, given = device == "cpu", getattr(self, step)
        if given is not None:
            return Workers(given, in_background=on_cpu)
        # a network on the CPU uses all cores, and was slower beside other processes (docs/lab_notes/cost.md)
        number = 0 if on_cpu else min(_from_environment(VARIABLES[step]), usable_cores())
        return Workers(number, at_once=False, in_background=on_cpu)


def _from_environment(variable: str) -> int:
    text = os.environ.get(variable, str(DEFAULT))
    if not text.isdecimal():
        raise SettingsError(
            f"The environment variable {variable} is {text!r}. It must be a whole number of at least 0. Change it."
        )
    return int(text)
