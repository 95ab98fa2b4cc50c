"""What the normalization leaves of an image in which single voxels are far from all others."""

import numpy as np
import pytest
from nnunetv2.preprocessing.normalization.default_normalization_schemes import ZScoreNormalization

from facts import facts
from nnunet_moe.errors import ModalityError
from nnunet_moe.images.contrast import Contrast

TISSUE = np.random.default_rng(0).normal(100, 20, (20, 25, 30)).astype(np.float32)


def z_scored(image: np.ndarray) -> np.ndarray:
    return ZScoreNormalization(use_mask_for_norm=False, intensityproperties={}).run(image.copy())


def checked(image: np.ndarray) -> str | None:
    contrast = Contrast.of(image)
    assert contrast is not None
    return contrast.note(z_scored(image), "a.nii.gz")


def with_hot(*values: float) -> np.ndarray:
    image = TISSUE.copy()
    image.flat[: len(values)] = values
    return image


@pytest.mark.parametrize(
    "hot", [[1e3], [1e4], [3e4], [1e5], [-1e5], [3e5], [1e6], [1e7, -1e7], [-1e9], [1e13], [1e7] * 100]
)
def test_the_range_in_units_of_the_standard_deviation_decides(hot):
    image = with_hot(*hot)
    low, high = np.quantile(image.astype(np.float64), [0.01, 0.99])
    left = (high - low) / image.astype(np.float64).std()
    if left < 0.0099:
        with pytest.raises(ModalityError, match=facts("a.nii.gz", f"{hot[0]:.4g}", "0.01", "clip")):
            checked(image)
    else:
        assert left > 0.0101
        note = checked(image)
        assert (note is not None) == (left < 0.5)
        if note is not None:
            assert note.startswith("a.nii.gz: 98 %") and "clip" in note and f"{max(hot, key=abs):.4g}" in note


def test_zeros_around_the_tissue_do_not_count():
    image = np.zeros((60, 75, 90), dtype=np.float32)
    image[:20, :25, :30] = TISSUE
    assert checked(image) is None
    image[3, 4, 5] = 1e9
    with pytest.raises(ModalityError, match=facts("a.nii.gz", "1e+09")):
        checked(image)


INSIDE = TISSUE > 110


@pytest.mark.parametrize(
    "image",
    [
        TISSUE,
        TISSUE * 1e-6,
        TISSUE * 1e12,
        100 + 1e-3 * TISSUE,
        np.where(INSIDE, 1, 0),
        np.where(INSIDE, 1 + 1e-9 * TISSUE, 0),
        np.where(np.arange(TISSUE.size).reshape(TISSUE.shape) == 7, 1, 0),
        np.where(TISSUE > 150, TISSUE, 0),
        np.array([0, 0, 0, 1e9]),
        np.array([1, 2, 1e9]),
    ],
    ids=["tissue", "small", "large", "offset", "mask", "rounded mask", "one voxel", "few voxels", "tiny", "three"],
)
def test_other_images_pass_without_a_word(image):
    assert checked(image.astype(np.float32)) is None


def test_a_hot_spot_that_is_real_is_no_outlier():
    """Such as a bladder in PET, 15 times as bright as the range of the others."""
    image = with_hot(*[100 + 15 * 100] * 100)
    rescaled = (image - image.min()) / (image.max() - image.min())
    contrast = Contrast.of(image)
    assert contrast is not None and contrast.note(rescaled, "a.nii.gz") is None and checked(image) is None


def test_a_mask_on_a_high_offset_is_noted_because_z_scoring_flattens_its_inside():
    note = checked(np.where(INSIDE, 1e4 + TISSUE / 10, 0).astype(np.float32))
    assert note is not None and "single voxels" not in note and "unit" in note


def test_a_channel_that_is_missing_is_not_looked_at_and_a_constant_is_noted():
    assert Contrast.of(np.zeros((3, 4, 5))) is None
    note = checked(np.full((3, 4, 5), 7, dtype=np.float32))
    assert note is not None and "single value" in note
