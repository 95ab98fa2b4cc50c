"""Errors with files: the user's are one line, ours keep their traceback."""

import errno
import os

import pytest

from facts import facts
from nnunet_moe import cli
from nnunet_moe.errors import FileError
from nnunet_moe.runtime.user_files import user_files


@pytest.mark.parametrize("place", ["given", "given/below", "."])
def test_a_file_that_the_user_named_or_below_it_is_the_users(tmp_path, place):
    path = tmp_path / place
    with pytest.raises(FileError, match=facts("Permission denied")) as refusal, user_files([tmp_path / "given"]):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    assert str(path) in str(refusal.value)


def test_a_full_disk_is_the_users_wherever_it_is():
    with pytest.raises(FileError, match=facts("No space left")), user_files([]):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_any_other_file_is_ours(tmp_path):
    above = IsADirectoryError(errno.EISDIR, "is a directory", str(tmp_path))  # nobody makes a folder by opening one
    gone = FileNotFoundError(errno.ENOENT, "gone", str(tmp_path / "other"))
    for error in (gone, above, OSError("without a file")):
        with pytest.raises(type(error)), user_files([tmp_path / "given"]):
            raise error


def test_the_command_reports_the_users_files_and_shows_ours(tmp_path, monkeypatch):
    def run(named):
        def fail(_):
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(named))

        monkeypatch.setattr(cli.VERBS["demo"][0], "run", fail)
        cli.main(["demo", "-o", str(tmp_path / "out")])

    with pytest.raises(SystemExit, match=facts("nnunet_moe demo: ", "out: No such file")):
        run(tmp_path / "out")
    with pytest.raises(FileNotFoundError):
        run(tmp_path / "of_ours")


@pytest.mark.parametrize("error", [ValueError("a bug"), KeyError("a bug")])
def test_a_bug_has_its_traceback(tmp_path, monkeypatch, error):
    def fail(_):
        raise error

    monkeypatch.setattr(cli.VERBS["demo"][0], "run", fail)
    with pytest.raises(type(error)):
        cli.main(["demo", "-o", str(tmp_path)])
