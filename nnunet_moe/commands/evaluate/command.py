"""The options of `nnunet_moe evaluate`."""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from nnunet_moe.commands.evaluate.metric_settings import MetricSettings
from nnunet_moe.errors import SettingsError
from nnunet_moe.models.choice import ModelsChoice
from nnunet_moe.models.prediction_settings import PredictionSettings
from nnunet_moe.runtime import options
from nnunet_moe.runtime.options import option, options_of, read_request


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


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    options.add_options(parser, Request)


def run(namespace: argparse.Namespace) -> None:
    """Score, and write the report."""
    request = read_request(Request, namespace)

    from nnunet_moe.commands.evaluate.evaluate import score_models
    from nnunet_moe.commands.evaluate.report import write_evaluation
    from nnunet_moe.commands.evaluate.tables import code_table

    evaluation = score_models(request)
    report = write_evaluation(evaluation, request)
    results = evaluation.results
    print(code_table(results, results.shown_labels[0]).markdown())
    print(f"Report: {report}")
    if num_failed := len(results.failures):
        sys.exit(f"Failed segmentations: {num_failed}. The report tells which and why. Repair, and run it again.")
