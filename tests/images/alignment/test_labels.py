"""A segmentation moves with the image that it was drawn on, and loses no label unnoticed."""

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from made_grids import BESIDE, COARSE, FINE, STRAIGHT, write_image

from facts import facts
from nnunet_moe.errors import ModalityError
from nnunet_moe.images.alignment.case import align_case
from nnunet_moe.images.alignment.labels import align_label, to_space_of
from nnunet_moe.images.alignment.resampling import resampled, resampled_labels
from nnunet_moe.images.alignment.settings import AlignmentSettings
from nnunet_moe.images.alignment.volumes import Space, Volume

GRID = AlignmentSettings(align="grid")


@pytest.fixture
def case(tmp_path):
    """CT, and PET with larger voxels, on the grid of CT."""
    files = {name: write_image(tmp_path / f"{name}.nii.gz", space) for name, space in (("CT", FINE), ("PET", COARSE))}
    return align_case(files, {"PET": tmp_path / "new.nii.gz"}, GRID)


@pytest.fixture
def draw(tmp_path):
    """Write a segmentation in which each label fills some voxels; its path."""

    def write(space, **labels):
        voxels = np.zeros(space.size[::-1], dtype=np.uint8)
        for label, where in labels.items():
            voxels[where] = int(label[1:])
        sitk.WriteImage(space.image(voxels), str(tmp_path / "drawn.nii.gz"))
        return str(tmp_path / "drawn.nii.gz")

    return write


BODY = np.s_[2:6, 3:8, 3:9]
TURNED = (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0)


def test_a_segmentation_on_the_grid_of_an_image_moves_to_the_reference_and_back(case, draw, tmp_path):
    drawn = draw(COARSE, _1=BODY)
    target = tmp_path / "label.nii.gz"
    moved = align_label(drawn, case, GRID, target)
    assert moved.file == str(target) and moved.notes == () and moved.alignment.how == "resampled"
    image, body = sitk.ReadImage(str(target)), np.zeros(COARSE.size[::-1], dtype=np.float32)
    body[BODY] = 1
    found = sitk.GetArrayFromImage(image) == 1
    assert Space.of(image) == FINE
    assert np.array_equal(found, sitk.GetArrayFromImage(resampled(COARSE.image(body), FINE)) > 0.5)
    assert moved.kept == {1: found.sum() / (body.sum() * 12)}  # a voxel of PET has 12 mm3
    assert to_space_of(target, case, "PET") == COARSE
    back = sitk.GetArrayFromImage(sitk.ReadImage(str(target))) == 1
    assert 2 * (back & (body > 0)).sum() / (back.sum() + body.sum()) > 0.8


def test_a_segmentation_on_the_grid_of_the_reference_is_used_as_it_is(case, draw, tmp_path):
    drawn = draw(FINE, _1=BODY)
    moved = align_label(drawn, case, GRID, tmp_path / "label.nii.gz")
    assert moved.file == drawn and moved.alignment.how == "unchanged" and moved.kept == {1: 1.0}
    assert not (tmp_path / "label.nii.gz").exists()


def test_a_segmentation_moves_with_the_registered_image_that_it_was_drawn_on(case, draw, tmp_path):
    motion = np.eye(4)
    motion[:3, 3] = 2.0, -1.0, 1.0
    of_pet = replace(case.alignments["PET"], how="registered", motion=motion, shift=6**0.5)
    case = replace(case, alignments={**case.alignments, "PET": of_pet})
    drawn = draw(COARSE, _1=BODY)
    moved = align_label(drawn, case, GRID, tmp_path / "label.nii.gz")
    labels = sitk.GetArrayFromImage(sitk.ReadImage(drawn))
    expected = resampled_labels(labels, COARSE, FINE, motion)
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(moved.file)), expected) and expected.any()
    assert not np.array_equal(expected, resampled_labels(labels, COARSE, FINE))
    assert moved.columns["alignment"] == "registered" and moved.columns["motion_mm"] == "2.45"
    both = replace(case, alignments={**case.alignments, "SUV": replace(of_pet, how="resampled", motion=np.eye(4))})
    (note,) = align_label(drawn, both, GRID, tmp_path / "label.nii.gz").notes
    assert all(said in note for said in (drawn, "PET and SUV", "moves with PET"))


