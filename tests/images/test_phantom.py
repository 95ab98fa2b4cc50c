import json

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_moe.images.phantom import SIGNAL, draw_phantom, write_phantom_cohort

SHAPE = (32, 36, 32)


def phantom(seed):
    return draw_phantom(np.random.default_rng(seed), SHAPE)


@pytest.mark.parametrize("seed", range(8))
def test_every_phantom_has_lesions_within_its_head_and_air_around_it(seed):
    drawn = phantom(seed)
    assert drawn.images.shape == (len(SIGNAL), *SHAPE) and drawn.images.dtype == np.float32
    assert set(np.unique(drawn.lesions)) == {0, 1}
    assert (drawn.images[:, drawn.lesions == 1] > 0).all()
    assert not drawn.images[:, 0].any() and drawn.images.min() == 0


def test_the_same_seed_draws_the_same_voxels_and_another_does_not():
    assert np.array_equal(phantom(1).images, phantom(1).images)
    assert not np.array_equal(phantom(1).lesions, phantom(2).lesions)


def test_lesions_stand_out_most_in_flair_and_least_in_t1w():
    contrast = np.zeros(len(SIGNAL))
    for seed in range(8):
        drawn = phantom(seed)
        white_matter = (drawn.lesions == 0) & (drawn.images[0] > 0.85 * np.percentile(drawn.images[0], 99))
        for channel, image in enumerate(drawn.images):
            inside, around = image[drawn.lesions == 1], image[white_matter]
            contrast[channel] += abs(inside.mean() - around.mean()) / around.std()
    by_name = dict(zip(SIGNAL, contrast, strict=True))
    assert by_name["FLAIR"] > by_name["T2w"] > by_name["T1w"] > 0


def test_a_cohort_is_a_complete_nnunet_dataset(tmp_path):
    write_phantom_cohort(tmp_path, num_training=2, num_test=1, shape=SHAPE)
    dataset = json.loads((tmp_path / "dataset.json").read_text())
    assert list(dataset["channel_names"].values()) == list(SIGNAL) and dataset["numTraining"] == 2
    for suffix, count in (("Tr", 2), ("Ts", 1)):
        assert len(list((tmp_path / f"images{suffix}").iterdir())) == count * len(SIGNAL)
        for file in (tmp_path / f"labels{suffix}").iterdir():
            assert sitk.GetArrayFromImage(sitk.ReadImage(str(file))).shape == SHAPE
