import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from facts import facts
from nnunet_moe.errors import ModalityError, ModelError
from nnunet_moe.preprocessing import (
    MissingModalityConfigurationManager,
    MissingModalityPreprocessor,
    use_missing_modality_preprocessor,
)


class Setup:
    """The plans of the tiny dataset, as nnU-Net's preprocessors want them."""

    def __init__(self, dataset):
        self.plans = PlansManager(str(dataset.plans_file))
        self.configuration = self.plans.get_configuration("3d_fullres")
        self.dataset_json = json.loads(dataset.dataset_json_file.read_text())

    def run(self, files, preprocessor=MissingModalityPreprocessor, seg=None):
        files = [str(file) for file in files]
        return preprocessor(verbose=False).run_case(files, seg, self.plans, self.configuration, self.dataset_json)

    def run_npy(self, image, preprocessor=MissingModalityPreprocessor, spacing=(1.0, 1.0, 1.0)):
        properties = {"spacing": list(spacing)}
        arguments = (image, None, properties, self.plans, self.configuration, self.dataset_json)
        return preprocessor(verbose=False).run_case_npy(*arguments)


@pytest.fixture
def setup(dataset):
    return Setup(dataset)


def rewrite(file: Path, change) -> None:
    image = sitk.ReadImage(str(file))
    changed = sitk.GetImageFromArray(change(sitk.GetArrayFromImage(image)))
    changed.CopyInformation(image)
    sitk.WriteImage(changed, str(file))


def test_a_complete_case_comes_out_as_from_nnunets_own_preprocessor(setup, dataset, copied_case):
    seg = str(dataset.raw / "labelsTs" / "phantomTs000.nii.gz")
    ours, theirs = (setup.run(copied_case, kind, seg) for kind in (MissingModalityPreprocessor, DefaultPreprocessor))
    assert np.array_equal(ours[0], theirs[0]) and np.array_equal(ours[1], theirs[1])
    assert ours[0].dtype == theirs[0].dtype and ours[2].keys() == theirs[2].keys()


def test_the_dataset_json_may_be_a_path_as_in_nnunet(setup, dataset, copied_case):
    expected = setup.run(copied_case[:1])[0]
    setup.dataset_json = str(dataset.dataset_json_file)
    assert np.array_equal(setup.run(copied_case[:1])[0], expected, equal_nan=True)


@pytest.mark.parametrize("kept", [(0,), (1,), (2,), (0, 2), (1, 2)])
def test_each_file_goes_into_the_channel_of_its_name_and_the_rest_is_nan(setup, copied_case, kept):
    complete = setup.run(copied_case)[0]
    data = setup.run([copied_case[channel] for channel in reversed(kept)])[0]
    assert data.shape == complete.shape
    for channel in range(3):
        if channel in kept:
            assert np.array_equal(data[channel], complete[channel])
        else:
            assert np.isnan(data[channel]).all()


def test_nan_channels_of_an_array_stand_for_absent_files(setup, copied_case):
    image = np.concatenate([sitk.GetArrayFromImage(sitk.ReadImage(str(file)))[None] for file in copied_case])
    image[1] = np.nan
    before = image.copy()
    from_array, from_files = setup.run_npy(image), setup.run([copied_case[0], copied_case[2]])
    assert np.array_equal(from_array[0], from_files[0], equal_nan=True)
    assert np.array_equal(image, before, equal_nan=True)


def test_a_file_that_is_zero_everywhere_counts_as_absent_with_a_line_in_the_log(setup, copied_case, capsys):
    rewrite(copied_case[1], np.zeros_like)
    data = setup.run(copied_case)[0]
    assert np.isnan(data[1]).all() and np.isfinite(data[[0, 2]]).all()
    assert f"{copied_case[1]} is zero everywhere: treated as missing" in capsys.readouterr().out


def test_a_mask_as_an_input_is_noted_once_in_a_prediction_and_not_again_in_training(
    setup, copied_case, dataset, tmp_path, capsys
):
    rewrite(copied_case[1], lambda array: (array > array.mean()).astype(np.float32))
    preprocessor = MissingModalityPreprocessor(verbose=False)
    files, managers = list(map(str, copied_case)), (setup.plans, setup.configuration, setup.dataset_json)
    for _ in range(2):
        preprocessor.run_case(files, None, *managers)
    assert capsys.readouterr().out.count(f"{copied_case[1]} has only the values 0 and 1") == 1
    label = str(dataset.raw / "labelsTs" / "phantomTs000.nii.gz")
    MissingModalityPreprocessor(verbose=False).run_case_save(str(tmp_path / "saved"), files, label, *managers)
    assert "only the values" not in capsys.readouterr().out


