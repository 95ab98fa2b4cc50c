"""A fingerprint belongs to the contents of the files, whatever their names and times are."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile

from facts import facts
from incomplete import describe, extract_fingerprint, write
from nnunet_moe.commands.plan_and_preprocess.fingerprint import IncompleteDatasetFingerprintExtractor
from nnunet_moe.errors import FileError, ModalityError

NAME = "Dataset915_Changing"
SHAPE = (8, 8, 8)


def image(value: float) -> np.ndarray:
    array = np.zeros(SHAPE, dtype=np.float32)
    array[2:6, 2:6, 2:6] = value
    return array


@pytest.fixture
def raw(tmp_path, monkeypatch) -> Path:
    """Two cases with two modalities; the second one is a file of zeros in both."""
    for kind in ("raw", "preprocessed", "results"):
        (tmp_path / kind).mkdir()
        monkeypatch.setenv(f"nnUNet_{kind}", str(tmp_path / kind))
    folder = tmp_path / "raw" / NAME
    for case in ("a", "b"):
        write(folder / "imagesTr" / f"{case}_0000.nii.gz", image(100))
        write(folder / "imagesTr" / f"{case}_0001.nii.gz", image(0))
        write(folder / "labelsTr" / f"{case}.nii.gz", image(1).astype(np.uint8))
    describe(folder, ("MRI", "CT"), 2)
    return folder


def run_again() -> IncompleteDatasetFingerprintExtractor:
    extractor = IncompleteDatasetFingerprintExtractor(915, num_processes=1)
    extractor.run()
    return extractor


def test_files_repaired_under_the_same_names_are_noticed(raw):
    assert extract_fingerprint(915).availability.codes == {"a": (True, False), "b": (True, False)}
    assert run_again().notes == ()
    write(raw / "imagesTr" / "b_0001.nii.gz", image(40))
    with pytest.raises(ModalityError, match=facts("other contents", "b_0001.nii.gz", "--clean")):
        run_again()
    assert extract_fingerprint(915).availability.codes == {"a": (True, False), "b": (True, True)}
    assert run_again().notes == ()


@pytest.mark.parametrize("file", ["imagesTr/a_0000.nii.gz", "labelsTr/b.nii.gz"])
def test_an_older_file_of_the_same_size_is_noticed(raw, file):
    extract_fingerprint(915)
    content = bytearray((raw / file).read_bytes())
    content[4] ^= 1  # the time in the gzip header, so that all else is the same
    (raw / file).write_bytes(content)
    os.utime(raw / file, (10**9, 10**9))
    with pytest.raises(ModalityError, match=facts("other contents", Path(file).name)):
        run_again()


def test_touched_copied_and_moved_files_are_the_same(raw):
    extract_fingerprint(915)
    for file in raw.glob("*Tr/*"):
        os.utime(file, (10**9, 10**9))
    run_again()
    moved = raw.parent.with_name("moved")
    shutil.copytree(raw.parent, moved)
    shutil.rmtree(raw.parent)
    moved.rename(raw.parent)
    assert run_again().notes == ()


def test_a_fingerprint_of_an_earlier_version_is_used_with_a_warning(raw, tmp_path):
    extract_fingerprint(915)
    fingerprint = tmp_path / "preprocessed" / NAME / "dataset_fingerprint.json"
    fingerprint.with_name("fingerprint_files.json").unlink()
    for file in raw.glob("*Tr/*"):
        os.utime(file, (10**9, 10**9))
    (warning,) = run_again().notes
    assert warning.startswith("An earlier version computed ") and "--clean" in warning
    os.utime(raw / "imagesTr" / "b_0001.nii.gz", (2 * 10**9, 2 * 10**9))
    (warning,) = run_again().notes
    assert warning.startswith(f"{raw / 'imagesTr' / 'b_0001.nii.gz'}: newer than ")


def test_damaged_records_and_other_readers_are_named(raw, tmp_path):
    extract_fingerprint(915)
    record = tmp_path / "preprocessed" / NAME / "fingerprint_files.json"
    content = json.loads(record.read_text())
    assert content["reader"] == "SimpleITKIO" and len(content["files"]) == 6
    record.write_text(json.dumps(content | {"reader": "NibabelIO"}))
    with pytest.raises(ModalityError, match=facts("NibabelIO", "SimpleITKIO", "--clean")):
        run_again()
    record.write_text(json.dumps(content | {"files": {"imagesTr/a_0000.nii.gz": 3}}))
    with pytest.raises(FileError, match=facts("fingerprint_files.json", "damaged", "--clean")):
        run_again()


def test_spacing_files_of_tiffs_count(raw):
    for file in list(raw.glob("*Tr/*")):
        stem = file.name.removesuffix(".nii.gz")
        tifffile.imwrite(file.with_name(f"{stem}.tif"), image(50) if "_" in stem else image(1).astype(np.uint8))
        file.unlink()
    description = json.loads((raw / "dataset.json").read_text()) | {"file_ending": ".tif"}
    (raw / "dataset.json").write_text(json.dumps(description))
    extract_fingerprint(915)
    run_again()
    (raw / "imagesTr" / "a.json").write_text(json.dumps({"spacing": [4.0, 0.5, 0.5]}))
    with pytest.raises(ModalityError, match=facts("other contents", "a.json")):
        run_again()
