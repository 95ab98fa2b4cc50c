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
            "-m", metavar="CODE", help="export this subset of the modalities, by names (T1w+FLAIR) or as digits (101)"
        ),
        option(
            "--all",
            action="store_const",
            const=None,
            help="export every subset that the model takes, each to its own folder below -o",
        ),
    )
    """One subset, by names (`T1w+FLAIR`) or digits (`101`). None: every subset, each in its own folder."""
    out: Path = option("-o", type=Path, help="write the model to this folder, which must be new or empty")
    scores: Path | None = option(
        "-scores",
        type=Path,
        default=None,
        help="read scores for the model card from this output folder of `nnunet_moe evaluate` (default: no scores)",
    )
    onnx: bool = option(
        "--onnx", action="store_true", help="also write the network of each fold as an ONNX file (default: no ONNX)"
    )
