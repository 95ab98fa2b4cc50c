import pytest
import torch

from facts import facts
from nnunet_moe.errors import ModalityError
from nnunet_moe.modalities.codes import (
    all_codes,
    available_modalities,
    channel_names,
    code_digits,
    code_text,
    drop_modalities,
    parse_code,
    zero_absent,
)
from nnunet_moe.modalities.draws import draw_subsets

NAMES = ("T1w", "T2w", "FLAIR")


@pytest.mark.parametrize("num_modalities", [1, 2, 3, 5, 12])
def test_all_codes_are_the_non_empty_subsets_each_once_and_smallest_first(num_modalities):
    codes = all_codes(num_modalities)
    assert len(codes) == len(set(codes)) == 2**num_modalities - 1
    assert all(any(code) and len(code) == num_modalities for code in codes)
    assert [sum(code) for code in codes] == sorted(sum(code) for code in codes)


@pytest.mark.parametrize("num_modalities", [0, 13])
def test_a_number_of_modalities_out_of_range_is_refused(num_modalities):
    with pytest.raises(ModalityError, match=facts("1 to 12")):
        all_codes(num_modalities)


@pytest.mark.parametrize("space", [(4, 5), (3, 4, 5)])
def test_any_nan_in_a_channel_makes_it_absent(space):
    image = torch.rand(2, 3, *space)
    image[0, 1] = torch.nan
    image[1, 2].flatten()[7] = torch.nan  # zero or finite elsewhere, as after nnU-Net's masking
    assert available_modalities(image).tolist() == [[True, False, True], [True, True, False]]


def test_zero_absent_replaces_whatever_stood_there_and_leaves_channels_beyond_the_modalities():
    image = torch.tensor([[[1.0], [torch.nan], [5.0]], [[torch.inf], [2.0], [torch.nan]]])
    available = torch.tensor([[True, False], [False, True]])
    zeroed = zero_absent(image, available)
    assert zeroed[:, :2].tolist() == [[[1.0], [0.0]], [[0.0], [2.0]]]
    assert zeroed[0, 2].item() == 5.0 and zeroed[1, 2].isnan()


def test_dropping_keeps_the_common_part_of_code_and_case_and_never_leaves_a_case_empty():
    image = torch.rand(3, 3, 2, 2)
    image[:, 0] = torch.nan  # all items lack channel 0
    code = torch.tensor([[True, True, False], [True, False, False], [True, True, True]])
    dropped = drop_modalities(image, code)
    kept = [[False, True, False], [False, True, True], [False, True, True]]
    assert available_modalities(dropped).tolist() == kept
    assert torch.equal(dropped[2, 1:], image[2, 1:])
    assert available_modalities(image).tolist() == [[False, True, True]] * 3  # the input is as it was


def test_drawn_subsets_are_uniform_over_the_non_empty_subsets_of_what_a_case_has():
    available = torch.tensor([[True, False, True, True]]).repeat(70_000, 1)
    subsets = draw_subsets(available, torch.Generator().manual_seed(0))
    values, counts = subsets.unique(dim=0, return_counts=True)
    assert len(values) == 7 and values.any(dim=1).all() and not values[:, 1].any()
    assert (counts - 10_000).abs().max() < 5 * (70_000 / 7 * 6 / 7) ** 0.5  # five standard deviations


def test_a_case_with_one_modality_keeps_it():
    available = torch.eye(5, dtype=torch.bool)
    assert torch.equal(draw_subsets(available, torch.Generator().manual_seed(1)), available)


def test_the_same_generator_state_draws_the_same_subsets():
    available = torch.ones(8, 4, dtype=torch.bool)
    first, again, other = (draw_subsets(available, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize("names", [NAMES, ("T1", "T1+C", "T2"), ("1", "10"), ("CT",)])
def test_text_and_digits_of_every_code_parse_back(names):
    for code in all_codes(len(names)):
        assert parse_code(code_text(code, names), names) == code
    if "10" not in names:
        assert all(parse_code(code_digits(code), names) == code for code in all_codes(len(names)))


def test_a_long_text_of_names_within_names_is_refused_at_once():
    with pytest.raises(ModalityError, match=facts("a, a+a")):
        parse_code("+".join("a" * 200), ("a", "a+a"))


def test_names_may_come_in_any_order():
    assert parse_code("FLAIR+T1w", NAMES) == (True, False, True)
    assert code_text((True, False, True), NAMES) == "T1w+FLAIR" and code_digits((True, False, True)) == "101"


@pytest.mark.parametrize("text", ["", "flair", "T1w+", "T1w+T1w", "000", "11", "1111", "T1w,FLAIR"])
def test_a_text_that_names_no_subset_is_refused_with_the_names_allowed(text):
    with pytest.raises(ModalityError, match=facts("T1w, T2w, FLAIR")):
        parse_code(text, NAMES)


def test_channel_names_come_in_the_order_of_the_file_which_is_that_of_nnunets_normalization():
    names = {str(channel): f"m{channel}" for channel in range(11)}
    assert channel_names({"channel_names": names}) == tuple(f"m{channel}" for channel in range(11))
    assert channel_names({"channel_names": {"0000": "CT", "0001": "PET"}}) == ("CT", "PET")
    assert channel_names({"channel_names": {"PET": "PET", "MRI": "CT"}}) == ("PET", "CT")
    assert channel_names({"modality": {"0": "CT"}}) == ("CT",)
    assert channel_names({"channel_names": {"0": "MRI", "1": "CT", "2": "MRI"}}) == ("MRI:0", "CT", "MRI:2")
    # a number that makes a name equal to that of another channel
    assert channel_names({"channel_names": {"0": "a", "1": "a", "2": "a:0"}}) == ("a:0:0", "a:1", "a:0:2")
    with pytest.raises(ModalityError, match=facts("channel_names")):
        channel_names({})


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ({"1": "CT", "0": "MRI"}, "'1', '0'"),
        (dict(sorted((str(channel), f"m{channel}") for channel in range(11))), "'1', '10'"),
        ({"1": "MRI", "2": "CT"}, "'1', '2'"),
        ({"0": "MRI", "2": "CT"}, "'0', '2'"),
        ({"0": "MRI", "PET": "PET"}, "'PET'"),
        ({"0": "MRI", "00": "CT"}, "'00'"),
        ({"-1": "MRI"}, "'-1'"),
        ({"R": 0, "G": 1}, "'R'"),
        ({"0": "MRI", "1": None}, "None"),
        ({}, "{}"),
        (["MRI", "CT"], "['MRI', 'CT']"),
        ("MRI", "MRI"),
    ],
)
@pytest.mark.parametrize("key", ["channel_names", "modality"])
def test_channel_names_in_another_order_or_without_names_are_refused(names, said, key):
    with pytest.raises(ModalityError, match=facts("dataset.json", said)):
        channel_names({key: names})