def test_a_dedicated_model_uses_its_own_modalities_and_says_what_it_leaves(setup, copied_case, capsys):
    expected = setup.run([copied_case[0], copied_case[2]])[0]
    setup.configuration.configuration["nnunet_moe"] = {"modality_code": [1, 0, 1]}
    assert np.array_equal(setup.run(copied_case)[0], expected, equal_nan=True)
    assert capsys.readouterr().out.count(f"{copied_case[0]}: not used by this dedicated model: T2w") == 1
    with pytest.raises(ModalityError, match=facts(copied_case[0], "dedicated", "T1w+FLAIR", "FLAIR is")):
        setup.run(copied_case[:2])
    image = np.arange(3 * 8**3, dtype=np.float32).reshape(3, 8, 8, 8)
    image[0] = np.nan
    with pytest.raises(ModalityError, match=facts("dedicated", "T1w+FLAIR", "T1w is")):
        setup.run_npy(image)


def test_ct_normalisation_of_the_zeros_does_not_show_in_an_absent_channel(setup, copied_case):
    setup.configuration.configuration["normalization_schemes"] = ["CTNormalization"] * 3
    assert np.isnan(setup.run(copied_case[:1])[0][1:]).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_present_channel_that_is_not_finite_is_an_error_that_names_the_file(setup, copied_case, bad):
    def spoil(array):
        array[3, 4, 5] = bad
        return array

    rewrite(copied_case[2], spoil)
    with pytest.raises(ModalityError, match=facts(copied_case[2], "1 voxels", "NaN")):
        setup.run(copied_case)


@pytest.mark.parametrize("bad", [3.4e38, -3.4e38, 1e15])
@pytest.mark.parametrize("everywhere", [False, True])
def test_voxels_that_would_overflow_in_the_normalization_are_an_error_that_names_the_file(
    setup, copied_case, bad, everywhere
):
    """Otherwise the channel becomes NaN, which means missing."""

    def spoil(array):
        array = array.astype(np.float32)
        array[... if everywhere else (3, 4, 5)] = bad
        return array

    rewrite(copied_case[2], spoil)
    with pytest.raises(ModalityError, match=facts(copied_case[2], f"{abs(bad):.2g}")):
        setup.run(copied_case)


def test_large_voxels_that_nnunet_can_normalize_are_used(setup, copied_case):
    rewrite(copied_case[2], lambda array: array.astype(np.float32) * 1e9)
    assert np.isfinite(setup.run(copied_case)[0]).all()


@pytest.mark.parametrize("scheme", ["ZScoreNormalization", "RescaleTo01Normalization"])
@pytest.mark.parametrize("hot", [1e9, 1e13, -1e9])
def test_one_voxel_that_makes_all_others_flat_is_an_error_that_names_the_file_and_the_voxel(
    setup, copied_case, hot, scheme
):
    def spoil(array):
        array = array.astype(np.float32)
        array[10, 12, 14] = hot
        return array

    setup.configuration.configuration["normalization_schemes"] = [scheme] * 3
    rewrite(copied_case[2], spoil)
    with pytest.raises(ModalityError, match=facts(copied_case[2], f"{hot:.4g}", "constant", "clip")):
        setup.run(copied_case)
    image = np.stack([sitk.GetArrayFromImage(sitk.ReadImage(str(file))).astype(np.float32) for file in copied_case])
    with pytest.raises(ModalityError, match=facts("The FLAIR", f"{hot:.4g}")):
        setup.run_npy(image)
    assert np.isfinite(setup.run(copied_case[:2])[0][:2]).all()


def test_ct_normalization_clips_such_a_voxel_so_the_image_is_used(setup, copied_case, capsys):
    setup.configuration.configuration["normalization_schemes"] = ["ZScoreNormalization"] * 2 + ["CTNormalization"]
    values = sitk.GetArrayFromImage(sitk.ReadImage(str(copied_case[2]))).astype(np.float32)
    properties = setup.plans.plans["foreground_intensity_properties_per_channel"]["2"]
    properties |= {"mean": 0.0, "std": float(values.std()), "percentile_00_5": -1e4, "percentile_99_5": 1e4}
    spoilt = values.copy()
    spoilt[10, 12, 14] = 1e9
    rewrite(copied_case[2], lambda _: spoilt)
    assert np.isfinite(setup.run(copied_case)[0]).all()
    assert "constant" not in capsys.readouterr().out
    rewrite(copied_case[2], lambda _: values / 1e4)  # in another unit than the training cases
    setup.run(copied_case)
    assert f"{copied_case[2]} (FLAIR): 98 % of the voxels" in (out := capsys.readouterr().out) and "unit" in out


