"""The options of `nnunet_moe predict`, with the names and defaults of nnU-Net's command."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nnunet_moe.errors import SettingsError
from nnunet_moe.images.alignment.settings import AlignmentSettings
from nnunet_moe.models.choice import ModelChoice
from nnunet_moe.models.prediction_settings import PredictionSettings
from nnunet_moe.models.requirement import Requirement
from nnunet_moe.quality.settings import FAST, LEVELS
from nnunet_moe.runtime.options import NamedValues, named_value, option, options_of
from nnunet_moe.runtime.worker_settings import WorkerSettings


@dataclass(frozen=True, kw_only=True)
class Request:
    """The options of `nnunet_moe predict`.

    Raises:
        SettingsError: an option is out of range, or the output folder is one of the inputs.
    """

    images: Path = option(
        "-i",
        type=Path,
        group="input and output",
        help="predict the cases in this folder; any file of a case may be missing",
    )
    dicom: bool = option(
        "--dicom",
        action="store_true",
        group="input and output",
        help="read DICOM series: -i has a folder for each case, and in it a folder with one series, or a file, for "
        "each available modality, named like the modality",
    )
    bids: bool = option(
        "--bids",
        action="store_true",
        group="input and output",
        help="read a BIDS dataset from -i, of which each session is a case, and write a BIDS derivative dataset to -o",
    )
    filters: Mapping[str, str] = option(
        "-m",
        action=NamedValues,
        type=named_value,
        metavar="NAME=FILTER",
        default_factory=dict,
        group="input and output",
        help="find the files of a modality in a BIDS dataset by entities and suffix, e.g. T1ce=ce-gadolinium_T1w; "
        "repeat it for several (default: as in `nnunet_moe import --bids`, otherwise the name of the modality)",
    )
    out: Path = option(
        "-o", type=Path, group="input and output", help="write the segmentations and manifest.csv to this folder"
    )
    model: ModelChoice = options_of(ModelChoice)
    requirement: Requirement = options_of(Requirement)
    alignment: AlignmentSettings = options_of(AlignmentSettings)
    output_space: str | None = option(
        "--output_space",
        default=None,
        metavar="NAME",
        group="alignment",
        help="write the segmentations on the original grid of this modality's files (default: on the reference's grid)",
    )
    scores: Path | None = option(
        "-scores",
        type=Path,
        default=None,
        group="input and output",
        help="read this output folder of `nnunet_moe evaluate` and list the expected Dice in the manifest "
        "(default: none)",
    )
    quality: str = option(
        "--quality",
        choices=LEVELS,
        default=FAST,
        group="input and output",
        help="list in the manifest which Dice is expected of each single case (needs -scores): not at all, without "
        "further passes of the network, or with one further pass for each available modality (default: %(default)s)",
    )
    require_quality: float | None = option(
        "--require_quality",
        type=float,
        default=None,
        metavar="DSC",
        group="input and output",
        help="list cases in the manifest as doubtful if the Dice expected of a label is below this; they are written "
        "all the same (default: none)",
    )
    prediction: PredictionSettings = options_of(PredictionSettings)
    save_probabilities: bool = option(
        "--save_probabilities", action="store_true", group="input and output", help="write the probabilities, too"
    )
    continue_prediction: bool = option(
        "--continue_prediction",
        action="store_true",
        group="input and output",
        help="resume an earlier run and keep its predictions",
    )
    workers: WorkerSettings = options_of(WorkerSettings)
    previous_stage: Path | None = option(
        "-prev_stage_predictions",
        type=Path,
        default=None,
        group="input and output",
        help="read the segmentations of a cascade's previous stage from this folder (default: none)",
    )
    num_parts: int = option(
        "-num_parts",
        type=int,
        default=1,
        group="compute",
        help="share the cases among this many commands (default: %(default)s)",
    )
    part_id: int = option(
        "-part_id",
        type=int,
        default=0,
        group="compute",
        help="predict this part of the cases, counted from 0 (default: %(default)s)",
    )
    on_device: bool = option(
        "--not_on_device",
        action="store_false",
        group="compute",
        help="keep all images out of the GPU's memory, not only those for which it does not suffice",
    )
    verbose: bool = option("--verbose", action="store_true", group="compute", help="print more messages")
    show_progress: bool = option(
        "--disable_progress_bar", action="store_false", group="compute", help="hide the progress bar"
    )

    def __post_init__(self) -> None:
        if not 0 <= self.part_id < self.num_parts:
            raise SettingsError(
                f"-part_id is {self.part_id} with -num_parts {self.num_parts}. It must be at least 0 and below "
                "-num_parts."
            )
        self._require_fitting_layout()
        if self.quality not in LEVELS:
            raise SettingsError(f"--quality is {self.quality!r}. It must be one of {', '.join(LEVELS)}.")
        if self.require_quality is not None and not 0 < self.require_quality <= 1:
            raise SettingsError(
                f"--require_quality is {self.require_quality}. It is a Dice. Give a number above 0 and at most 1."
            )
        if self.output_space is not None and self.save_probabilities:
            raise SettingsError(
                "--output_space does not move probabilities. Remove --save_probabilities or --output_space."
            )
        if self.out.resolve() in {path.resolve() for path in (self.images, self.previous_stage) if path is not None}:
            raise SettingsError(f"-o {self.out} is the folder of -i or -prev_stage_predictions. Choose another one.")

    def _require_fitting_layout(self) -> None:
        if self.dicom and self.bids:
            raise SettingsError("--dicom and --bids exclude each other. Remove one of them.")
        if self.filters and not self.bids:
            raise SettingsError("-m has an effect only with --bids. Add --bids, or remove -m.")
        if self.bids and self.save_probabilities:
            raise SettingsError(
                "--save_probabilities writes .npz and .pkl files, which BIDS does not allow. Remove it, or predict "
                "without --bids."
            )
