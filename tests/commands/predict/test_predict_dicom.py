"""`nnunet_moe predict --dicom`: a folder with one series for each modality is a case like its files."""

import csv
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from made_dicom import PATIENT, write_series

from facts import facts
from nnunet_moe.cli import main

pytestmark = pytest.mark.slow
NAMES = ("T1w", "T2w", "FLAIR")
MODEL = ("-d", 901, "-c", "3d_tiny", "-tr", "nnUNetTrainerMoESD", "-f", 0, "-device", "cpu", "--disable_progress_bar")


def predict(images: Path, out: Path, *more: object) -> None:
    options = ("-i", images, "-o", out, *MODEL, "-npp", 0, "-nps", 0, "--disable_tta", *more)
    main(["predict", *map(str, options)])


def rows(file: Path) -> dict[str, dict[str, str]]:
    with file.open() as opened:
        return {row["case"]: row for row in csv.DictReader(opened)}


@pytest.fixture(scope="module")
def hospital(trained, subsets, tmp_path_factory) -> tuple[Path, Path]:
    """The same two cases as DICOM and as NIfTI: `full` has all modalities, `some` T1w and FLAIR."""
    name, root = f"{subsets.cases[0]}_111", tmp_path_factory.mktemp("hospital")
    (root / "nifti").mkdir()
    for channel, modality in enumerate(NAMES):
        image = sitk.ReadImage(str(subsets.predictions.parent / "incoming" / f"{name}_{channel:04d}.nii.gz"))
        array = np.round(sitk.GetArrayFromImage(image) * 100).astype(np.int16)
        spacing, origin = image.GetSpacing(), (3.0, -4.0, 5.0)
        stored = sitk.GetImageFromArray(array.astype(np.float32))
        stored.SetSpacing(spacing)
        stored.SetOrigin(origin)
        for case in ("full", "some"):
            if case == "full" or modality != "T2w":
                write_series(
                    root / "dicom" / case / modality, array, spacing=spacing, origin=origin, series=f"1.2.{channel}"
                )
                sitk.WriteImage(stored, str(root / "nifti" / f"{case}_{channel:04d}.nii.gz"))
    return root / "dicom", root / "nifti"


@pytest.fixture
def dicom(hospital, tmp_path) -> Path:
    return Path(shutil.copytree(hospital[0], tmp_path / "dicom"))


def test_a_series_is_predicted_like_its_volume(hospital, tmp_path):
    dicom, nifti = hospital
    predict(dicom, tmp_path / "dicom", "--dicom")
    predict(nifti, tmp_path / "nifti")
    for case, modalities in (("full", "T1w+T2w+FLAIR"), ("some", "T1w+FLAIR")):
        found, expected = (sitk.ReadImage(str(tmp_path / kind / f"{case}.nii.gz")) for kind in ("dicom", "nifti"))
        assert np.array_equal(sitk.GetArrayFromImage(found), sitk.GetArrayFromImage(expected))
        np.testing.assert_allclose(found.GetOrigin(), expected.GetOrigin(), atol=1e-4)
        row = rows(tmp_path / "dicom" / "manifest.csv")[case]
        assert row["modalities"] == modalities and row["notes"] == ""
        assert row["file_FLAIR"] == str(dicom / case / "FLAIR")
    for file in filter(Path.is_file, (tmp_path / "dicom").rglob("*")):
        assert not any(part.encode() in file.read_bytes() for name in PATIENT for part in re.split(r"\W", name))


def test_a_resumed_run_keeps_series_that_are_the_same_wherever_they_lie(dicom, tmp_path):
    out = tmp_path / "out"
    predict(dicom, out, "--dicom")
    written = {case: (out / f"{case}.nii.gz").stat().st_mtime_ns for case in ("full", "some")}
    moved = dicom.rename(tmp_path / "elsewhere")
    slice_, *_ = sorted((moved / "some" / "T1w").iterdir())
    shutil.copyfile(sorted((moved / "some" / "FLAIR").iterdir())[0], slice_)
    (moved / "full" / "T1w" / ".DS_Store").touch()
    with pytest.raises(SystemExit, match="Not predicted"):
        predict(moved, out, "--dicom", "--continue_prediction")
    assert (out / "full.nii.gz").stat().st_mtime_ns == written["full"] and not (out / "some.nii.gz").exists()
    assert rows(out / "manifest.csv")["full"]["file_T1w"] == str(moved / "full" / "T1w")
    assert re.search(facts("some", "several DICOM series"), rows(out / "failures.csv")["some"]["reason"])


def test_series_on_other_grids_are_aligned(dicom, tmp_path):
    first = sitk.ReadImage(str(next((dicom / "full" / "T2w").iterdir())))
    array = np.arange(4 * 8 * 8, dtype=np.int16).reshape(4, 8, 8)
    shutil.rmtree(dicom / "full" / "T2w")
    wide = tuple(2 * size for size in first.GetSpacing())
    write_series(dicom / "full" / "T2w", array, spacing=wide, origin=(3.0, -4.0, 5.0), series="1.2.1")
    with pytest.raises(SystemExit, match="Not predicted"):
        predict(dicom, tmp_path / "off", "--dicom")
    reason = rows(tmp_path / "off" / "failures.csv")["full"]["reason"]
    assert re.search(facts("--align", dicom / "full" / "T2w"), reason) and "/tmp/tmp" not in reason
    predict(dicom, tmp_path / "out", "--dicom", "--align", "grid", "--min_covered", 0)
    row = rows(tmp_path / "out" / "manifest.csv")["full"]
    assert row["alignment_T2w"] == "resampled" and row["alignment_T1w"] == "reference"
    assert str(dicom / "full" / "T2w") in row["notes"] and "/tmp/tmp" not in row["notes"]


def test_what_is_no_case_is_a_failure_with_the_remedy_and_costs_no_other_case(dicom, tmp_path):
    write_series(dicom / "flat")
    write_series(dicom / "lower" / "t1w")
    write_series(dicom / "other" / "scout")
    write_series(dicom / "some" / "scout")
    (dicom / "hollow" / "T1w").mkdir(parents=True)
    next((dicom / "flat").iterdir()).rename(dicom / "loose.dcm")
    (dicom / "readme.txt").touch()
    with pytest.raises(SystemExit, match="Not predicted"):
        predict(dicom, tmp_path / "out", "--dicom")
    failures = rows(tmp_path / "out" / "failures.csv")
    wanted = {
        "flat": ("directly in it", "CASE/MODALITY", "T1w, T2w, FLAIR"),
        "lower": ("t1w", "T1w", "upper and lower case"),
        "other": ("no folder or file of a modality", "T1w, T2w, FLAIR"),
        "hollow": (dicom / "hollow" / "T1w", "no DICOM images"),
        "loose.dcm": ("in no case", "CASE/MODALITY"),
    }
    assert failures.keys() == wanted.keys()
    for case, said in wanted.items():
        assert re.search(facts(*said), failures[case]["reason"]), failures[case]["reason"]
    manifest = rows(tmp_path / "out" / "manifest.csv")
    assert manifest.keys() == {"full", "some"} and str(dicom / "some" / "scout") in manifest["some"]["notes"]


def test_a_folder_without_cases_is_refused(trained, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit, match=facts(tmp_path / "empty", "CASE/MODALITY")):
        predict(tmp_path / "empty", tmp_path / "out", "--dicom")
    with pytest.raises(SystemExit, match=facts(tmp_path / "absent", "-i")):
        predict(tmp_path / "absent", tmp_path / "out", "--dicom")
