"""The signals of a prediction belong to the outputs that nnU-Net's label manager means."""

import numpy as np
import pytest
import torch
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from nnunet_moe.quality.measuring import fast_signals, leave_one_out
from nnunet_moe.quality.signals import expected_dice

LABELS = {
    "labels in another order": ({"background": 0, "edema": 2, "core": 1}, None, {"edema": 2, "core": 1}),
    "with an ignore label": ({"background": 0, "core": 1, "ignore": 2}, None, {"core": 1}),
    "regions": ({"background": 0, "whole": [1, 2], "core": [2]}, [1, 2], {"whole": 0, "core": 1}),
}


@pytest.mark.parametrize(("labels", "order", "outputs"), LABELS.values(), ids=LABELS)
def test_each_label_has_the_probabilities_of_its_output(labels, order, outputs):
    manager = LabelManager(labels, order)
    logits = torch.randn(manager.num_segmentation_heads, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    probabilities = (logits.sigmoid() if order else logits.softmax(0)).numpy()
    segmentation = manager.convert_logits_to_segmentation(logits).numpy()
    found = fast_signals(logits, segmentation, (1, 1, 2), manager, {"labels": labels, "regions_class_order": order})
    assert found.keys() == outputs.keys()
    for name, output in outputs.items():
        inside = np.isin(segmentation, labels[name])
        assert 0 < inside.sum() < inside.size
        assert found[name]["expected_dice"] == pytest.approx(expected_dice(probabilities[output], inside))
        assert found[name]["size_mm3"] == 2 * inside.sum()


def test_a_label_outside_of_the_label_set_is_certainly_not_there():
    """Its logits are -100, and its segmentation is empty: the expected Dice is 1."""
    manager = LabelManager({"background": 0, "a": 1, "b": 2}, None)
    logits = torch.zeros(3, 2, 2, 2)
    logits[1], logits[2] = 5, -100
    segmentation = np.ones((2, 2, 2), dtype=np.uint8)
    found = fast_signals(logits, segmentation, (1, 1, 1), manager, {"labels": {"background": 0, "a": 1, "b": 2}})
    assert found["b"] == {"expected_dice": 1, "entropy_inside": 0, "entropy_around": 0, "size_mm3": 0, "components": 0}


def test_one_modality_after_another_is_left_out_but_never_the_last_one():
    assert leave_one_out((True, False, True)) == [(False, False, True), (True, False, False)]
    assert leave_one_out((False, True, False)) == []
