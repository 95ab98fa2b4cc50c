"""A folder of a case has a DICOM folder or a file for each modality, and what is neither is told."""

import os
import re
from pathlib import Path

import pytest
from made_dicom import write_series

from facts import facts
from nnunet_moe.commands.predict.dicom_cases import find_dicom_cases


@pytest.fixture
def incoming(tmp_path) -> Path:
    """The case `good` with T1w as DICOM and FLAIR as a file."""
    write_series(tmp_path / "good" / "T1w")
    (tmp_path / "good" / "FLAIR.nii.gz").touch()
    return tmp_path


def found(incoming: Path):
    """Return the cases and the reasons of the failures, each by its name."""
    cases, failures = find_dicom_cases(incoming, ["FLAIR", "T1w"], None, ".nii.gz")
    return {case.name: case for case in cases}, {failure.case: failure.reason for failure in failures}


def test_files_and_series_of_a_case_can_be_mixed(incoming):
    cases, failures = found(incoming)
    case = cases["good"]
    assert case.images == (str(incoming / "good" / "FLAIR.nii.gz"), str(incoming / "good" / "T1w"))
    assert case.channels == (0, 1) and case.notes == () and failures == {}


def test_what_may_be_an_image_but_is_not_used_is_told(incoming):
    (incoming / "good" / "T2w.nii.gz").touch()
    (incoming / "good" / "report.txt").touch()
    (incoming / "lost_FLAIR.nii.gz").touch()
    (incoming / "readme.txt").touch()
    cases, failures = found(incoming)
    (note,) = cases["good"].notes
    assert re.search(facts(incoming / "good" / "T2w.nii.gz", "not used", "CASE/MODALITY"), note)
    assert failures.keys() == {"lost_FLAIR.nii.gz"}


def folder_and_file(case: Path):
    write_series(case / "FLAIR")
    return "FLAIR.nii.gz", "Remove one"


def broken_link_to_a_file(case: Path):
    (case / "FLAIR.nii.gz").symlink_to("annex/gone")
    return case / "FLAIR.nii.gz", "annex/gone", "datalad get"


def broken_link_to_a_folder(case: Path):
    (case / "FLAIR").symlink_to("annex/gone")
    return case / "FLAIR", "annex/gone", "datalad get"


def lower_case(case: Path):
    (case / "flair.nii.gz").touch()
    return "flair.nii.gz", "FLAIR", "upper and lower case"


def loose_images(case: Path):
    write_series(case)
    return case, "directly in it"


@pytest.mark.parametrize(
    "spoil", [folder_and_file, broken_link_to_a_file, broken_link_to_a_folder, lower_case, loose_images]
)
def test_a_case_that_is_not_clear_fails_by_itself(incoming, spoil):
    write_series(incoming / "bad" / "T1w")
    if spoil is folder_and_file:
        (incoming / "bad" / "FLAIR.nii.gz").touch()
    said = spoil(incoming / "bad")
    cases, failures = found(incoming)
    assert cases.keys() == {"good"} and failures.keys() == {"bad"}
    assert re.search(facts(*said), failures["bad"])


def test_folders_that_cannot_be_used_fail_by_themselves(incoming, monkeypatch):
    """The superuser, who may run this test, can open everything."""
    (incoming / "locked").mkdir()
    (incoming / "gone").symlink_to("nowhere")
    (incoming / os.fsdecode(b"Sch\xe4del")).mkdir()
    listed = Path.iterdir

    def iterdir(path):
        if path.name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    cases, failures = found(incoming)
    assert cases.keys() == {"good"} and failures.keys() == {"locked", "gone", r"Sch\xe4del"}
    assert re.search(facts(incoming / "locked", "cannot be opened", "permissions"), failures["locked"])
    assert re.search(facts(incoming / "gone", "nowhere"), failures["gone"])
    assert re.search(facts("UTF-8", "Rename"), failures[r"Sch\xe4del"])
