"""Files and folders that are written whole or not at all, by one writer or several."""

import os
import shutil
import subprocess
import threading

import pytest

from facts import facts
from nnunet_moe.errors import SettingsError
from nnunet_moe.runtime.files import atomic_folder, atomic_write, remove_leftovers, working_folder


def test_a_file_appears_when_it_is_whole(tmp_path):
    file = tmp_path / "scores.nii.gz"
    with atomic_write(file) as unfinished:
        unfinished.write_text("part")
        assert unfinished.parent == tmp_path and unfinished.name.startswith(".")
        assert unfinished.name.endswith("_scores.nii.gz"), "writers choose the format by the ending"
        assert not file.exists()
    assert file.read_text() == "part" and list(tmp_path.iterdir()) == [file]


def test_an_error_leaves_the_file_of_before_and_nothing_else(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("before")
    with pytest.raises(ZeroDivisionError), atomic_write(file) as unfinished:
        unfinished.write_text("part")
        raise ZeroDivisionError
    with pytest.raises(FileNotFoundError), atomic_write(file):
        pass  # which wrote nothing
    assert file.read_text() == "before" and list(tmp_path.iterdir()) == [file]


def test_of_two_writers_at_once_each_writes_a_whole_file_and_the_last_one_stays(tmp_path):
    file = tmp_path / "a.txt"
    with atomic_write(file) as first:
        first.write_text("first")
        with atomic_write(file) as second:
            assert second != first
            second.write_text("second")
            assert first.read_text() == "first"
        assert file.read_text() == "second"
    assert file.read_text() == "first" and list(tmp_path.iterdir()) == [file]


def test_many_writers_of_a_file_in_threads_never_mix(tmp_path):
    file, errors = tmp_path / "a.txt", []
    texts = [str(number) * 10_000 for number in range(4)]

    def write(text):
        try:
            for _ in range(50):
                with atomic_write(file) as unfinished:
                    unfinished.write_text(text)
                assert file.read_text() in texts
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors and list(tmp_path.iterdir()) == [file]


def test_what_a_killed_writer_left_is_removed_and_what_is_being_written_stays(tmp_path):
    with subprocess.Popen(["bash", "-c", "true"]) as process:
        process.wait()
    file = tmp_path / "a.txt"
    with atomic_write(file) as unfinished:
        unfinished.write_text("whole")
        killed = unfinished.with_name(unfinished.name.replace(f"_{os.getpid()}_", f"_{process.pid}_"))
        of_another_machine = killed.with_name(killed.name.replace(".unfinished_", ".unfinished_x"))
        for path in (killed, of_another_machine):
            path.write_text("part")
        with working_folder(tmp_path) as arrays:
            (arrays / "a.npy").write_text("array")
            arrays_of_killed = arrays.with_name(arrays.name.replace(f"_{os.getpid()}_", f"_{process.pid}_"))
            shutil.copytree(arrays, arrays_of_killed)
            remove_leftovers(tmp_path)
            assert (arrays / "a.npy").exists() and not arrays_of_killed.exists()
    assert set(tmp_path.iterdir()) == {file, of_another_machine} and file.read_text() == "whole"


def test_a_folder_is_filled_by_one_writer_at_a_time(tmp_path):
    folder = tmp_path / "out"
    with atomic_folder(folder) as unfinished:
        (unfinished / "a").write_text("a")
        with pytest.raises(SettingsError, match=facts(".unfinished")), atomic_folder(folder):
            pass
        assert list(folder.iterdir()) == [unfinished]
    assert [path.name for path in folder.iterdir()] == ["a"]
    with pytest.raises(SettingsError, match=facts("out")), atomic_folder(folder):
        pass
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "new" / "nested") as unfinished:
        (unfinished / "a").write_text("a")
        raise ZeroDivisionError
    assert not (tmp_path / "new").exists()
