"""The options `-npp` and `-nps`: how many processes work while the network predicts."""

import os
from dataclasses import dataclass

from nnunet_moe.errors import SettingsError
from nnunet_moe.runtime.options import option
from nnunet_moe.runtime.processes import Workers

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
        help="preprocess in this many processes, 0 for the command's own (default: up to 3, or the environment "
        "variable nnUNet_npp, if they save time)",
    )
    finishing: int | None = option(
        "-nps",
        type=int,
        default=None,
        group="compute",
        help="write in this many processes, 0 for the command's own (default: up to 3, or the environment variable "
        "nnUNet_nps, if they save time)",
    )

    def __post_init__(self) -> None:
        for flag, given in (("-npp", self.preparing), ("-nps", self.finishing)):
            if given is not None and given < 0:
                raise SettingsError(
                    f"{flag} is {given}. -npp and -nps must be at least 0. With 0, the command uses no other process."
                )
        for step in VARIABLES:
            self._number(step)

    def workers(self, step: str, device: str) -> Workers:
        """Make the workers for a step, "preparing" or "finishing"; on a CPU, the network goes first.

        Raises:
            SettingsError: the user gave a number, and this machine cannot start worker processes.
        """
        at_once = getattr(self, step) is not None
        return Workers(self._number(step), at_once=at_once, in_background=device == "cpu")

    def _number(self, step: str) -> int:
        if (given := getattr(self, step)) is not None:
            return given
        text = os.environ.get(VARIABLES[step], str(DEFAULT))
        if not text.isdecimal():
            raise SettingsError(
                f"The environment variable {VARIABLES[step]} is {text!r}. It must be a whole number of at least 0. "
                "Change it."
            )
        return int(text)
