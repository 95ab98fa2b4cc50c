"""Measure the time of the signals of trust, in units of one prediction of the same case. Print Markdown.

    python benchmarks/quality_cost.py MODEL_FOLDER -f 0 -i imagesTs

One prediction is the network's pass over the preprocessed image and the segmentation on the grid of the files. The
signals and the prediction take turns, on complete cases. `--quality fast` computes the first three signals, and the
probabilities that they need. `full` also computes the agreement, with one more prediction for each available modality.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import in_turn, ratio
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.utilities.utils import create_lists_from_splitted_dataset_folder

from nnunet_moe.labels.labels import labels_of
from nnunet_moe.prediction import MissingModalityPredictor
from nnunet_moe.quality.measuring import fast_signals
from nnunet_moe.quality.signals import entropies, expected_dice, signals_of_shape, with_agreement
from nnunet_moe.reports.table import markdown_table
from nnunet_moe.runtime.environment import machine

PREDICTION = "one prediction"


def main() -> None:
    """Measure each case, and print the ratios of its signals to its prediction."""
    options = _options()
    device = torch.device(options.device)
    predictor: Any = MissingModalityPredictor(
        device=device, perform_everything_on_device=device.type == "cuda", use_mirroring=not options.disable_tta,
        allow_tqdm=False,
    )  # fmt: skip
    predictor.initialize_from_trained_model_folder(str(options.model), (options.f,), "checkpoint_final.pth")
    print(f"{machine()}, torch {torch.__version__}, {options.repetitions} repetitions\n")
    rows, names = [], []
    for files in create_lists_from_splitted_dataset_folder(str(options.i), predictor.dataset_json["file_ending"]):
        candidates, shape = _candidates(predictor, files)
        times = in_turn(candidates, options.repetitions, device)
        names = [name for name in candidates if name != PREDICTION]
        seconds = f"{sorted(times[PREDICTION])[len(times[PREDICTION]) // 2]:.2f}"
        each = [ratio(times, name, PREDICTION, digits=4) for name in names]
        rows.append((Path(files[0]).name, "x".join(map(str, shape)), seconds, *each))
    print(markdown_table(("case", "voxels", f"seconds of {PREDICTION}", *names), rows))


def _candidates(predictor: Any, files: list[str]) -> tuple[dict[str, Callable], tuple[int, ...]]:
    """Return what is measured on a case, and the shape of its preprocessed image."""
    managers = predictor.plans_manager, predictor.configuration_manager
    preprocessor = predictor.configuration_manager.preprocessor_class(verbose=False)
    data, _, properties = preprocessor.run_case(files, None, *managers, predictor.dataset_json)
    data = torch.from_numpy(data)

    def predict() -> tuple[torch.Tensor, Any]:
        logits = predictor.predict_logits_from_preprocessed_data(data).cpu()
        more = predictor.label_manager, properties
        return logits, convert_predicted_logits_to_segmentation_with_correct_shape(logits, *managers, *more)

    logits, segmentation = predict()
    of_model = predictor.label_manager, predictor.dataset_json
    labels = labels_of(predictor.dataset_json)
    probability = np.asarray(predictor.label_manager.apply_inference_nonlin(logits))[-1]
    inside = probability > 0.5
    nothing = {name: {} for name in labels}
    return {
        PREDICTION: predict,
        "expected Dice": lambda: expected_dice(probability, inside),
        "entropy": lambda: entropies(probability, inside),
        "size and components": lambda: signals_of_shape(segmentation, properties["spacing"], labels),
        "all of fast": lambda: fast_signals(logits, segmentation, properties["spacing"], *of_model),
        "agreement, without its predictions": lambda: with_agreement(
            nothing, segmentation, [segmentation] * len(data), labels
        ),
    }, tuple(data.shape[1:])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder of a trained model")
    parser.add_argument("-f", default="0", help="use this fold (default: %(default)s)")
    parser.add_argument("-i", type=Path, required=True, metavar="FOLDER", help="complete cases")
    parser.add_argument("--disable_tta", action="store_true", help="predict without mirroring")
    parser.add_argument("-repetitions", type=int, default=5, help="repetitions (default: %(default)s)")
    parser.add_argument("-device", default="cpu", help="cpu, cuda or mps (default: %(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
