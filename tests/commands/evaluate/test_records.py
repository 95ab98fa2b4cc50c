"""The contents of the files of a case decide whether its scores are kept."""

import os
from pathlib import Path

from nnunet_moe.commands.evaluate.records import content_of, key_of


def write(file: Path, content: bytes, seconds: int = 10**9) -> str:
    file.write_bytes(content)
    os.utime(file, (seconds, seconds))
    return str(file)


def test_another_file_with_the_same_size_and_time_has_another_key_and_a_copy_of_the_same_file_has_not(tmp_path):
    file = tmp_path / "a_0000.nii"
    first = key_of(content_of(write(file, b"1234")))
    assert key_of(content_of(write(file, b"1235"))) != first
    assert key_of(content_of(write(file, b"1234", seconds=10**8))) == first
    assert content_of(str(file)) == "03ac674216f3e15c761ee1a5e255f067953623c8b388b4459e13f978d7c846f4"  # of 1234


def test_a_file_that_cannot_be_read_has_no_content(tmp_path):
    assert content_of(str(tmp_path / "missing.nii")) is None
    assert content_of(str(tmp_path)) is None
