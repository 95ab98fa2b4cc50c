"""The options of `nnunet_moe predict`; names and defaults as in nnU-Net's command."""

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from nnunet_moe.errors import SettingsError
from nnunet_moe.models.choice import ModelChoice
from nnunet_moe.models.prediction_settings import PredictionSettings
from nnunet_moe.models.requirement import Requirement
from nnunet_moe.runtime.options import option, options_of


def _from_environment(name: str) -> int:
    text = os.environ.get(name, "3")
    try:
        return int(text)
    except ValueError:
        raise SettingsError(f"The environment variable {name} is {text!r}; it must be a whole number.") from None


@dataclass(frozen=True, kw_only=True)
class Request:
    """What `nnunet_moe predict` was asked for.

    Raises:
        SettingsError: an option out of range, or the output folder is one of the inputs.
    """

    images: Path = option("-i", type=Path, help="folder of images; any file of a case may be missing")
    out: Path = option("-o", type=Path, help="output folder")
    model: ModelChoice = options_of(ModelChoice)
    requirement: Requirement = options_of(Requirement)
    scores: Path | None = option(
        "-scores",
        type=Path,
        default=None,
        help="output folder of `nnunet_moe evaluate`: the manifest tells what to expect",
    )
    prediction: PredictionSettings = options_of(PredictionSettings)
    save_probabilities: bool = option("--save_probabilities", action="store_true", help="write probabilities, too")
    continue_prediction: bool = option(
        "--continue_prediction", action="store_true", help="go on with what an earlier run left"
    )
    preprocessing_processes: int = option(
        "-npp",
        type=int,
        default_factory=partial(_from_environment, "nnUNet_npp"),
        help="processes that preprocess; 0 for none (default: 3, or the environment's nnUNet_npp)",
    )
    export_processes: int = option(
        "-nps",
        type=int,
        default_factory=partial(_from_environment, "nnUNet_nps"),
        help="processes that write; 0 for none (default: 3, or the environment's nnUNet_nps)",
    )
    previous_stage: Path | None = option(
        "-prev_stage_predictions", type=Path, default=None, help="segmentations of a cascade's previous stage"
    )
    num_parts: int = option(
        "-num_parts", type=int, default=1, help="of how many commands, that share the cases (default: %(default)s)"
    )
    part_id: int = option("-part_id", type=int, default=0, help="this is which, from 0 (default: %(default)s)")
    on_device: bool = option("--not_on_device", action="store_false", help="keep whole images off the GPU")
    verbose: bool = option("--verbose", action="store_true")
    show_progress: bool = option("--disable_progress_bar", action="store_false")

    def __post_init__(self) -> None:
        if min(self.preprocessing_processes, self.export_processes) < 0:
            raise SettingsError("-npp and -nps are numbers of processes, from 0: none besides the command's own.")
        if not 0 <= self.part_id < self.num_parts:
            raise SettingsError(
                f"-part_id is {self.part_id}; with -num_parts {self.num_parts} it is 0 or more, and less."
            )
        if self.out.resolve() in {path.resolve() for path in (self.images, self.previous_stage) if path is not None}:
            raise SettingsError(f"-o {self.out} is the folder of -i or -prev_stage_predictions. Name one of its own.")
