"""The options of `nnunet_moe evaluate`."""

from dataclasses import dataclass
from pathlib import Path

from nnunet_moe.commands.evaluate.metric_settings import MetricSettings
from nnunet_moe.errors import SettingsError
from nnunet_moe.models.choice import ModelsChoice
from nnunet_moe.models.prediction_settings import PredictionSettings
from nnunet_moe.runtime.options import option, options_of


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to score, in the words of the command's options.

    Raises:
        SettingsError: options that exclude or need each other.
    """

    models: ModelsChoice = options_of(
        ModelsChoice,
        help={
            "-c": "configuration; dedicated models of configurations that inherit from it count too",
            "-f": "folds: their validation cases are scored (default: 0 to 4)",
        },
    )
    out: Path = option("-o", type=Path, help="output folder; the same command goes on with what is there")
    images: Path | None = option(
        "-i",
        type=Path,
        default=None,
        help="score these images instead, by the ensemble of the folds; files may be missing",
    )
    """A folder of images to score instead of the folds' validation cases; then `labels` too."""
    labels: Path | None = option("-l", type=Path, default=None, help="labels of the images of -i")
    codes: tuple[str, ...] | None = option(
        "-codes",
        nargs="+",
        default=None,
        metavar="CODE",
        help="only these subsets, as T1w T1w+FLAIR (default: what cases have)",
    )
    """By names, `T1w+FLAIR`, or digits; None: all."""
    num_codes: int | None = option(
        "-num_codes", type=int, default=None, help="only so many, drawn at random, the largest one among them"
    )
    """So many codes at random, the complete one among them."""
    metrics: MetricSettings = options_of(MetricSettings)
    prediction: PredictionSettings = options_of(PredictionSettings)
    save_predictions: bool = option(
        "--save_predictions", action="store_true", help="keep the segmentations, in predictions/TRAINER/CODE"
    )

    def __post_init__(self) -> None:
        if (self.images is None) != (self.labels is None):
            raise SettingsError("-i and -l go together: a folder of images and one of their labels.")
        if self.codes is not None and self.num_codes is not None:
            raise SettingsError("-codes and -num_codes exclude each other.")