def test_an_image_that_is_constant_where_the_images_are_not_zero_is_noted(setup, copied_case, capsys):
    """nnU-Net crops to this region, so only zeros are left after the normalization."""

    def only_a_block(array):
        array = np.zeros_like(array)
        array[4:8, 4:8, 4:8] = 7
        return array

    rewrite(copied_case[1], only_a_block)
    assert not setup.run(copied_case[1:2])[0][1].any()
    assert f"{copied_case[1]} (T2w) has a single value in the region" in capsys.readouterr().out
    assert setup.run(copied_case[:2])[0][1].any()  # the other image makes the region larger
    assert "single value in the region" not in capsys.readouterr().out


def test_what_becomes_nan_in_the_normalization_is_an_error_that_names_the_modality(setup, copied_case):
    setup.configuration.configuration["normalization_schemes"] = ["ZScoreNormalization"] * 2 + ["CTNormalization"]
    properties = setup.plans.plans["foreground_intensity_properties_per_channel"]["2"]
    properties |= {"mean": np.nan, "std": np.nan}
    with pytest.raises(ModalityError, match=facts("FLAIR", "NaN")):
        setup.run(copied_case)
    assert np.isnan(setup.run(copied_case[:2])[0][2]).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_array_channel_that_is_not_finite_in_places_is_an_error_that_names_the_modality(setup, bad):
    image = np.ones((3, 8, 8, 8), dtype=np.float32)
    image[1, 2, 3, 4] = bad
    with pytest.raises(ModalityError, match=facts("T2w", "NaN")):
        setup.run_npy(image)


def test_an_array_with_another_number_of_channels_is_refused(setup):
    with pytest.raises(ModalityError, match=facts("2 channels", 3, "T1w, T2w, FLAIR")):
        setup.run_npy(np.ones((2, 8, 8, 8), dtype=np.float32))


@pytest.mark.parametrize(
    "name", ["case_0003.nii.gz", "case_9999.nii.gz", "case.nii.gz", "case_000.nii.gz", "case_0000.mha"]
)
def test_a_name_without_a_channel_of_the_dataset_is_an_error_that_lists_the_channels(setup, copied_case, name):
    stranger = copied_case[0].rename(copied_case[0].with_name(name))
    with pytest.raises(
        ModalityError, match=facts(stranger, "no channel", "_0000 (T1w)", "_0001 (T2w)", "_0002 (FLAIR)")
    ):
        setup.run([stranger, *copied_case[1:]])


def test_the_same_channel_twice_is_an_error_that_names_both_files(setup, copied_case, tmp_path):
    twin = tmp_path / "other_0001.nii.gz"
    twin.write_bytes(copied_case[1].read_bytes())
    with pytest.raises(ModalityError, match=facts(copied_case[1], twin, "both channel 1")):
        setup.run([*copied_case, twin])


def smaller(image):
    return image[:-1]


def other_spacing(image):
    image.SetSpacing((1, 1, 1.1))
    return image


def other_origin(image):
    image.SetOrigin((0, 5, 0))
    return image


def other_direction(image):
    image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    return image


@pytest.mark.parametrize(
    ("change", "property_name"),
    [(smaller, "shape"), (other_spacing, "spacing"), (other_origin, "origin"), (other_direction, "direction")],
)
def test_files_of_different_geometry_are_an_error_that_names_both_and_the_difference(
    setup, copied_case, change, property_name
):
    sitk.WriteImage(change(sitk.ReadImage(str(copied_case[2]))), str(copied_case[2]))
    with pytest.raises(ModalityError, match=facts(copied_case[2], copied_case[0], "differ", property_name)):
        setup.run(copied_case)


def slightly_other_spacing(image):
    image.SetSpacing((1, 1, 1.005))
    return image


def slightly_shifted_far_from_zero(image):
    image.SetOrigin((-200.2, 0, 0))
    return image


def slightly_rotated(image):
    cosine, sine = np.cos(np.radians(0.5)), np.sin(np.radians(0.5))
    image.SetDirection((cosine, -sine, 0, sine, cosine, 0, 0, 0, 1))
    return image


@pytest.mark.parametrize("reader", ["SimpleITKIO", "NibabelIO"])
@pytest.mark.parametrize("change", [slightly_other_spacing, slightly_shifted_far_from_zero, slightly_rotated])
def test_a_difference_that_moves_voxels_is_an_error_however_small_it_looks(setup, copied_case, change, reader):
    setup.plans.plans["image_reader_writer"] = reader
    for file in copied_case[:2]:
        image = sitk.ReadImage(str(file))
        image.SetOrigin((-200, 0, 0))
        sitk.WriteImage(image, str(file))
    assert np.isfinite(setup.run(copied_case[:2])[0][:2]).all()
    sitk.WriteImage(change(sitk.ReadImage(str(copied_case[1]))), str(copied_case[1]))
    with pytest.raises(ModalityError, match=facts(copied_case[1], copied_case[0], "differ")):
        setup.run(copied_case[:2])


