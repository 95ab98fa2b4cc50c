"""The options of `nnunet_moe export`."""

from dataclasses import dataclass
from pathlib import Path

from nnunet_moe.models.choice import ModelChoice
from nnunet_moe.runtime.options import one_of, option, options_of


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to export, in the words of the command's options."""

    model: ModelChoice = options_of(ModelChoice)
    modalities: str | None = one_of(
        option("-m", metavar="CODE", help="the modalities, e.g. T1w+FLAIR, or digits, 101"),
        option("--all", action="store_const", const=None, help="every subset, each in a folder of its own below -o"),
    )
    """One subset, by names, `T1w+FLAIR`, or digits; None: all, each in a folder of its own."""
    out: Path = option("-o", type=Path, help="the model folder to write; it must not exist or be empty")
    scores: Path | None = option(
        "-scores",
        type=Path,
        default=None,
        help="output folder of `nnunet_moe evaluate`: its scores go into the model card",
    )
    onnx: bool = option("--onnx", action="store_true", help="write each fold's network as ONNX too")