@pytest.mark.parametrize(
    "header",
    [
        {"origin": (39.0, -1.0, -2.0)},
        {"direction": TURNED},
        {"origin": (11.0, -1.0, -2.0)},
        {"spacing": (1.0, 1.0, 1.0), "origin": (0.0, 0.0, 0.0)},
    ],
    ids=["elsewhere", "turned", "half outside", "no header"],
)
@pytest.mark.parametrize("share", [0.5, 0.0])
def test_a_segmentation_with_the_shape_of_an_image_but_another_header_is_refused(case, draw, tmp_path, header, share):
    drawn = draw(replace(COARSE, **header), _1=BODY)
    with pytest.raises(ModalityError, match=facts(drawn, "PET.nii.gz", "CopyInformation")):
        align_label(drawn, case, replace(GRID, least_covered=share), tmp_path / "label.nii.gz")


def test_a_shift_that_is_allowed_without_alignment_is_allowed_with_it(case, draw, tmp_path):
    """nnU-Net pairs the voxels of an image and its segmentation, so up to half a voxel costs a note."""
    right = align_label(draw(COARSE, _1=BODY), case, GRID, tmp_path / "right.nii.gz")
    drawn = draw(replace(COARSE, origin=(-0.4, -1.0, -2.0)), _1=BODY)
    shifted = align_label(drawn, case, GRID, tmp_path / "shifted.nii.gz")
    (note,) = shifted.notes
    assert drawn in note and "0.3 voxels" in note
    of_right, of_shifted = (sitk.GetArrayFromImage(sitk.ReadImage(moved.file)) for moved in (right, shifted))
    assert np.array_equal(of_right, of_shifted)


OWN = Space((9, 9, 7), (2.0, 2.0, 2.0), (1.5, 0.5, 0.5), STRAIGHT)


def test_a_segmentation_on_its_own_grid_lies_where_its_header_says_with_a_note(case, draw, tmp_path):
    moved = align_label(draw(OWN, _1=BODY), case, GRID, tmp_path / "label.nii.gz")
    (note,) = moved.notes
    assert "grid of none of the images" in note and moved.alignment.how == "resampled"
    inside = Volume.of_file("CT", case.files["CT"], []).foreground[:14, :18, 1:19]
    everywhere = Volume.of_file("CT", case.files["CT"], []).foreground
    assert moved.alignment.covered == inside.sum() / everywhere.sum()


@pytest.mark.parametrize("away", [500.0, 12.0])
def test_a_segmentation_that_covers_too_little_is_refused(case, draw, tmp_path, away):
    drawn = draw(replace(OWN, origin=(away, 0.5, 0.5)), _1=BODY)
    with pytest.raises(ModalityError, match=facts(drawn, "CT.nii.gz", "50%", "--min_covered")):
        align_label(drawn, case, GRID, tmp_path / "label.nii.gz")


def test_a_label_that_would_be_cut_is_refused_at_any_coverage(case, draw, tmp_path):
    """The columns of voxels at x = 13.5, 15.5, ... lie in CT up to 19.5."""
    anywhere = replace(GRID, least_covered=0.0)
    half = replace(OWN, origin=(13.5, 0.5, 0.5))
    drawn = draw(half, _1=np.s_[2:5, 2:5, 1:3], _2=np.s_[2:5, 2:5, 3:5])
    with pytest.raises(ModalityError, match=facts(drawn, "50%", "label 2", "CT.nii.gz", "10%", "--reference")):
        align_label(drawn, case, anywhere, tmp_path / "label.nii.gz")
    assert not (tmp_path / "label.nii.gz").exists()
    whole = align_label(draw(half, _1=np.s_[2:5, 2:5, 1:3]), case, anywhere, tmp_path / "label.nii.gz")
    assert whole.kept == {1: 1 - 8 / 144}  # of 3 x 3 x 2 voxels with 8 voxels of CT each, the 8 corners are rounded
    with pytest.raises(ModalityError, match=facts("100%", "label 1")):
        align_label(draw(replace(BESIDE, size=(9, 9, 9)), _1=BODY), case, anywhere, tmp_path / "label.nii.gz")


def test_a_label_that_the_voxels_of_the_reference_lose_is_said(tmp_path, draw):
    files = {name: write_image(tmp_path / f"{name}.nii.gz", space) for name, space in (("CT", FINE), ("PET", COARSE))}
    on_pet = replace(GRID, reference="PET")
    case = align_case(files, {"CT": tmp_path / "new.nii.gz"}, on_pet)
    moved = align_label(draw(FINE, _1=np.s_[8, 9, 9], _2=BODY), case, on_pet, tmp_path / "label.nii.gz")
    (note,) = moved.notes
    assert all(said in note for said in ("label 1", "drawn.nii.gz", "1 mm3", "PET"))
    assert moved.kept[1] == 0 and moved.kept[2] == pytest.approx(1, abs=0.3)
    assert moved.columns["kept_labels"] == f"1=0.0000 2={moved.kept[2]:.4f}"
