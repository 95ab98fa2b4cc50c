"""The files of a case come onto one grid, by a rule that training and prediction share."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from made_grids import BESIDE, COARSE, FINE, HALF, STRAIGHT, write_image

from facts import facts
from nnunet_moe.errors import ModalityError, SettingsError
from nnunet_moe.images.alignment.aligned import write_alignments
from nnunet_moe.images.alignment.case import align_case
from nnunet_moe.images.alignment.resampling import resampled
from nnunet_moe.images.alignment.settings import AlignmentSettings
from nnunet_moe.images.alignment.volumes import Space, Volume
from nnunet_moe.images.new_files import OriginalNames

GRID = AlignmentSettings(align="grid")


@pytest.fixture
def aligned(tmp_path):
    """Align images on these grids; the result and the paths of the originals."""

    def align(settings=GRID, **spaces):
        files = {
            name: space if isinstance(space, str) else write_image(tmp_path / "old" / f"{name}.nii.gz", space, seed)
            for seed, (name, space) in enumerate(spaces.items())
        }
        (tmp_path / "new").mkdir(exist_ok=True)
        targets = {name: tmp_path / "new" / f"{name}.nii.gz" for name in files}
        return align_case(files, targets, settings), files

    return align


def read(file) -> Volume:
    return Volume.of_file("", str(file), [])


def test_files_on_one_grid_are_used_as_they_are(aligned, tmp_path):
    case, files = aligned(T1w=FINE, FLAIR=FINE)
    assert case.files == files and not any((tmp_path / "new").iterdir()) and case.notes == ()
    assert [alignment.how for alignment in case.alignments.values()] == ["reference", "unchanged"]


@pytest.mark.parametrize(
    ("spaces", "wanted", "reference"),
    [
        ({"PET": COARSE, "CT": FINE}, None, "CT"),
        ({"CT": FINE, "T1w": HALF}, None, "CT"),  # equally fine: the first channel
        ({"PET": COARSE, "CT": FINE}, "PET", "PET"),
        ({"PET": COARSE, "CT": FINE}, "T1w", "CT"),  # wanted, but missing
    ],
)
def test_the_reference_is_the_wanted_modality_or_the_finest(aligned, spaces, wanted, reference):
    case, _ = aligned(AlignmentSettings(align="grid", reference=wanted), **spaces)
    assert case.reference == reference
    assert any("no usable T1w" in note for note in case.notes) == (wanted == "T1w")
    assert all(read(file).space == case.space for file in case.files.values())


def test_others_are_resampled_by_their_positions(aligned):
    case, files = aligned(CT=FINE, PET=COARSE)
    expected = resampled(read(files["PET"]).image, FINE)
    assert np.array_equal(read(case.files["PET"]).array, sitk.GetArrayFromImage(expected))
    assert case.files["CT"] == files["CT"] and case.alignments["PET"].how == "resampled"


def test_a_ct_is_air_where_it_has_no_voxels(aligned):
    case, _ = aligned(T1w=FINE, CT=HALF, FLAIR=HALF)
    assert (read(case.files["CT"]).array[:, 9:] == -1000).all()
    assert (read(case.files["FLAIR"]).array[:, 9:] == 0).all()
    (note,) = [note for note in case.notes if "CT.nii.gz covers" in note]
    share = read(case.files["T1w"]).foreground[:, :9].sum() / read(case.files["T1w"]).foreground.sum()
    assert case.alignments["CT"].covered == share and f"{share:.0%}" in note


@pytest.mark.parametrize(("space", "share"), [(HALF, 0.6), (BESIDE, 0.01)])
def test_a_file_that_covers_too_little_fails_the_case(aligned, space, share):
    with pytest.raises(ModalityError, match="covers") as refused:
        aligned(AlignmentSettings(align="grid", least_covered=share), CT=FINE, T1w=space)
    assert re.search(facts("T1w.nii.gz", "CT.nii.gz", f"{share:.0%}", "--min_covered"), str(refused.value))


def test_a_placeholder_stays_one(aligned, tmp_path):
    """A file with one value on another grid still has one value, and is no reference even if it is the finest."""
    filled = write_image(
        tmp_path / "filled.nii.gz", Space((9, 9, 9), (0.5, 0.5, 0.5), (3.0, 3.0, 3.0), STRAIGHT), value=4
    )
    case, _ = aligned(T1w=filled, CT=COARSE)
    assert case.reference == "CT" and (read(case.files["T1w"]).array == 4).all()
    assert case.space == COARSE


def test_a_placeholder_need_not_cover_anything(aligned, tmp_path):
    """It counts as missing, as on the reference's grid."""
    empty = write_image(tmp_path / "empty.nii.gz", BESIDE, value=0)
    case, _ = aligned(CT=FINE, T1w=empty)
    assert case.alignments["T1w"].columns["covered"] == "" and not read(case.files["T1w"]).array.any()
    case, _ = aligned(T1w=empty, FLAIR=write_image(tmp_path / "empty2.nii.gz", FINE, value=3))
    assert case.reference == "T1w" and case.notes == ()  # which the reader refuses afterwards