def test_a_two_dimensional_file_beside_a_volume_of_one_slice_is_an_error(setup, copied_case):
    volume = sitk.ReadImage(str(copied_case[0]))
    sitk.WriteImage(volume[:, :, 16:17], str(copied_case[0]))
    sitk.WriteImage(volume[:, :, 16], str(copied_case[1]))
    with pytest.raises(ModalityError, match=facts(copied_case[1], copied_case[0], "differ")):
        setup.run(copied_case[:2])


def test_a_damaged_file_of_whole_numbers_is_an_error_too(setup, copied_case):
    """ITK's reader fills up with zeros what such a file lacks."""
    rewrite(copied_case[1], lambda array: array.astype(np.int16))
    setup.run(copied_case)
    copied_case[1].write_bytes(copied_case[1].read_bytes()[:-500])
    with pytest.raises(ModalityError, match=facts(copied_case[1], "cannot be read")):
        setup.run(copied_case)


@pytest.mark.parametrize("kept_bytes", [0, 100, 0.5])
def test_a_damaged_file_is_an_error_that_names_it(setup, copied_case, kept_bytes):
    content = copied_case[1].read_bytes()
    copied_case[1].write_bytes(content[: int(kept_bytes * len(content)) if kept_bytes < 1 else kept_bytes])
    with pytest.raises(ModalityError, match=facts(copied_case[1], "cannot be read")):
        setup.run(copied_case)


def test_the_log_tells_what_is_absent_and_which_files_look_as_if_they_were_meant(setup, copied_case, capsys):
    copied_case[1].rename(copied_case[1].with_name("phantomTs000_0001.nii"))
    copied_case[2].rename(copied_case[2].with_name("phantomTs0001_0002.nii.gz"))  # another case
    setup.run(copied_case[:1])
    absent = "phantomTs000: missing T2w, FLAIR\n"
    line = f"{absent}phantomTs000: not used, because the ending is not .nii.gz: phantomTs000_0001.nii\n"
    assert line in capsys.readouterr().out


def test_rounding_in_a_header_is_no_difference(setup, copied_case):
    image = sitk.ReadImage(str(copied_case[2]))
    image.SetOrigin((0, 1e-3, 0))
    sitk.WriteImage(image, str(copied_case[2]))
    assert np.isfinite(setup.run(copied_case)[0]).all()


def test_a_file_of_several_channels_is_refused(setup, copied_case):
    images = [sitk.ReadImage(str(file)) for file in copied_case[:2]]
    sitk.WriteImage(sitk.JoinSeries(images), str(copied_case[0]))
    with pytest.raises(ModalityError, match=facts(copied_case[0], "2 channels")):
        setup.run(copied_case[:1])


def test_no_usable_channel_is_an_error(setup, copied_case):
    for file in copied_case[:2]:
        rewrite(file, np.zeros_like)
    with pytest.raises(ModalityError, match=facts(copied_case[0], copied_case[1], "zero")):
        setup.run(copied_case[:2])
    with pytest.raises(ModalityError, match=facts("one of", "_0000")):
        setup.run([])
    with pytest.raises(ModalityError, match=facts("one of", "T1w, T2w, FLAIR")):
        setup.run_npy(np.full((3, 8, 8, 8), np.nan, dtype=np.float32))


def test_only_the_one_configuration_manager_changes_and_it_survives_pickling(setup):
    other = setup.plans.get_configuration("3d_tiny")
    use_missing_modality_preprocessor(setup.configuration)
    twin = pickle.loads(pickle.dumps(setup.configuration))
    assert type(twin) is MissingModalityConfigurationManager
    assert twin.preprocessor_class is setup.configuration.preprocessor_class is MissingModalityPreprocessor
    assert other.preprocessor_class is DefaultPreprocessor


def test_plans_that_ask_for_another_preprocessor_are_refused(setup):
    setup.configuration.configuration["preprocessor_name"] = "MyPreprocessor"
    with pytest.raises(ModelError, match=facts("'MyPreprocessor'")):
        use_missing_modality_preprocessor(setup.configuration)


@pytest.mark.parametrize(
    ("spacing", "said"),
    [((0.001, 0.001, 0.001), ("0.001 x 0.001 x 0.001 mm", "0 x 0 x 0 voxels")), ((1e4, 1e4, 1e4), ("GB",))],
    ids=["nothing would be left", "more than the memory holds"],
)
def test_a_spacing_in_another_unit_is_refused_before_memory_is_taken(setup, spacing, said):
    image = np.full((3, 12, 12, 12), np.nan, dtype=np.float32)
    image[0] = np.arange(12**3).reshape(12, 12, 12)
    assert np.isfinite(setup.run_npy(image)[0][0]).all()
    with pytest.raises(ModalityError, match=facts("spacing", *said)):
        setup.run_npy(image, spacing=spacing)
