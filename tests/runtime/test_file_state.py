"""A state knows a file again by its contents, whatever its times are."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest

from nnunet_moe.errors import FileError
from nnunet_moe.runtime import file_state
from nnunet_moe.runtime.file_state import FileState

LONG_AGO = (1_500_000_000_000_000_000, 1_500_000_000_000_000_000)


@pytest.fixture
def file(tmp_path: Path, monkeypatch) -> Path:
    """Make a file that counts as old, though it has just been made."""
    monkeypatch.setattr(file_state, "_RECENT_NS", -1_000_000_000_000)
    made = tmp_path / "p01_0000.nii"
    made.write_bytes(b"T1w of Ann")
    return made


def test_a_state_holds_size_times_and_sha256(file):
    os.utime(file, ns=LONG_AGO)
    found = file.stat()
    assert FileState.of(file) == FileState(
        10, LONG_AGO[1], found.st_ctime_ns, hashlib.sha256(b"T1w of Ann").hexdigest()
    )


def test_a_file_that_nobody_touched_is_the_same_without_being_read(file, monkeypatch):
    state = FileState.of(file)
    monkeypatch.setattr(file_state, "digest", pytest.fail)
    assert state.is_of(file)


def test_a_copy_or_a_touched_file_is_the_same(file):
    state = FileState.of(file)
    os.utime(file, ns=LONG_AGO)
    assert state.is_of(file)
    assert state.is_of(Path(shutil.copyfile(file, file.with_name("copy.nii"))))


@pytest.mark.parametrize("content", [b"T1w of Bob", b"T1w of Robert", b""])
def test_a_replaced_file_is_another_one_even_with_an_older_or_the_same_time(file, content):
    os.utime(file, ns=LONG_AGO)
    state = FileState.of(file)
    for modified in (LONG_AGO, (LONG_AGO[0], LONG_AGO[1] - 10**9)):
        other = file.with_name("other.nii")
        other.touch()
        while other.stat().st_ctime_ns <= file.stat().st_ctime_ns:  # the clock of the file system ticks slowly
            other.touch()
        other.write_bytes(content)
        os.utime(other, ns=modified)
        os.replace(other, file)
        assert not state.is_of(file)


def test_times_of_a_file_that_was_made_just_now_are_not_relied_on(tmp_path):
    file = tmp_path / "new.nii"
    file.write_bytes(b"T1w of Ann")
    state = FileState.of(file)
    assert (state.mtime_ns, state.ctime_ns) == (0, 0)
    assert state.is_of(file)
    file.write_bytes(b"T1w of Bob")
    assert not state.is_of(file)


def test_a_link_has_the_state_of_its_target(file):
    link = file.with_name("link.nii")
    link.symlink_to(file)
    state = FileState.of(link)
    other = file.with_name("other.nii")
    other.write_bytes(b"T1w of Bob")
    link.unlink()
    link.symlink_to(other)
    assert state == FileState.of(file)
    assert not state.is_of(link)


def test_a_removed_file_is_another_one(file):
    state = FileState.of(file)
    file.unlink()
    assert not state.is_of(file)
    file.parent.joinpath("folder").touch()  # a file in place of the folder
    assert not state.is_of(file.parent / "folder" / file.name)


def test_a_state_survives_json(file):
    state = FileState.of(file)
    assert FileState.from_json(json.loads(json.dumps(state.as_json())), file) == state


@pytest.mark.parametrize(
    "content", [None, [], {}, {"size": 1}, {"size": "1", "mtime_ns": 0, "ctime_ns": 0, "sha256": ""}]
)
def test_other_json_is_refused_with_the_name_of_its_file(content):
    with pytest.raises(FileError, match=r"files\.json holds .* where the state of a file is expected"):
        FileState.from_json(content, Path("files.json"))


@pytest.fixture
def folder(file: Path) -> Path:
    """The folder of a DICOM series with two slices and a hidden file."""
    made = file.parent / "CT"
    made.mkdir()
    for name, content in (("2.dcm", b"two"), ("1.dcm", b"one"), (".DS_Store", b"hidden")):
        (made / name).write_bytes(content)
    return made


def test_a_folder_has_the_sizes_and_the_latest_times_of_its_visible_files(folder, monkeypatch):
    times = [(folder / name).stat() for name in ("1.dcm", "2.dcm")]
    state = FileState.of(folder)
    assert state.size == 6
    assert state.mtime_ns == max(time.st_mtime_ns for time in times)
    (folder / ".DS_Store").write_bytes(b"more")
    shutil.copytree(folder, folder.with_name("copy"))
    assert state.is_of(folder) and state.is_of(folder.with_name("copy"))
    monkeypatch.setattr(file_state, "digest", pytest.fail)
    assert state.is_of(folder)


@pytest.mark.parametrize("name", ["1.dcm", "2.dcm"])
@pytest.mark.parametrize("change", ["content", "name", "removed", "added"])
def test_any_change_of_a_visible_file_makes_another_folder(folder, name, change):
    state, changed = FileState.of(folder), folder / name
    if change == "content":
        changed.write_bytes(b"new")
    elif change == "name":
        changed.rename(folder / "3.dcm")
    elif change == "removed":
        changed.unlink()
    else:
        (folder / f"0{name}").touch()
    for file in folder.iterdir():
        os.utime(file, ns=LONG_AGO)
    assert not state.is_of(folder)


def test_a_folder_with_two_files_that_changed_places_is_another_one(folder):
    state = FileState.of(folder)
    (folder / "1.dcm").write_bytes(b"two")
    (folder / "2.dcm").write_bytes(b"one")
    assert not state.is_of(folder)
    shutil.rmtree(folder)
    assert not state.is_of(folder)
