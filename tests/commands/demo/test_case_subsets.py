import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_moe.commands.demo.case_subsets import CaseSubsets, cases_of, median_case

MODALITIES = ("T1w", "FLAIR")
TRUTH = np.zeros((2, 3, 4), dtype=np.uint8)
TRUTH[1, 1, :2] = 1


def write(path, array):
    path.parent.mkdir(exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(array), str(path))


@pytest.fixture
def subsets(tmp_path):
    """Three cases of two modalities; T1w alone finds 2, 1 and 0 of the 2 voxels, the other codes all."""
    for number, found in enumerate((2, 1, 0)):
        for channel in range(2):
            write(tmp_path / "images" / f"c{number}_{channel:04d}.nii.gz", np.full((2, 3, 4), channel + 1.0))
        write(tmp_path / "labels" / f"c{number}.nii.gz", TRUTH)
        for code in ("10", "01", "11"):
            prediction = TRUTH.copy()
            if code == "10":
                prediction[1, 1, found:] = 0
            write(tmp_path / "predictions" / f"c{number}_{code}.nii.gz", prediction)
    folders = (tmp_path / name for name in ("images", "labels", "predictions"))
    return CaseSubsets(*folders, cases_of(tmp_path / "labels"), MODALITIES)


def test_the_inputs_hold_each_case_under_each_code_with_the_files_of_its_modalities_alone(subsets, tmp_path):
    subsets.write_inputs(tmp_path / "incoming")
    names = {file.name.removesuffix(".nii.gz") for file in (tmp_path / "incoming").iterdir()}
    per_case = ("10_0000", "01_0001", "11_0000", "11_0001")
    assert names == {f"c{number}_{rest}" for number in range(3) for rest in per_case}
    image = sitk.ReadImage(str(tmp_path / "incoming" / "c0_01_0001.nii.gz"))
    assert (sitk.GetArrayFromImage(image) == 2).all()


def test_dice_by_hand(subsets):
    assert subsets.dice() == pytest.approx(np.array([[1, 2 / 3, 0], [1, 1, 1], [1, 1, 1]]))


def test_the_table_shows_the_mean_over_cases_by_code_and_over_codes(subsets):
    assert subsets.table().splitlines()[2:] == [
        "| T1w | 0.556 |",
        "| FLAIR | 1.000 |",
        "| T1w+FLAIR | 1.000 |",
        "| **mean over codes** | **0.852** |",
    ]


def test_empty_prediction_of_an_empty_truth_is_perfect(subsets):
    write(subsets.labels / "c2.nii.gz", np.zeros_like(TRUTH))
    assert subsets.dice()[:, 2].tolist() == [1.0, 0.0, 0.0]


def test_the_picture_is_of_the_median_case_and_has_a_row_a_code(subsets, tmp_path):
    assert median_case(subsets) == "c1"
    subsets.plot("c1", tmp_path / "codes.png")
    width, height = sitk.ReadImage(str(tmp_path / "codes.png")).GetSize()
    assert height == round(100 * 1.75 * 3) and width == round(100 * 1.6 * 4)