def test_the_message_on_one_slice_says_so(aligned):
    slice_ = Space((20, 18, 1), (1.0, 1.0, 1.0), (0.0, 0.0, 8.0), STRAIGHT)
    with pytest.raises(ModalityError, match=facts("T1w.nii.gz, which has one slice, covers", "50%")):
        aligned(CT=FINE, T1w=slice_)


@pytest.mark.parametrize("ending", [".tif", ".png"])
def test_formats_without_positions_are_refused(aligned, tmp_path, ending):
    with pytest.raises(ModalityError, match="does not store where the image lies"):
        aligned(CT=FINE, T1w=str(tmp_path / f"T1w{ending}"))


def test_each_note_stands_in_the_row_of_its_file(aligned, tmp_path):
    """Also if the path of a DICOM folder begins like that of another one."""
    case, files = aligned(T1=FINE, T1ce=HALF)
    originals = {"T1ce": "/a/T1ce", "T1": "/a/T1"}
    case = case.with_names(OriginalNames({files[name]: original for name, original in originals.items()}))
    write_alignments(tmp_path / "table.csv", [("a", originals, case)], "segmentation")
    with (tmp_path / "table.csv").open() as opened:
        first, second = csv.DictReader(opened)
    assert (first["modality"], first["notes"], second["modality"]) == ("T1", "", "T1ce")
    assert second["notes"].startswith("/a/T1ce covers")


def test_messages_name_the_original_files(aligned):
    case, files = aligned(CT=FINE, PET=COARSE)
    assert case.names.in_text(f"{case.files['PET']} is odd") == f"{files['PET']} is odd"


def test_settings_of_the_training_hold_unless_others_are_given():
    trained, names = {"alignment": {"align": "rigid", "reference": "CT"}}, ("CT", "PET")
    assert AlignmentSettings().for_dataset({}, names).is_on is False
    found = AlignmentSettings().for_dataset(trained, names)
    assert (found.align, found.reference) == ("rigid", "CT")
    given = AlignmentSettings(align="grid", reference="PET").for_dataset(trained, names)
    assert (given.align, given.reference) == ("grid", "PET")
    assert AlignmentSettings(align="off").for_dataset(trained, names).is_on is False
    assert found.share == 0.5  # datasets of earlier versions do not say it
    lower = AlignmentSettings(align="grid", least_covered=0.2).for_dataset({}, names)
    assert AlignmentSettings().for_dataset({"alignment": lower.description()}, names) == lower
    higher = AlignmentSettings(least_covered=0.5).for_dataset({"alignment": lower.description()}, names)
    assert (higher.align, higher.share) == ("grid", 0.5)
    for wrong in (
        5,
        {"align": "affine"},
        {"align": "grid", "min_covered": "half"},
        {"other": 1},
        {"align": "grid", "reference": "T1w"},
    ):
        with pytest.raises(SettingsError):
            AlignmentSettings().for_dataset({"alignment": wrong}, names)
    with pytest.raises(SettingsError, match="only with --align"):
        AlignmentSettings(reference="CT").for_dataset({}, names)
    with pytest.raises(SettingsError, match="min_covered"):
        AlignmentSettings(align="grid", least_covered=1.5)


def test_a_sheared_header_is_refused_by_name(aligned, tmp_path):
    import nibabel.nifti1

    affine = np.diag([1.0, 1, 1, 1])
    affine[0, 1] = 0.4
    file = tmp_path / "sheared.nii.gz"
    nibabel.nifti1.Nifti1Image(np.random.default_rng(0).normal(size=(8, 8, 8)), affine).to_filename(file)
    with pytest.raises(ModalityError, match=facts("sheared.nii.gz", "right angles")) as refused:
        aligned(CT=FINE, T1w=str(file))
    assert "\n" not in str(refused.value) and ".cxx" not in str(refused.value)


def test_files_of_micrometers_are_aligned_like_those_of_millimeters(aligned):
    def small(space: Space) -> Space:
        return Space(
            space.size, *(tuple(1e-3 * x for x in values) for values in (space.spacing, space.origin)), STRAIGHT
        )

    case, files = aligned(A=small(FINE), B=small(HALF))
    assert case.reference == "A" and case.alignments["B"].how == "resampled"
    assert Path(case.files["A"]) == Path(files["A"])
