"""Rounding errors of a file are no labels, and labels that dataset.json lacks are named with all their digits."""

import numpy as np
import pytest

from facts import facts
from nnunet_moe.errors import ModalityError
from nnunet_moe.labels.voxels import require_known, whole_numbers

BELOW, ABOVE = (float(np.nextafter(np.float32(1), np.float32(limit))) for limit in (0, 2))


@pytest.mark.parametrize(
    ("stored", "labels"),
    [
        ([0, BELOW, ABOVE, 2], [0, 1, 1, 2]),
        (np.array([0, 32767]) * np.float32(1 / 32767), [0, 1]),
        (np.array([0, 100, 201, 255]) * np.float32(0.00392157) * 255, [0, 100, 201, 255]),  # 1/255 with six digits
        ([-1e-7, 0.99995, 1.00005], [0, 1, 1]),
    ],
)
def test_rounding_errors_are_removed(stored, labels):
    np.testing.assert_array_equal(whole_numbers(np.array(stored, dtype=np.float32), "x.nii.gz"), labels)


def test_whole_numbers_stay_the_same_array():
    for kind in (np.uint8, np.int16, np.float32):
        labels = np.array([[0, 1], [2, 100]], dtype=kind)
        assert whole_numbers(labels, "x.nii.gz") is labels


@pytest.mark.parametrize(
    ("stored", "said"),
    [
        (np.array([0, 1, 1]) * np.float32(252 / 255), ("2 voxels", "0.9882353")),
        ([0, 0.5, 0.25, 1], ("2 voxels", "0.25, 0.5")),  # resampled
        ([0.999, 1.001], ("2 voxels", "0.999, 1.001")),
        (np.arange(1, 9) / 10, ("8 voxels", "0.1, 0.2, 0.3, 0.4, 0.5", "3 other values")),
    ],
)
def test_other_fractions_are_refused_with_all_their_digits(stored, said):
    with pytest.raises(ModalityError, match=facts("x.nii.gz", "whole numbers", "nearest-neighbor", *said)):
        whole_numbers(np.array(stored, dtype=np.float32), "x.nii.gz")


def test_labels_that_dataset_json_lacks_are_refused_but_not_the_ignore_label():
    dataset_json = {"labels": {"background": "0", "whole": [1, 2], "core": 2.0, "ignore": 3}}
    require_known(np.array([[0, 1], [2, 3]], dtype=np.float32), "x.nii.gz", dataset_json)
    with pytest.raises(ModalityError, match=facts("x.nii.gz", "voxels with -1, 4, 255,", "0, 1, 2, 3")):
        require_known(np.array([0, 255, 4, -1, 1], dtype=np.float32), "x.nii.gz", dataset_json)


@pytest.mark.parametrize("scale", [5e-5, 1e-6])
def test_labels_that_rounding_would_remove_are_refused(scale):
    labels = np.array([[0, 1], [2, 0]], dtype=np.float32)
    with pytest.raises(ModalityError, match=facts("label.nii.gz", "almost 0")):
        whole_numbers(labels * np.float32(scale), "label.nii.gz")
    assert not whole_numbers(labels * np.float32(1e-9), "label.nii.gz").any()  # noise around 0
