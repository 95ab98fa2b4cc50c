"""The options of `nnunet_moe export`."""

from dataclasses import dataclass
from pathlib import Path

from nnunet_moe.models.choice import ModelChoice
from nnunet_moe.runtime.options import one_of, option, options_of


@dataclass(frozen=True, kw_only=True)
class Request:
    """The options of `nnunet_moe export`: what to export, and where to."""

    model: ModelChoice = options_of(ModelChoice)
    modalities: str | None = one_of(
        option(
            "-m",
            metavar="CODE",
            group="modalities and labels",
            help="export these modalities, given as T1w+FLAIR or 101",
        ),
        option(
            "--all",
            action="store_const",
            const=None,
            group="modalities and labels",
            help="export every subset, each to its own folder below -o",
        ),
    )
    """One subset, by names (`T1w+FLAIR`) or digits (`101`). None: every subset, each in its own folder."""
    out: Path = option(
        "-o", type=Path, group="input and output", help="write the model to this folder, which must be empty or new"
    )
    scores: Path | None = option(
        "-scores",
        type=Path,
        default=None,
        group="input and output",
        help="read this output folder of `nnunet_moe evaluate` and show its scores in the model card (default: none)",
    )
    onnx: bool = option(
        "--onnx", action="store_true", group="input and output", help="write the network of each fold as ONNX, too"
    )
