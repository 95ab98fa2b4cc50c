"""The options of `nnunet_moe evaluate`."""

from dataclasses import dataclass
from pathlib import Path

from nnunet_moe.commands.evaluate.metric_settings import MetricSettings
from nnunet_moe.errors import SettingsError
from nnunet_moe.models.choice import ModelsChoice
from nnunet_moe.models.prediction_settings import PredictionSettings
from nnunet_moe.quality.settings import DEFAULT_FAILURE_DSC, FAST, LEVELS, require_quality_settings
from nnunet_moe.runtime.options import option, options_of
from nnunet_moe.runtime.worker_settings import WorkerSettings


@dataclass(frozen=True, kw_only=True)
class Request:
    """The options of `nnunet_moe evaluate`: which models to score, on which cases, and how.

    Raises:
        SettingsError: an option excludes another one, or needs one that is missing.
    """

    models: ModelsChoice = options_of(
        ModelsChoice,
        help={
            "-c": "use this configuration; dedicated models of configurations that inherit from it are scored, too",
            "-f": "score the validation cases of these folds (default: %(default)s)",
        },
    )
    out: Path = option(
        "-o",
        type=Path,
        group="input and output",
        help="write the results to this folder; rerun the same command to resume",
    )
    images: Path | None = option(
        "-i",
        type=Path,
        default=None,
        group="input and output",
        help="score these images by the ensemble of the folds; files may be missing (default: the validation cases)",
    )
    """A folder of images to score instead of the folds' validation cases. It needs `labels`."""
    labels: Path | None = option(
        "-l",
        type=Path,
        default=None,
        group="input and output",
        help="read the labels of the images of -i from this folder (default: the dataset's labels)",
    )
    part: str = option(
        "-part",
        choices=("val", "test"),
        default="val",
        group="input and output",
        help="score this part of the folds: val, or test if splits_final.json has it (default: %(default)s)",
    )
    """The part of each fold in `splits_final.json`. nnU-Net itself reads only `train` and `val`."""
    patients: Path | None = option(
        "-patients",
        type=Path,
        default=None,
        metavar="TABLE",
        group="input and output",
        help="read which patient each case belongs to from this table with the columns case and patient "
        "(default: for images of the dataset, its patients.csv if it exists; for other images of -i, none)",
    )
    codes: tuple[str, ...] | None = option(
        "-codes",
        nargs="+",
        default=None,
        metavar="CODE",
        group="modalities and labels",
        help="score only these subsets, e.g. T1w T1w+FLAIR (default: every subset that the cases have)",
    )
    """Subsets by names (`T1w+FLAIR`) or digits (`101`). None: all."""
    num_codes: int | None = option(
        "-num_codes",
        type=int,
        default=None,
        group="modalities and labels",
        help="score only this many subsets, drawn at random but with the largest one (default: all)",
    )
    """Number of codes to score: the largest one, and others drawn at random."""
    metrics: MetricSettings = options_of(MetricSettings)
    prediction: PredictionSettings = options_of(PredictionSettings)
    workers: WorkerSettings = options_of(
        WorkerSettings,
        help={
            "-nps": "score and write in this many processes, 0 for the command's own (default: on a GPU up to "
            "3, or the environment variable nnUNet_nps, if they save time)"
        },
    )
    quality: str = option(
        "--quality",
        choices=LEVELS,
        default=FAST,
        group="metrics",
        help="measure how far each segmentation can be trusted, and calibrate an expected Dice for `predict`: not at "
        "all, without further passes of the network, or also by leaving out one modality after another "
        "(default: %(default)s)",
    )
    failure_dsc: float = option(
        "-failure_dsc",
        type=float,
        default=DEFAULT_FAILURE_DSC,
        group="metrics",
        help="call a segmentation with a DSC below this a failure, where the report shows how many failures the "
        "expected Dice finds (default: %(default)s)",
    )
    save_predictions: bool = option(
        "--save_predictions",
        action="store_true",
        group="input and output",
        help="keep the segmentations, in predictions/TRAINER/CODE",
    )

    def __post_init__(self) -> None:
        if (self.images is None) != (self.labels is None):
            raise SettingsError(
                "-i and -l need each other: a folder of images and a folder of their labels. Give both or none."
            )
        if self.images is not None and self.part != "val":
            raise SettingsError(f"-part {self.part} is for the cases of the folds. Remove it, or remove -i and -l.")
        require_quality_settings(self.quality, self.failure_dsc)
        if self.codes is not None and self.num_codes is not None:
            raise SettingsError("-codes and -num_codes exclude each other. Give only one of them.")
