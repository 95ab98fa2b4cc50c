"""`nnunet_moe import`: a folder with one DICOM series is an image like a file."""

import csv
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from made_dicom import PATIENT, SHAPE, voxels, write_series

from facts import facts
from nnunet_moe.cli import main
from nnunet_moe.commands.import_dataset import new_files
from nnunet_moe.images.alignment.resampling import resampled
from nnunet_moe.images.alignment.volumes import Space
from nnunet_moe.images.dicom import read_series

PATTERNS = ("-m", "CT={case}/CT", "-m", "PET={case}/PET", "-l", "{case}/tumor.nii.gz", "-labels", "tumor=1")
FINER = (3.0, 2.4, 6.0)


def write_label(file: Path, like: Path) -> None:
    image = read_series(like).image
    labels = np.zeros(image.GetSize()[::-1], dtype=np.uint8)
    labels[1:3, 3:6, 3:6] = 1
    sitk.WriteImage(Space.of(image).image(labels), str(file))


@pytest.fixture
def clinic(tmp_path) -> Path:
    """Patients a and b with CT and PET, c with CT only; all on one grid."""
    folder = tmp_path / "clinic"
    for number, case in enumerate("abc"):
        write_series(folder / case / "CT", voxels(number), series=f"1.2.{number}.1")
        write_label(folder / case / "tumor.nii.gz", folder / case / "CT")
        if case != "c":
            write_series(
                folder / case / "PET", voxels(number + 10), series=f"1.2.{number}.2", tags={"0054|1001": "BQML"}
            )
    return folder


@pytest.fixture
def import_(clinic, tmp_path, monkeypatch):
    for kind in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{kind}", str(tmp_path / kind))

    def run(*options: str, patterns=PATTERNS):
        main(["import", "-i", str(clinic), "-d", "Dataset921_Dicom", *patterns, *options, "-np", "1", "--no_pbar"])
        return tmp_path / "raw" / "Dataset921_Dicom"

    return run


def report(folder: Path) -> dict[str, str]:
    with (folder / "import_report.csv").open() as opened:
        return {row["file"]: row["reason"] for row in csv.DictReader(opened)}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("link", [(), ("--link",)])
def test_series_become_images_with_the_voxels_and_positions_of_the_slices(import_, clinic, link):
    folder = import_(*link)
    assert names(folder / "imagesTr") == {f"{case}_000{c}.nii.gz" for case, c in ("a0", "a1", "b0", "b1", "c0")}
    for case, channel, seed in (("a", 0, 0), ("a", 1, 10), ("b", 0, 1), ("b", 1, 11), ("c", 0, 2)):
        image = sitk.ReadImage(str(folder / "imagesTr" / f"{case}_{channel:04d}.nii.gz"))
        assert np.array_equal(sitk.GetArrayFromImage(image), voxels(seed))
        expected = Space.of(read_series(clinic / case / ("CT", "PET")[channel]).image)
        np.testing.assert_allclose(Space.of(image).points(np.eye(3)), expected.points(np.eye(3)), atol=1e-4)
    description = json.loads((folder / "dataset.json").read_text())
    assert description["file_ending"] == ".nii.gz" and description["channel_names"] == {"0": "CT", "1": "PET"}


def test_nothing_of_the_patient_enters_the_dataset(import_, clinic):
    folder = import_("--align", "grid")
    parts = [part.encode() for name in PATIENT for part in re.split(r"\W", name)]
    assert any(part in next((clinic / "a" / "CT").iterdir()).read_bytes() for part in parts)
    for file in filter(Path.is_file, folder.rglob("*")):
        content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        assert not any(part in content for part in parts), file


def test_what_is_said_about_a_series_is_reported_by_its_folder(import_, clinic):
    found = report(import_())
    assert {Path(file).parent.name for file, reason in found.items() if "Bq/ml" in reason} == {"a", "b"}
    assert all(Path(file).name == "PET" for file in found)


def test_series_on_other_grids_are_aligned_and_those_of_one_frame_do_not_move(import_, clinic):
    """Both series name the same frame of reference, so a registration must not move one against the other."""
    shutil.rmtree(clinic / "a" / "PET")
    write_series(clinic / "a" / "PET", voxels(10, (3, 6, 7)), spacing=FINER, series="1.2.0.2")
    folder = import_("--align", "rigid", "--min_covered", "0")
    with (folder / "alignment.csv").open() as opened:
        rows = {(row["case"], row["modality"]): row for row in csv.DictReader(opened)}
    assert rows["a", "PET"]["alignment"] == "resampled" and rows["a", "PET"]["motion_mm"] == "0.00"
    assert rows["a", "PET"]["file"] == str(clinic / "a" / "PET")
    ct, pet = (read_series(clinic / "a" / name).image for name in ("CT", "PET"))
    placed = sitk.ReadImage(str(folder / "imagesTr" / "a_0001.nii.gz"))
    np.testing.assert_allclose(
        sitk.GetArrayFromImage(placed), sitk.GetArrayFromImage(resampled(pet, Space.of(ct))), atol=1e-3
    )


