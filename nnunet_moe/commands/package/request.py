"""The options of `nnunet_moe package`."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nnunet_moe.commands.package import TARGETS
from nnunet_moe.models.choice import ModelChoice
from nnunet_moe.models.prediction_settings import PredictionSettings
from nnunet_moe.runtime.options import NamedValues, option, options_of


def _input(text: str) -> tuple[str, str | None]:
    """`NAME=MODALITY`, or `NAME=` for what is not used."""
    name, separator, modality = text.partition("=")
    if not (name.strip() and separator):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=MODALITY or NAME=")
    return name, modality or None


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to package, in the words of the command's options."""

    model: ModelChoice = options_of(ModelChoice)
    out: Path = option("-o", type=Path, help="folder to write, the image gets its name; it must not exist or be empty")
    target: str = option("--target", choices=TARGETS, help="whose contract to follow")
    modalities: str | None = option(
        "-m",
        default=None,
        metavar="CODE",
        help="export these modalities as an ordinary nnU-Net, and take cases that have all of them",
    )
    """One subset, by names or digits, to be exported as an ordinary nnU-Net; None: the model itself."""
    inputs: Mapping[str, str | None] | None = option(
        "-inputs",
        nargs="+",
        action=NamedValues,
        type=_input,
        default=None,
        metavar="NAME=MODALITY",
        help="socket, suffix (brats: t1c for -t1c) or flag of each modality; NAME= is sent and not used "
        "(default: by the modalities' names)",
    )
    """Socket, suffix or flag -> modality, None if it is not used; None: by the modalities' names."""
    output: str | None = option(
        "-output",
        default=None,
        help="output socket's slug or path, or ending of the segmentations' files (default: the contract's)",
    )
    """The output socket's slug, or the ending of the segmentations' files; None: the contract's."""
    prediction: PredictionSettings = options_of(
        PredictionSettings, help={"-device": "for the sample case now; default: cuda where there is one"}
    )
