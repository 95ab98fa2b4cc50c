"""Files that stand in for a missing modality: one value everywhere, or a copy of another modality."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from facts import facts
from nnunet_moe.errors import ModalityError
from nnunet_moe.images.placeholders import copies
from nnunet_moe.images.reading import read_case, read_channels

SHAPE = (9, 8, 7)
GENERATOR = np.random.default_rng(0)
T1W, FLAIR = GENERATOR.normal(100, 20, (2, *SHAPE)).astype(np.float32)
DATASET_JSON = {"channel_names": {"0": "T1w", "1": "FLAIR"}, "file_ending": ".nii.gz"}
ONE_IN_MANY = T1W.copy()
ONE_IN_MANY[3, 4, 5] += 1


def case(folder: Path, *images: np.ndarray) -> list[str]:
    files = [str(folder / f"a_{channel:04d}.nii.gz") for channel in range(len(images))]
    for file, image in zip(files, images, strict=True):
        sitk.WriteImage(sitk.GetImageFromArray(image), file)
    return files


@pytest.mark.parametrize("value", [0, -0.0, -1, 100, 1e-3, 1e10])
@pytest.mark.parametrize("noise", [0, 1e-7])
def test_a_single_value_counts_as_missing_and_is_named(tmp_path, value, noise):
    constant = (value * (1 + noise * GENERATOR.uniform(-1, 1, SHAPE))).astype(np.float32)
    files = case(tmp_path, T1W, constant)
    read = read_case(files, SimpleITKIO(), DATASET_JSON)
    assert read.available == (True, False) and np.isnan(read.image[1]).all() and read.missing == ("FLAIR",)
    (note,) = read.notes
    assert note.startswith(f"{files[1]} is ") and note.endswith("everywhere: treated as missing")
    assert read.placeholders.keys() == {1} and read.copies == ()
    with pytest.raises(ModalityError, match=facts(files[0], "No usable image")):
        read_case(case(tmp_path, constant), SimpleITKIO(), DATASET_JSON)


@pytest.mark.parametrize("image", [T1W, FLAIR, 1e10 + 1e6 * T1W, 1e-30 * T1W, ONE_IN_MANY], ids=str)
def test_an_image_with_several_values_is_available(tmp_path, image):
    assert read_case(case(tmp_path, FLAIR * 2 + T1W, image), SimpleITKIO(), DATASET_JSON).available == (True, True)


@pytest.mark.parametrize(
    ("copy", "is_equal"),
    [
        (T1W, True),
        (T1W.astype(np.float64), True),
        (3 * T1W + 7, False),
        (np.round(T1W * 10).astype(np.int16), False),
        (-T1W, False),
        (ONE_IN_MANY, False),
    ],
    ids=["equal", "of another type", "scaled", "whole numbers", "inverted", "one voxel changed"],
)
def test_a_copy_is_used_reported_and_refused_on_request(tmp_path, copy, is_equal):
    files = case(tmp_path, T1W, copy)
    read = read_case(files, SimpleITKIO(), DATASET_JSON)
    assert read.available == (True, True) and read.notes == ()
    (message,) = read.copies
    assert message.startswith(f"{files[1]} is ") and "T1w" in message and ("in every voxel" in message) == is_equal
    assert message in read.ignored and message in read.log_lines
    assert read.placeholders.keys() == ({1} if is_equal else set())
    with pytest.raises(ModalityError, match=facts(files[1], "T1w", "--refuse_copies")):
        read.require_no_copies()


def test_images_of_the_same_anatomy_are_no_copies(tmp_path):
    """Two measurements with much in common: noise of a fiftieth of the contrast."""
    read = read_case(case(tmp_path, T1W, 3 * T1W + 0.06 * FLAIR), SimpleITKIO(), DATASET_JSON)
    assert read.copies == () and read.placeholders == {}
    read.require_no_copies()


def test_of_equal_channels_the_first_in_the_given_order_is_the_original(tmp_path):
    files = dict(enumerate(case(tmp_path, T1W, T1W, FLAIR, T1W)))
    names = ("a", "b", "c", "d")
    assert read_channels(SimpleITKIO(), files, names).placeholders == dict.fromkeys((1, 3), "equal to a in every voxel")
    read = read_channels(SimpleITKIO(), files, names, originals=[3])
    assert read.placeholders == dict.fromkeys((0, 1), "equal to d in every voxel")


def test_images_that_differ_only_between_the_sampled_voxels_are_no_copies():
    """Large images are first compared in a part of the voxels, here in every third one."""
    shape = (300, 1000)
    base = GENERATOR.normal(size=shape)
    other = base.copy().ravel()
    other[1::3] = GENERATOR.normal(size=other[1::3].size)
    assert copies(np.stack([base, other.reshape(shape)]), [0, 1]) == {}