def test_a_series_that_cannot_be_read_costs_only_its_case(import_, clinic):
    sorted((clinic / "b" / "CT").iterdir())[2].unlink()
    folder = import_()
    assert names(folder / "labelsTr") == {"a.nii.gz", "c.nii.gz"}
    assert re.search(facts("b", "mm apart"), report(folder)[str(clinic / "b" / "CT")])


def test_any_error_in_a_case_costs_only_this_case(import_, clinic, monkeypatch):
    """A fault of this package is reported with its place in the code."""
    require_own_voxels = new_files.require_own_voxels

    def fails_in_b(file):
        if "b_dicom" in file:
            raise ZeroDivisionError("a fault")
        require_own_voxels(file)

    monkeypatch.setattr(new_files, "require_own_voxels", fails_in_b)
    folder = import_()
    assert names(folder / "labelsTr") == {"a.nii.gz", "c.nii.gz"}
    reason = report(folder)[str(clinic / "b" / "CT")]
    assert re.search(facts("belongs to b", "ZeroDivisionError", "a fault", "test_dicom.py"), reason)


def test_names_of_slices_that_are_not_utf8_cost_only_their_case(import_, clinic, capsys):
    slice_ = min((clinic / "b" / "CT").iterdir())
    slice_.rename(slice_.with_name(os.fsdecode(b"Sch\xe4del.dcm")))
    folder = import_()
    assert names(folder / "labelsTr") == {"a.nii.gz", "c.nii.gz"}
    assert re.search(facts("belongs to b", r"Sch\xe4del.dcm", "UTF-8"), report(folder)[str(clinic / "b" / "CT")])
    assert r"Sch\xe4del.dcm" in capsys.readouterr().out


def test_links_to_missing_slices_cost_their_case(import_, clinic):
    for number, file in enumerate(sorted((clinic / "b" / "CT").iterdir())):
        if number in (0, 4):
            file.unlink()
            file.symlink_to("../annex/absent")
    for file in (clinic / "c" / "CT").iterdir():
        file.unlink()
        file.symlink_to("../annex/absent")
    folder = import_()
    assert names(folder / "labelsTr") == {"a.nii.gz"}
    for case in "bc":
        assert re.search(facts("../annex/absent", "datalad get"), report(folder)[str(clinic / case / "CT")])


def test_a_segmentation_may_be_a_series(import_, clinic):
    labels = np.zeros(SHAPE, dtype=np.int16)
    labels[1:3, 3:6, 3:6] = 1
    for case in "abc":
        write_series(clinic / case / "SEG", labels, series=f"1.3.{case == 'a'}")
    folder = import_(patterns=(*PATTERNS[:4], "-l", "{case}/SEG"))
    label = sitk.ReadImage(str(folder / "labelsTr" / "c.nii.gz"))
    assert np.array_equal(sitk.GetArrayFromImage(label), labels)


def test_files_and_series_of_one_dataset_share_the_ending_of_the_files(import_, clinic):
    image = read_series(clinic / "c" / "CT").image
    sitk.WriteImage(Space.of(image).image(voxels(5).astype(np.float32)), str(clinic / "c" / "PET.mha"))
    patterns = ("-m", "CT={case}/CT", "-m", "PET={case}/PET.mha", "-l", "{case}/SEG", "-labels", "tumor=1")
    write_series(clinic / "c" / "SEG", (voxels() > 100).astype(np.int16), series="1.3")
    folder = import_(patterns=patterns)
    assert names(folder / "imagesTr") == {"c_0000.mha", "c_0001.mha"} and names(folder / "labelsTr") == {"c.mha"}


def test_series_that_are_not_placed_are_told_as_folders(import_, clinic):
    write_series(clinic / "a" / "scout", series="1.4")
    write_series(clinic / "b" / "Pet", series="1.5")
    write_series(clinic, series="1.6")
    found = report(import_())
    assert re.search(facts("No pattern matches"), found[str(clinic / "a" / "scout")])
    assert re.search(facts("upper and lower case", "PET"), found[str(clinic / "b" / "Pet")])
    assert str(clinic) in found and not any(file.endswith(".dcm") for file in found)


def test_a_pattern_of_slices_is_explained(import_, clinic):
    with pytest.raises(SystemExit, match=facts("match the folder", clinic / "a" / "CT")):
        import_("-ending", ".nii.gz", patterns=("-m", "CT={case}/CT/*.dcm", "-l", "{case}/tumor.nii.gz"))


def test_formats_without_positions_are_refused(import_):
    with pytest.raises(SystemExit, match=facts(".png", ".nii.gz")):
        import_("-ending", ".png")


def test_the_new_files_of_a_killed_import_are_removed_by_the_next_one(import_, tmp_path):
    (tmp_path / "raw").mkdir()
    killed = (
        "import os, sys; from pathlib import Path; from nnunet_moe.runtime.files import working_folder\n"
        "with working_folder(Path(sys.argv[1])): os._exit(1)"
    )
    assert subprocess.run([sys.executable, "-c", killed, str(tmp_path / "raw")]).returncode == 1
    assert len(names(tmp_path / "raw")) == 1
    import_()
    assert names(tmp_path / "raw") == {"Dataset921_Dicom"}
