"""Names of BIDS are taken apart as the specification says, and filters choose by entities and suffix."""

import pytest

from facts import facts
from nnunet_moe.errors import ModalityError, SettingsError
from nnunet_moe.images.bids_names import Filter, read_name


def test_a_name_has_a_subject_a_session_entities_and_a_suffix():
    name = read_name("derivatives/manual/sub-01/ses-2/anat/sub-01_ses-2_acq-3D_run-03_label-lesion_mask.nii.gz")
    assert (name.subject, name.session, name.case) == ("sub-01", "ses-2", "sub-01_ses-2")
    assert name.entities == {"acq": "3D", "run": "3", "label": "lesion"}
    assert (name.suffix, name.ending, name.misplaced) == ("mask", ".nii.gz", None)
    assert (name.dataset, name.place) == ("derivatives/manual", "derivatives/manual/anat")
    assert name.filter == "derivatives/manual/acq-3D_run-3_label-lesion_mask"


def test_files_outside_the_folders_of_a_subject_are_known_by_their_names():
    name = read_name("derivatives/masks/sub-a1_mask.nii")
    assert (name.case, name.dataset, name.place) == ("sub-a1", "derivatives/masks", "derivatives/masks")


@pytest.mark.parametrize(
    ("path", "folder"),
    [
        ("sub-01/anat/sub-02_T1w.nii", "sub-01"),
        ("sub-01/ses-1/anat/sub-01_ses-2_T1w.nii", "ses-1"),
        ("sub-01/ses-1/anat/sub-01_T1w.nii", "ses-1"),
        ("sub-01/sub-01_ses-1_T1w.nii", None),
    ],
)
def test_a_folder_of_another_subject_or_session_is_noticed(path, folder):
    assert read_name(path).misplaced == folder


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("sub-01_T1w_lesion.nii.gz", "'T1w'"),
        ("sub-01_ses-2020-01-01_T1w.nii.gz", "'ses-2020-01-01'"),
        ("Sub-01_T1w.nii.gz", "'Sub-01'"),
        ("sub-01_acq-a_acq-b_T1w.nii.gz", "acq"),
        ("sub-01_T1w (copy).nii.gz", "'T1w (copy)'"),
        ("acq-3D_T1w.nii.gz", "sub-LABEL"),
    ],
)
def test_names_that_are_not_of_bids_are_refused_with_the_part(name, wrong):
    with pytest.raises(ModalityError, match=facts(wrong)):
        read_name(f"sub-01/anat/{name}")


RAW, MANUAL = "sub-1/anat/sub-1_", "derivatives/manual/sub-1/anat/sub-1_"


@pytest.mark.parametrize(
    ("text", "path", "choice"),
    [
        ("T1w", f"{RAW}T1w.nii.gz", 0),
        ("T1w", f"{RAW}acq-3D_run-1_T1w.nii.gz", 0),  # these need no name
        ("T1w", f"{RAW}ce-gadolinium_T1w.nii.gz", None),  # this shows something else
        ("ce-gadolinium_T1w", f"{RAW}acq-3D_ce-gadolinium_T1w.nii.gz", 0),
        ("ce-gadolinium_T1w", f"{RAW}T1w.nii.gz", None),
        ("run-1_acq-3D_T1w", f"{RAW}acq-3D_run-01_T1w.nii.gz", 0),  # in any order, and 01 is 1
        ("acq-1_T1w", f"{RAW}acq-01_T1w.nii.gz", None),  # but only in numbers
        ("t1w", f"{RAW}T1w.nii.gz", None),
        ("run-2_T1w, T1w", f"{RAW}run-1_T1w.nii.gz", 1),
        ("run-2_T1w, T1w", f"{RAW}run-2_T1w.nii.gz", 0),
        ("T1w", f"{RAW}T1w.json", None),
        ("T1w", f"{RAW}T1w.dscalar.nii", None),
        ("T1w", f"{MANUAL}T1w.nii.gz", None),  # images are raw
        ("derivatives/manual/T1w", f"{MANUAL}T1w.nii.gz", 0),
        ("derivatives/manual/anat/T1w", f"{MANUAL}T1w.nii.gz", 0),
        ("derivatives/man/T1w", f"{MANUAL}T1w.nii.gz", None),
        ("anat/T1w", f"{RAW}T1w.nii.gz", 0),
        ("anat/T1w", f"{MANUAL}T1w.nii.gz", None),
        ("T1w", f"sourcedata/{RAW}T1w.nii.gz", None),
        ("T1w", f"rawbids/{RAW}T1w.nii.gz", 0),
    ],
)
def test_a_filter_matches_by_suffix_entities_and_folder(text, path, choice):
    assert Filter(text, "-m T1w=", derivatives=False).choice(read_name(path)) == choice


def test_a_filter_of_segmentations_searches_derivatives_too():
    of_labels = Filter("label-lesion_mask", "-l ", derivatives=True)
    assert of_labels.match(f"{MANUAL}label-lesion_mask.nii") and of_labels.match(f"{RAW}label-lesion_mask.nii")
    assert of_labels.match(f"{MANUAL}space-orig_label-lesion_mask.nii") is None
    assert of_labels.match(f"sourcedata/{RAW}label-lesion_mask.nii") is None
    assert of_labels.match("README.txt") is None


@pytest.mark.parametrize("text", ["{case}_T1w", "T1w.nii.gz", "desc-lesion", "sub-01_T1w", "*_T1w", "", "T1w,", "a_b"])
def test_a_filter_that_cannot_be_understood_is_refused(text):
    with pytest.raises(SettingsError, match=facts("-m T1w=", "ce-gadolinium_T1w")):
        Filter(text, "-m T1w=", derivatives=False)
