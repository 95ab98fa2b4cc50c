"""The options of `nnunet_moe package`."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nnunet_moe.commands.package import TARGETS
from nnunet_moe.errors import SettingsError
from nnunet_moe.models.choice import ModelChoice
from nnunet_moe.models.prediction_settings import PredictionSettings
from nnunet_moe.runtime.options import NamedValues, option, options_of


def _input(text: str) -> tuple[str, str | None]:
    """Parse `NAME=MODALITY`, or `NAME=` for an input that is not used."""
    name, separator, modality = text.partition("=")
    if not (name.strip() and separator):
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed. Write NAME=MODALITY, or NAME= if it is not used")
    return name, modality or None


@dataclass(frozen=True, kw_only=True)
class Request:
    """The options of `nnunet_moe package`: what to package, and for which contract."""

    model: ModelChoice = options_of(ModelChoice)
    out: Path = option(
        "-o",
        type=Path,
        group="input and output",
        help="write to this folder, which must be empty or new; the container image gets its name",
    )
    target: str = option("--target", choices=TARGETS, group="container", help="follow the contract of this platform")
    modalities: str | None = option(
        "-m",
        default=None,
        metavar="CODE",
        group="modalities and labels",
        help="export these modalities as an ordinary nnU-Net and accept only cases that have all of them "
        "(default: package the model itself)",
    )
    """One subset, by names or digits, that is exported as an ordinary nnU-Net. None: the model itself."""
    inputs: Mapping[str, str | None] | None = option(
        "-inputs",
        nargs="+",
        action=NamedValues,
        type=_input,
        default=None,
        metavar="NAME=MODALITY",
        group="container",
        help="assign a modality to each socket, suffix (brats: t1c for -t1c) or flag; NAME= accepts an input "
        "without using it (default: by the modalities' names)",
    )
    """Socket, suffix or flag -> modality, None if it is not used. None: derived from the modalities' names."""
    output: str | None = option(
        "-output",
        default=None,
        group="container",
        help="write to this output socket (slug or path), or give the segmentations this file ending "
        "(default: the contract's)",
    )
    """The output socket's slug, or the ending of the segmentations' files. None: set by the contract."""
    cpu: bool = option(
        "--cpu",
        action="store_true",
        default=False,
        group="container",
        help="build the image with torch's CPU build, without CUDA; it is smaller and does not use a GPU",
    )
    scores: Path | None = option(
        "-scores",
        type=Path,
        default=None,
        group="input and output",
        help="read this output folder of `nnunet_moe evaluate`, and let the container's log say which Dice is expected "
        "of each case (default: none)",
    )
    prediction: PredictionSettings = options_of(
        PredictionSettings,
        help={"-device": "predict the sample case on this device (default: cuda if a GPU is available, else cpu)"},
    )

    def __post_init__(self) -> None:
        if self.scores is not None and self.modalities is not None:
            raise SettingsError("-scores belong to the model itself, and -m exports a part of it. Omit one of them.")
