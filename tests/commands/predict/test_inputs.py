"""A predicted case is known again by the contents of the files from which it was predicted."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest

from facts import facts
from nnunet_moe.commands.predict.cases import find_cases, part_of
from nnunet_moe.commands.predict.inputs import Inputs, Remembered
from nnunet_moe.errors import ModelError
from nnunet_moe.runtime.file_state import FileState

DATASET_JSON = {"channel_names": {"0": "T1w", "1": "FLAIR", "2": "T2w"}, "file_ending": ".nii"}
OLD = (10**18, 10**18)
"""Times in 2001, in nanoseconds."""


def old_file(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    os.utime(path, ns=OLD)
    return str(path)


def remembered(folder: Path, *files: str) -> Inputs:
    Inputs(folder / "inputs.jsonl").add("a", Remembered({file: FileState.of(Path(file)) for file in files}, {}, False))
    inputs = Inputs(folder / "inputs.jsonl")
    inputs.read()
    return inputs


def test_files_with_other_times_are_the_same_and_other_files_with_the_same_size_and_time_are_not(tmp_path):
    first, second = old_file(tmp_path / "a_0000.nii", b"1234"), old_file(tmp_path / "a_0001.nii", b"abcd")
    inputs = remembered(tmp_path, first, second)
    assert "a" in inputs and "b" not in inputs
    assert inputs.are_same("a", [second, first])
    assert not inputs.are_same("a", [first])
    assert not inputs.are_same("a", [first, second, old_file(tmp_path / "a_0002.nii", b"1234")])
    Path(first).touch()
    assert inputs.are_same("a", [first, second])
    another = old_file(tmp_path / "other", b"1235")
    shutil.copy2(another, first)
    assert Path(first).stat().st_mtime_ns == OLD[1] and Path(first).stat().st_size == 4
    assert not inputs.are_same("a", [first, second])
    Path(first).unlink()
    assert not inputs.are_same("a", [first, second])


def test_files_of_one_name_in_several_folders_are_all_compared(tmp_path):
    """In BIDS, `derivatives/prep/.../sub-01_T1w.nii.gz` has the name of the raw image."""
    for folder in ("raw", "prep"):
        (tmp_path / folder).mkdir()
    first, second = (
        old_file(tmp_path / "raw" / "a_T1w.nii", b"1234"),
        old_file(tmp_path / "prep" / "a_T1w.nii", b"abcd"),
    )
    inputs = remembered(tmp_path, first, second)
    assert inputs.are_same("a", [first, second]) and not inputs.are_same("a", [first])
    for file, before in ((first, b"1234"), (second, b"abcd")):
        old_file(Path(file), b"5678")
        assert not inputs.are_same("a", [first, second])
        old_file(Path(file), before)
    moved = [str((tmp_path / folder).rename(tmp_path / f"new_{folder}") / "a_T1w.nii") for folder in ("raw", "prep")]
    assert inputs.are_same("a", moved)


def test_the_last_line_of_a_case_counts_and_half_a_line_of_a_killed_run_does_not(tmp_path):
    image = old_file(tmp_path / "a_0000.nii", b"1234")
    remembered(tmp_path, image)
    old_file(tmp_path / "a_0000.nii", b"5678")
    inputs = remembered(tmp_path, image)
    assert inputs.are_same("a", [image])
    content = (tmp_path / "inputs.jsonl").read_bytes()
    half = len(content) // 2
    assert content[:half].count(b"\n") == 1  # two lines of the same length
    old_file(tmp_path / "a_0000.nii", b"1234")
    for size in range(half, len(content)):
        (tmp_path / "inputs.jsonl").write_bytes(content[:size])
        killed = Inputs(tmp_path / "inputs.jsonl")
        killed.read()
        assert killed.are_same("a", [image]), size
    inputs.write(["a", "b"])
    assert (tmp_path / "inputs.jsonl").read_bytes() == content[half:]
    inputs.write([])
    assert (tmp_path / "inputs.jsonl").read_bytes() == b"" and "a" not in inputs


def test_a_run_that_continues_after_half_a_line_leaves_only_whole_lines(tmp_path):
    image = old_file(tmp_path / "a_0000.nii", b"1234")
    file = tmp_path / "inputs.jsonl"
    remembered(tmp_path, image)
    line = file.read_bytes()
    for before in (b"", line, line * 2):
        for size in (0, 1, len(line) // 2, len(line) - 1):
            file.write_bytes(before + line[:size])
            continued = remembered(tmp_path, image)
            continued.add("a", Remembered({}, {}, False))
            assert file.read_bytes()[: len(before + line)] == before + line, size
            assert len(file.read_bytes().splitlines()) == before.count(b"\n") + 2


def test_outputs_are_known_again_in_another_folder_and_no_other_content_counts(tmp_path):
    image, written = old_file(tmp_path / "a_0000.nii", b"1234"), [tmp_path / "a.nii", tmp_path / "a.npz"]
    for file in written:
        file.write_bytes(b"56")
    known = {file.name: FileState.of(file) for file in written}
    Inputs(tmp_path / "inputs.jsonl").add("a", Remembered({image: FileState.of(Path(image))}, known, False))
    shutil.copytree(tmp_path, tmp_path / "copy")
    inputs = Inputs(tmp_path / "copy" / "inputs.jsonl")
    inputs.read()
    inputs.write(["a"])
    assert (tmp_path / "copy" / "inputs.jsonl").read_bytes() == (tmp_path / "inputs.jsonl").read_bytes()
    copies = [tmp_path / "copy" / file.name for file in written]
    assert inputs.has_written("a", copies) and inputs.has_written("a", copies[:1])
    old_file(copies[1], b"57")
    assert inputs.has_written("a", copies[:1]) and not inputs.has_written("a", copies)
    old_file(copies[0], b"")
    assert not inputs.has_written("a", copies[:1])
    assert not inputs.has_written("a", [tmp_path / "copy" / "a_0000.nii"])  # not an output


def test_outputs_that_were_not_remembered_count_as_written(tmp_path):
    image, output = old_file(tmp_path / "a_0000.nii", b"1234"), tmp_path / "a.nii"
    file = tmp_path / "inputs.jsonl"
    remembered(tmp_path, image)
    content = json.loads(file.read_text())
    del content["outputs"], content["has_copies"]  # as an earlier version wrote it
    file.write_text(f"{json.dumps(content)}\n")
    inputs = Inputs(file)
    inputs.read()
    inputs.write(["a"])
    assert json.loads(file.read_text()) == content and inputs.are_same("a", [image])
    assert inputs.has_copies("a") is inputs.has_copies("unknown") is None
    output.write_bytes(b"5")
    assert inputs.has_written("a", [output]) and inputs.has_written("unknown", [output])


@pytest.mark.parametrize("line", ["nonsense", "[]", '{"case": "a"}', '{"case": "a", "files": {"x": {"size": 1}}}'])
def test_a_file_of_another_program_is_refused(tmp_path, line):
    (tmp_path / "inputs.jsonl").write_text(f"{line}\n")
    with pytest.raises(ModelError, match=facts("inputs.jsonl", "another folder", "--continue_prediction")):
        Inputs(tmp_path / "inputs.jsonl").read()


def test_the_spacing_next_to_tiff_images_is_a_file_of_the_case(tmp_path):
    (tmp_path / "lowres").mkdir()
    for name in ("a_0000.tif", "a_0001.tif", "b_0000.tif", "a.json", "b_0000.json", "lowres/a.json"):
        (tmp_path / name).touch()
    a, b = find_cases(tmp_path, {**DATASET_JSON, "file_ending": ".tif"}, tmp_path / "lowres")[0]
    images = [str(tmp_path / f"a_000{channel}.tif") for channel in (0, 1)]
    spacings = [str(tmp_path / "a.json"), str(tmp_path / "lowres" / "a.json")]
    assert a.read == [*images, str(tmp_path / "lowres" / "a.tif"), *spacings]
    assert b.read == [str(tmp_path / "b_0000.tif"), str(tmp_path / "lowres" / "b.tif")]


def test_the_same_files_in_another_folder_are_the_same_and_their_new_paths_are_remembered(tmp_path):
    names = ("a_0000.tif", "a_0001.tif", "a.json", "lowres/a.tif", "lowres/a.json")
    (tmp_path / "in" / "lowres").mkdir(parents=True)
    files = [old_file(tmp_path / "in" / name, name.encode()) for name in names]
    inputs = remembered(tmp_path, *files)
    (tmp_path / "in").rename(tmp_path / "moved")
    moved = [str(tmp_path / "moved" / name) for name in names]
    assert inputs.are_same("a", moved) and not inputs.are_same("a", moved[1:]) and not inputs.are_same("a", files)
    here, there = str(tmp_path / "in"), str(tmp_path / "moved")
    assert inputs.move("a", moved) == {here: there, f"{here}/lowres": f"{there}/lowres"}
    assert inputs.move("a", moved) == {}
    inputs.write(["a"])
    assert json.loads((tmp_path / "inputs.jsonl").read_text())["files"].keys() == set(moved)
    old_file(tmp_path / "moved" / "a_0000.tif", b"A_0000.tif")
    assert not inputs.are_same("a", moved)
    old_file(tmp_path / "moved" / "a_0000.tif", b"a_0000.tif")
    old_file(tmp_path / "moved" / "a.json", b"lowres/a.json")
    old_file(tmp_path / "moved" / "lowres" / "a.json", b"a.json")
    assert not inputs.are_same("a", moved)  # each has the contents of the other


@pytest.mark.parametrize(
    ("names", "cases", "failed"),
    [
        (
            ("Pat_0001_0000.nii", "Pat_0002.nii", "Pat_0003_0001.nii"),
            ["Pat_0001", "Pat_0003"],
            {"Pat": ("Pat_0002.nii", "channel 2", "the case Pat_0002 without", "Pat_0001", "Pat_0002_0000.nii")},
        ),
        (
            ("pat1_0000.nii", "Pat1_0001.nii", "pat10_0001.nii", "PAT1_0000.nii"),
            ["pat10"],
            dict.fromkeys(("PAT1", "Pat1", "pat1"), ("PAT1 and Pat1 and pat1", "upper and lower case", "same name")),
        ),
        (
            ("Pat_2.nii", "Pat-001.nii", "Pat_T1w.nii", "Pat_00002.nii", "Pat_0000.NII"),
            ["Pat"],
            {
                "Pat_2.nii": (
                    "no channel",
                    "0000 (T1w), 0001 (FLAIR), 0002 (T2w)",
                    "If 2 is",
                    "Pat_0002.nii",
                    "Pat_2 is",
                ),
                "Pat-001.nii": ("no channel", "If 001 is the channel", "Pat_0001.nii", "If Pat-001 is the case"),
                "Pat_T1w.nii": ("no channel", "0000 (T1w)", "If Pat_T1w is the case"),
                "Pat_00002.nii": ("no channel", "If Pat_00002 is the case"),
            },
        ),
    ],
)
def test_names_that_look_like_those_of_a_case_or_a_channel_are_failures_with_the_remedy(tmp_path, names, cases, failed):
    for name in names:
        (tmp_path / name).touch()
    for part in range(2):
        found, failures = part_of(*find_cases(tmp_path, DATASET_JSON, None), num_parts=2, part_id=part)
        assert [case.name for case in found] == cases[part::2]
        assert {failure.case for failure in failures} == (failed.keys() if part == 0 else set())
        for failure in failures:
            assert re.search(facts(*failed[failure.case]), failure.reason), failure.reason
            assert all(Path(file).exists() for file in failure.files)
