"""`nnunet_moe import --align`: each case comes onto one grid, its segmentation with it, and the dataset says so."""

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from made_grids import BESIDE, COARSE, FINE, HALF, write_image

from facts import facts
from nnunet_moe.cli import main
from nnunet_moe.images.alignment.resampling import resampled, resampled_labels
from nnunet_moe.images.alignment.volumes import Space

PATTERNS = ("-m", "CT={case}_ct.nii.gz", "-m", "PET={case}_pet.nii.gz", "-l", "{case}_seg.nii.gz", "-labels", "tumor=1")


@pytest.fixture
def source(tmp_path) -> Path:
    """Three patients: both images on one grid; PET and the segmentation on larger voxels; PET elsewhere."""
    folder = tmp_path / "clinic"
    for case, pet, label in (("a", FINE, FINE), ("b", COARSE, COARSE), ("c", BESIDE, FINE)):
        write_image(folder / f"{case}_ct.nii.gz", FINE, 1)
        write_image(folder / f"{case}_pet.nii.gz", pet, 2)
        tumor = np.zeros(label.size[::-1], dtype=np.uint8)
        tumor[3:6, 4:7, 4:8] = 1
        sitk.WriteImage(label.image(tumor), str(folder / f"{case}_seg.nii.gz"))
    return folder


@pytest.fixture
def import_(source, tmp_path, monkeypatch):
    for kind in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{kind}", str(tmp_path / kind))

    def run(*options):
        main(["import", "-i", str(source), "-d", "Dataset920_Aligned", *PATTERNS, *options, "-np", "1", "--no_pbar"])
        return tmp_path / "raw" / "Dataset920_Aligned"

    return run


def read(file: Path) -> tuple[np.ndarray, Space]:
    image = sitk.ReadImage(str(file))
    return sitk.GetArrayFromImage(image), Space.of(image)


def table(file: Path) -> list[dict[str, str]]:
    with file.open() as opened:
        return list(csv.DictReader(opened))


def test_placeholders_may_be_left_out_of_aligned_cases(source, import_):
    write_image(source / "b_pet.nii.gz", COARSE, value=0.0)
    folder = import_("--align", "grid", "--filled_as_absent")
    assert sorted(path.name for path in (folder / "imagesTr").iterdir()) == [
        "a_0000.nii.gz",
        "a_0001.nii.gz",
        "b_0000.nii.gz",
    ]
    assert {(row["case"], row["modality"]) for row in table(folder / "alignment.csv")} == {
        ("a", "CT"),
        ("a", "PET"),
        ("b", "CT"),
        ("a", "segmentation"),
        ("b", "segmentation"),
    }


@pytest.mark.parametrize("link", [(), ("--link",)])
def test_each_case_is_written_on_one_grid_and_originals_stay(source, import_, link, capsys):
    before = {file: file.read_bytes() for file in source.iterdir()}
    folder = import_("--align", "grid", *link)
    assert {file: file.read_bytes() for file in source.iterdir()} == before
    assert sorted(file.name for file in (folder / "imagesTr").iterdir()) == [
        f"{case}_{channel:04d}.nii.gz" for case in "ab" for channel in (0, 1)
    ]
    for channel, name in enumerate(("ct", "pet")):
        placed = folder / "imagesTr" / f"a_{channel:04d}.nii.gz"
        assert placed.read_bytes() == before[source / f"a_{name}.nii.gz"] and placed.is_symlink() == bool(link)
    pet, space = read(folder / "imagesTr" / "b_0001.nii.gz")
    original = sitk.ReadImage(str(source / "b_pet.nii.gz"), sitk.sitkFloat32)
    assert space == FINE and np.array_equal(pet, sitk.GetArrayFromImage(resampled(original, FINE)))
    assert not (folder / "imagesTr" / "b_0001.nii.gz").is_symlink()
    label, space = read(folder / "labelsTr" / "b.nii.gz")
    drawn, of_drawn = read(source / "b_seg.nii.gz")
    assert space == FINE and np.array_equal(label, resampled_labels(drawn, of_drawn, FINE)) and label.any()
    assert json.loads((folder / "dataset.json").read_text())["alignment"] == {
        "align": "grid",
        "reference": None,
        "min_covered": 0.5,
    }
    rows = table(folder / "alignment.csv")
    assert [(row["case"], row["modality"], row["alignment"]) for row in rows] == [
        ("a", "CT", "reference"),
        ("a", "PET", "unchanged"),
        ("a", "segmentation", "unchanged"),
        ("b", "CT", "reference"),
        ("b", "PET", "resampled"),
        ("b", "segmentation", "resampled"),
    ]
    assert rows[4]["file"] == str(source / "b_pet.nii.gz")
    assert rows[2]["kept_labels"] == "1=1.0000"
    assert rows[5]["kept_labels"] == f"1={label.sum() / (drawn.sum() * 12):.4f}" and rows[4]["kept_labels"] == ""
    refused = {Path(row["file"]).name: row["reason"] for row in table(folder / "import_report.csv")}
    assert refused.keys() == {"c_ct.nii.gz", "c_pet.nii.gz", "c_seg.nii.gz"}
    assert re.search(facts("c_pet.nii.gz", "0%", "--min_covered"), refused["c_pet.nii.gz"])
    assert "1 resampled" in capsys.readouterr().out
    assert [path.name for path in folder.parent.iterdir()] == ["Dataset920_Aligned"]  # nothing is left behind


def test_the_reference_can_be_chosen_and_is_written_to_the_dataset(import_):
    folder = import_("--align", "grid", "--reference", "PET", "--min_covered", "0")
    assert {read(file)[1] for file in (folder / "imagesTr").glob("b_*")} == {COARSE}
    assert read(folder / "labelsTr" / "b.nii.gz")[1] == COARSE
    assert json.loads((folder / "dataset.json").read_text())["alignment"] == {
        "align": "grid",
        "reference": "PET",
        "min_covered": 0.0,
    }


def test_without_align_a_case_on_two_grids_is_not_placed(source, import_):
    write_image(source / "c_pet.nii.gz", HALF, 2)
    folder = import_()
    assert "alignment" not in json.loads((folder / "dataset.json").read_text())
    assert not (folder / "alignment.csv").exists()
    refused = {Path(row["file"]).name: row["reason"] for row in table(folder / "import_report.csv")}
    assert {"b_pet.nii.gz", "c_pet.nii.gz"} <= refused.keys() and "--align" in refused["c_pet.nii.gz"]


def test_options_that_do_not_fit_are_refused(import_, tmp_path):
    with pytest.raises(SystemExit, match="--reference T1w"):
        import_("--align", "grid", "--reference", "T1w")
    with pytest.raises(SystemExit, match="only with --align"):
        import_("--min_covered", "0.3")
    assert not (tmp_path / "raw" / "Dataset920_Aligned").exists()


def test_notes_on_the_alignment_are_printed(source, import_, capsys):
    write_image(source / "b_pet.nii.gz", HALF, 2)
    shutil.copyfile(source / "a_seg.nii.gz", source / "b_seg.nii.gz")
    folder = import_("--align", "grid")
    (note,) = [row["notes"] for row in table(folder / "alignment.csv") if row["notes"]]
    assert re.search(facts("b_pet.nii.gz", "covers", "b_ct.nii.gz"), note)
    assert f"b: {note}" in capsys.readouterr().out
