"""Files that stand in for a missing modality: one value everywhere, or a copy of another modality."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from scipy.ndimage import gaussian_filter

from facts import facts
from nnunet_moe.errors import ModalityError
from nnunet_moe.images.notes import ModalityNote, OncePerModality
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


@pytest.mark.parametrize("image", [T1W, FLAIR, 1e10 + 1e9 * T1W, 1e-6 * T1W, ONE_IN_MANY], ids=str)
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
        (np.clip(T1W, 40, 160), False),
        (np.round((T1W - T1W.min()) / np.ptp(T1W) * 255).astype(np.uint8), False),
        (np.clip(T1W, 0, np.percentile(T1W, 99)), False),
        (np.sqrt(T1W - T1W.min()), False),
        (np.log1p(T1W - T1W.min()), False),
        (-np.exp(-T1W / 50), False),
    ],
    ids=[
        "equal",
        "of another type",
        "scaled",
        "whole numbers",
        "inverted",
        "one voxel changed",
        "clipped",
        "8 bits",
        "clipped at p99",
        "gamma",
        "log",
        "exponential",
    ],
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


PADDING = np.zeros(SHAPE, dtype=bool)
PADDING[:, :3] = True
Z, Y, X = np.indices(SHAPE).astype(float)
SMOOTH = gaussian_filter(GENERATOR.normal(size=(2, *SHAPE)), (0, 3, 3, 3))
HEAD = np.hypot(np.hypot(Z - 4, Y - 4), X - 3) < 3
PROBABILITY = 1 / (1 + np.exp((100 - T1W) / 20))
TISSUE = np.repeat(np.arange(9, dtype=np.float32), 56).reshape(SHAPE) * 100
PAIRS = {
    "noise of a tenth of the contrast": (T1W, 3 * T1W + 3 * 2 * GENERATOR.normal(size=SHAPE)),
    "the same bright spot": tuple(np.where(np.arange(504).reshape(SHAPE) == 250, 1e5, image) for image in (T1W, FLAIR)),
    "the same padding": tuple(np.where(PADDING, -3024, image) for image in (T1W, FLAIR)),
    "flat tissue with noise": tuple(np.where(PADDING, 0, TISSUE + 0.01 * image) for image in (T1W, FLAIR)),
    "coordinates z and y": (Z, Y),
    "coordinates z and x": (Z, X),
    "coordinates y and x": (Y, X),
    "probabilities": (PROBABILITY, 1 - PROBABILITY),
    "independent smooth fields": tuple(SMOOTH),
    "the same smooth head": tuple(gaussian_filter(np.where(HEAD, image, 0), 2) for image in (T1W, FLAIR)),
    "an image and a mask from it": (np.where(HEAD, T1W, 0), HEAD * 1.0),
    "an image and its classes": (T1W, np.digitize(T1W, [60, 80, 100, 120])),
    "two masks": (HEAD * 1.0, (Y > 4) * 1.0),
}


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_two_measurements_are_no_copies_whatever_they_share(tmp_path, pair):
    read = read_case(case(tmp_path, *(image.astype(np.float32) for image in pair)), SimpleITKIO(), DATASET_JSON)
    assert read.copies == () and read.placeholders == {}
    read.require_no_copies()


@pytest.mark.parametrize("shape", [(1, 1, 2), (1, 1, 3), (1, 2, 2), (2, 2, 2)])
@pytest.mark.parametrize("seed", range(20))
def test_in_tiny_images_only_equal_voxels_make_a_copy(shape, seed):
    image = np.random.default_rng(seed).normal(size=(2, *shape)).astype(np.float32)
    assert copies(image, [0, 1]) == {} and copies(np.stack([image[0], 2 * image[0]]), [0, 1]) == {}
    assert copies(image[[0, 0]], [0, 1]) == {1: (0, True)}


INSIDE = GENERATOR.random(SHAPE) < 0.5
ONE_OF_ZEROS = np.zeros((20, 20, 20))
ONE_OF_ZEROS[1, 2, 3], ONE_OF_ZEROS[4, 5, 6] = 1, 2
SUSPECT = {
    "100 with noise": 100 + 1e-3 * GENERATOR.normal(size=SHAPE),
    "-1 with noise": -1 + 1e-4 * GENERATOR.normal(size=SHAPE),
    "zeros with two other voxels": ONE_OF_ZEROS,
}


@pytest.mark.parametrize("image", SUSPECT.values(), ids=SUSPECT)
def test_an_image_that_hardly_varies_is_used_and_noted(tmp_path, image):
    read = read_case(case(tmp_path, image.astype(np.float32)), SimpleITKIO(), DATASET_JSON)
    (note,) = read.notes
    assert read.available == (True, False) and "a_0000.nii.gz" in note and "placeholder" in note
    assert read_case(case(tmp_path, T1W), SimpleITKIO(), DATASET_JSON).notes == ()


TWO_VALUES = {
    "a mask": (np.where(INSIDE, 1, 0), "0 and 1"),
    "100 in a mask": (np.where(INSIDE, 100, 0), "0 and 100"),
    "without zero": (np.where(INSIDE, 3, -5), "-5 and 3"),
    "a click": (np.where(np.arange(504).reshape(SHAPE) == 77, 1, 0), "0 and 1"),
}


@pytest.mark.parametrize(("image", "said"), TWO_VALUES.values(), ids=TWO_VALUES)
def test_an_image_of_two_values_is_used_and_noted_once_for_each_modality(tmp_path, image, said):
    files = case(tmp_path, image.astype(np.float32), T1W)
    read = read_case(files, SimpleITKIO(), DATASET_JSON)
    (note,) = read.notes
    assert read.available == (True, True) and note.startswith(f"{files[0]} has only the values {said}. ")
    assert isinstance(note, ModalityNote) and note.modality == "T1w"
    once, other = OncePerModality(), ModalityNote("another file", "FLAIR")
    sent = pickle.loads(pickle.dumps((*read.log_lines, "a line")))  # as from another process
    assert once.new(sent) == [note, "a line"] and once.new((*sent, other)) == ["a line", other]


@pytest.mark.parametrize("scale", [1e-10, 1e-30, 1e-42])
def test_values_that_normalization_would_not_scale_are_refused(tmp_path, scale):
    (file,) = case(tmp_path, T1W.astype(np.float64) * scale)
    with pytest.raises(ModalityError, match=facts(file, "1e-07", "Multiply")):
        read_case([file], SimpleITKIO(), DATASET_JSON)


def test_of_equal_channels_the_first_in_the_given_order_is_the_original(tmp_path):
    files = dict(enumerate(case(tmp_path, T1W, T1W, FLAIR, T1W)))
    names = ("a", "b", "c", "d")
    assert read_channels(SimpleITKIO(), files, names).placeholders == dict.fromkeys((1, 3), "equal to a in every voxel")
    read = read_channels(SimpleITKIO(), files, names, originals=[3])
    assert read.placeholders == dict.fromkeys((0, 1), "equal to d in every voxel")


def test_images_that_differ_only_outside_of_the_sample_are_no_copies():
    """Large images are first compared in their middle."""
    base = GENERATOR.normal(size=(300, 1000))
    other = base.copy()
    other[:50] = GENERATOR.normal(size=(50, 1000))
    assert copies(np.stack([base, other]), [0, 1]) == {}
    assert copies(np.stack([base, 2 * base]), [0, 1]) == {1: (0, False)}


def test_parts_with_nothing_but_background_do_not_hide_a_difference():
    """Most of a skull-stripped image is zero, and its middle may be the border between two slices."""
    images = np.zeros((2, 20, 100, 200))
    images[:, ::2, 40:60] = GENERATOR.normal(size=(2, 10, 20, 200))
    assert copies(images, [0, 1]) == {}
    images[1] = -2 * images[0]
    assert copies(images, [0, 1]) == {1: (0, False)}
