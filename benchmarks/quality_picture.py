"""Draw a test case that was rightly called a likely failure, and one where the expected Dice was wrong.

    python benchmarks/quality_picture.py MODEL_FOLDER validation test -i imagesTs -l labelsTs -o quality.png

`validation` and `test` are folders of `evaluate`, as for `quality.py`. A failure has a DSC below 0.5. The first row of
the picture is the failure with the lowest expected DSC. The second row is the case, with any subset, whose expected
and actual DSC differ most and lie on different sides of 0.5. Both are predicted again, with the signals of `full`.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from quality import read_scores

from nnunet_moe.labels.labels import labels_of
from nnunet_moe.modalities.codes import channel_names
from nnunet_moe.prediction import MissingModalityPredictor
from nnunet_moe.quality.calibration import Expectation
from nnunet_moe.quality.file import FILE, read_calibrations
from nnunet_moe.quality.settings import DEFAULT_FAILURE_DSC
from nnunet_moe.quality.signals import SIGNALS


@dataclass(frozen=True)
class Shown:
    """A case under one subset."""

    title: str
    images: dict[str, np.ndarray]
    """Modality -> slice `(Y, X)`."""
    reference: np.ndarray
    segmentation: np.ndarray


def main() -> None:
    """Choose the two cases, predict them, and draw them."""
    options = _options()
    predictor: Any = MissingModalityPredictor(device=torch.device("cpu"), use_mirroring=False, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(options.model), (options.f,), "checkpoint_final.pth")
    calibrations = read_calibrations(options.validation / FILE, predictor.trainer_name)
    label = options.label or next(iter(calibrations))
    table = read_scores(options.test)
    table = table[(table["trainer"] == predictor.trainer_name) & (table["label"] == label)]
    signals = table[list(SIGNALS)].to_dict("records")
    expected = [calibrations[label].expect(*each).dsc for each in zip(table["digits"], signals, strict=True)]
    table = table.assign(expected=expected, error=(table["dsc"] - expected).abs())
    is_failure, is_flagged = table["dsc"] < DEFAULT_FAILURE_DSC, table["expected"] < DEFAULT_FAILURE_DSC
    chosen = (
        table[is_failure & is_flagged].nsmallest(1, "expected"),
        table[is_failure != is_flagged].nlargest(1, "error"),
    )
    rows = [row for found in chosen for row in found.to_dict("records")]
    _draw([_shown(predictor, calibrations, label, row, options) for row in rows]).savefig(options.out, dpi=80)


def _shown(predictor: Any, calibrations: dict, label: str, row: dict[str, Any], options: argparse.Namespace) -> Shown:
    """Predict a case under the subset of a row of `results.csv`."""
    ending, modalities = predictor.dataset_json["file_ending"], channel_names(predictor.dataset_json)
    reader = predictor.plans_manager.image_reader_writer_class()
    files = [str(options.i / f"{row['case']}_{channel:04d}{ending}") for channel in range(len(modalities))]
    image, properties = reader.read_images(files)
    available = row["code"].split("+")
    given = image.astype(np.float32)
    given[[name not in available for name in modalities]] = np.nan
    segmentation, found = predictor.predict_with_quality(given, properties, calibrations, full=True)
    value = labels_of(predictor.dataset_json)[label]
    reference = np.isin(reader.read_seg(str(options.l / f"{row['case']}{ending}"))[0][0], value)
    inside = np.isin(segmentation, value)
    place = int((reference | inside).sum(axis=(1, 2)).argmax())
    return Shown(
        _title(row, found[label]),
        {name: image[modalities.index(name), place] for name in available},
        reference[place],
        inside[place],
    )


def _title(row: dict[str, Any], found: Expectation) -> str:
    interval = f"{found.low:.2f} to {found.high:.2f}"
    return f"{row['case']}, {row['code']}: expected DSC {found.dsc:.2f} ({interval}), actual DSC {row['dsc']:.2f}"


def _draw(shown: list[Shown]) -> Figure:
    """Draw a row for each case, with a column for each available modality."""
    columns = max(len(each.images) for each in shown)
    figure = Figure(figsize=(4 * columns, 4.4 * len(shown)), layout="constrained")
    for each, row in zip(shown, figure.subfigures(len(shown), 1, squeeze=False)[:, 0], strict=True):
        row.suptitle(each.title)
        for axes, (name, image) in zip(row.subplots(1, columns, squeeze=False)[0], each.images.items(), strict=False):
            axes.imshow(image, cmap="gray", vmax=np.quantile(image, 0.999))
            axes.contour(each.reference, [0.5], colors="red", linewidths=1)
            axes.contour(each.segmentation, [0.5], colors="deepskyblue", linewidths=1)
            axes.set_title(name)
        for axes in row.axes:
            axes.axis("off")
    return figure


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder of the trained model")
    parser.add_argument("validation", type=Path, help="output folder of evaluate, of validation cases")
    parser.add_argument("test", type=Path, help="output folder of evaluate, of test cases and the same model")
    parser.add_argument("-f", default="0", help="the fold of the model (default: %(default)s)")
    parser.add_argument("-i", type=Path, required=True, metavar="FOLDER", help="images of the test cases")
    parser.add_argument("-l", type=Path, required=True, metavar="FOLDER", help="labels of the test cases")
    parser.add_argument("-label", help="the label or region (default: the first one)")
    parser.add_argument("-o", dest="out", type=Path, default=Path("quality.png"), help="the picture")
    return parser.parse_args()


if __name__ == "__main__":
    main()
