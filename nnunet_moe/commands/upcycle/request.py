"""The options of `nnunet_moe upcycle`."""

from dataclasses import dataclass
from pathlib import Path

from nnunet_moe.errors import SettingsError
from nnunet_moe.runtime.options import option

MAX_SEED = 2**63 - 1


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to make of which checkpoint.

    Raises:
        SettingsError: `noise` or `seed` out of range.
    """

    source: Path = option("-i", type=Path, help="the checkpoint of an ordinary nnU-Net, or of M4oE")
    """Of an ordinary nnU-Net, or of a trainer of this package without experts; of M4oE, to be trained on more kinds."""
    out: Path = option("-o", type=Path, help="the file to write")
    """It must not exist."""
    trainer: str = option("-tr", help="the trainer that will start from it, e.g. nnUNetTrainerMoESD")
    dataset: str | None = option("-d", default=None, help="dataset to train on, name or id (default: the checkpoint's)")
    configuration: str | None = option("-c", default=None, help="configuration to train (default: the checkpoint's)")
    plans: str | None = option("-p", default=None, help="its plans (default: the checkpoint's)")
    noise: float = option(
        "-noise",
        type=float,
        default=0.01,
        help="SD of the experts' noise over the SD of the weights (default: %(default)s)",
    )
    """As a fraction of the SD of each tensor of weights; from 0."""
    like: str | None = option(
        "-like",
        default=None,
        metavar="KIND",
        help="of M4oE: whose experts new kinds start with (default: the mean of all)",
    )
    seed: int = option("-seed", type=int, default=0, help="of noise and gates (default: %(default)s)")

    def __post_init__(self) -> None:
        if not (0 <= self.noise < float("inf") and 0 <= self.seed <= MAX_SEED):
            raise SettingsError(
                f"-noise {self.noise} -seed {self.seed}: both must be at least 0, noise finite, seed below 2^63."
            )
