"""The options of `nnunet_moe upcycle`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nnunet_moe.errors import SettingsError
from nnunet_moe.runtime.options import NamedValues, named_value, option

MAX_SEED = 2**63 - 1


@dataclass(frozen=True, kw_only=True)
class Request:
    """The checkpoint to convert, and the training that will start from it.

    Raises:
        SettingsError: `noise` or `seed` is out of range.
    """

    source: Path = option(
        "-i", type=Path, group="input and output", help="convert this checkpoint, of an ordinary nnU-Net or of M4oE"
    )
    """From an ordinary nnU-Net, from a trainer of this package without experts, or from M4oE to add image types."""
    out: Path = option(
        "-o", type=Path, group="input and output", help="write the weights to this file, which must not exist"
    )
    """It must not exist."""
    trainer: str = option("-tr", group="model", help="make weights for this trainer, e.g. nnUNetTrainerMoESD")
    dataset: str | None = option(
        "-d", default=None, group="model", help="train on this dataset, by name or id (default: the checkpoint's)"
    )
    configuration: str | None = option(
        "-c", default=None, group="model", help="train this configuration (default: the checkpoint's)"
    )
    plans: str | None = option("-p", default=None, group="model", help="use these plans (default: the checkpoint's)")
    noise: float = option(
        "-noise",
        type=float,
        default=0.01,
        group="initial weights",
        help="add noise to the experts, its SD as a fraction of the SD of the weights (default: %(default)s)",
    )
    """A fraction of the SD of each weight tensor; at least 0."""
    like: str | None = option(
        "-like",
        default=None,
        metavar="IMAGE_TYPE",
        group="initial weights",
        help="start the experts of new image types from those of this one, only for M4oE (default: the mean of all)",
    )
    channels: Mapping[str, str] | None = option(
        "-map",
        action=NamedValues,
        type=named_value,
        nargs="+",
        default=None,
        metavar="MODALITY=CHANNEL",
        group="initial weights",
        help="start each modality from this channel of the checkpoint, by number or name, e.g. FLAIR=0 T1w=0; other "
        "modalities take the channel with their name, or the mean of all channels (default: all channels in their "
        "order, or by name if the names are the same)",
    )
    """None: channels fit by their order, or by name if the names are the same."""
    seed: int = option(
        "-seed",
        type=int,
        default=0,
        group="initial weights",
        help="seed the noise and the gates (default: %(default)s)",
    )

    def __post_init__(self) -> None:
        if not (0 <= self.noise < float("inf") and 0 <= self.seed <= MAX_SEED):
            raise SettingsError(
                f"-noise {self.noise} -seed {self.seed} is out of range. Both must be at least 0, the noise "
                "finite, and the seed below 2^63."
            )
