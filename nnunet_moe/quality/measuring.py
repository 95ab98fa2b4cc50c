"""Measure how far a prediction can be trusted, from what the network returned and from the final segmentation."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from nnunet_moe.labels.labels import labels_of
from nnunet_moe.modalities.codes import Code
from nnunet_moe.quality.signals import Label, Signals, signals_of_probabilities, signals_of_shape


def fast_signals(
    logits: Tensor, segmentation: np.ndarray, spacing: Sequence[float], label_manager: Any, dataset_json: dict[str, Any]
) -> dict[str, Signals]:
    """Compute the signals that need no further pass of the network, for each label or region.

    Args:
        logits: `(C, *space)`, for the preprocessed image.
        segmentation: labels `(*space)` on the grid of the images.
        spacing: spacing of this grid in mm, as the reader returned it.
        label_manager: nnU-Net's label manager.
        dataset_json: the content of dataset.json.
    """
    labels = labels_of(dataset_json)
    probabilities = np.asarray(label_manager.apply_inference_nonlin(logits))
    on_network_grid = np.asarray(label_manager.convert_probabilities_to_segmentation(probabilities))
    of_probabilities = signals_of_probabilities(probabilities, on_network_grid, _outputs(label_manager, labels))
    of_shape = signals_of_shape(segmentation, spacing, labels)
    return {name: {**signals, **of_shape[name]} for name, signals in of_probabilities.items()}


def leave_one_out(code: Code) -> list[Code]:
    """Return the codes that have one modality less; none for a single modality."""
    if sum(code) < 2:
        return []
    return [
        tuple(available and other != left_out for other, available in enumerate(code))
        for left_out, is_there in enumerate(code)
        if is_there
    ]


def _outputs(label_manager: Any, labels: dict[str, Label]) -> dict[str, tuple[int, Label]]:
    """Return for each label or region its output of the network, and its value."""
    if label_manager.has_regions:  # nnU-Net's outputs are the regions in the order of dataset.json
        return {name: (output, label) for output, (name, label) in enumerate(labels.items())}
    values = [int(value) for value in label_manager.all_labels]
    return {name: (values.index(int(np.atleast_1d(label)[0])), label) for name, label in labels.items()}
