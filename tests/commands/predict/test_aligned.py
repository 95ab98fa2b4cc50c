"""`nnunet_moe predict --align`: files on different grids become one case, and the segmentation lies where asked."""

import csv
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from facts import facts
from nnunet_moe.cli import main
from nnunet_moe.images.alignment.resampling import resampled, resampled_labels
from nnunet_moe.images.alignment.volumes import Space

pytestmark = pytest.mark.slow
MODEL = ("-d", 901, "-c", "3d_tiny", "-tr", "nnUNetTrainerMoESD", "-f", 0, "-device", "cpu", "--disable_progress_bar")
NAMES = ("T1w", "T2w", "FLAIR")
INLINE = ("-npp", 0, "-nps", 0, "--disable_tta")


def predict(images: Path, out: Path, *more):
    main(["predict", *map(str, ("-i", images, "-o", out, *MODEL, *INLINE, *more))])


def predict_some(images: Path, out: Path, *more):
    """Predict a folder in which some cases fail."""
    with pytest.raises(SystemExit, match="Not predicted"):
        predict(images, out, *more)


def rows(file: Path) -> dict[str, dict[str, str]]:
    with file.open() as opened:
        return {row["case"]: row for row in csv.DictReader(opened)}


def labels(file: Path) -> tuple[np.ndarray, Space]:
    image = sitk.ReadImage(str(file))
    return sitk.GetArrayFromImage(image), Space.of(image)


@pytest.fixture(scope="module")
def complete(trained, subsets) -> dict[str, Path]:
    """The files of a case with all modalities, on one grid."""
    name = f"{subsets.cases[0]}_111"
    folder = subsets.predictions.parent / "incoming"
    return {
        modality: folder / f"{name}_{channel:04d}.nii.gz" for channel, modality in enumerate(("T1w", "T2w", "FLAIR"))
    }


@pytest.fixture
def mixed(complete, tmp_path) -> Path:
    """Cases: `same` on one grid, `other` with T2w on larger voxels, `T2w` with only that, `beside` without overlap."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    for channel, file in enumerate(complete.values()):
        shutil.copyfile(file, folder / f"same_{channel:04d}.nii.gz")
        if channel != 1:
            shutil.copyfile(file, folder / f"other_{channel:04d}.nii.gz")
    shutil.copyfile(complete["T1w"], folder / "beside_0000.nii.gz")
    image = sitk.ReadImage(str(complete["T2w"]), sitk.sitkFloat32)
    space = Space.of(image)
    size = (*space.size[:2], space.size[2] // 2)
    onto = Space(size, (*space.spacing[:2], 2 * space.spacing[2]), space.origin, space.direction)
    for case in ("other", "T2w"):
        sitk.WriteImage(resampled(image, onto), str(folder / f"{case}_0001.nii.gz"))
    image.SetOrigin((1000.0, 0.0, 0.0))
    sitk.WriteImage(image, str(folder / "beside_0001.nii.gz"))
    return folder


def test_each_case_is_predicted_on_the_grid_of_its_reference(mixed, complete, tmp_path, capsys):
    predict_some(mixed, tmp_path / "out", "--align", "grid")
    manifest = rows(tmp_path / "out" / "manifest.csv")
    assert manifest.keys() == {"same", "other", "T2w"}
    ways = {case: tuple(row[f"alignment_{name}"] for name in complete) for case, row in manifest.items()}
    assert ways == {
        "same": ("reference", "unchanged", "unchanged"),
        "other": ("reference", "resampled", "unchanged"),
        "T2w": ("", "reference", ""),
    }
    assert float(manifest["other"]["covered_T2w"]) > 0.9 and float(manifest["other"]["motion_mm_T2w"]) == 0
    (failed,) = rows(tmp_path / "out" / "failures.csv").values()
    assert failed["case"] == "beside" and re.search(facts("beside_0001.nii.gz", "0%", "50%"), failed["reason"])
    assert "/tmp" not in failed["reason"].replace(str(tmp_path), "")
    own = Space.of(sitk.ReadImage(str(complete["T1w"])))
    for case, space in (("other", own), ("T2w", Space.of(sitk.ReadImage(str(mixed / "T2w_0001.nii.gz"))))):
        assert labels(tmp_path / "out" / f"{case}.nii.gz")[1] == space
    # what lies on one grid is not touched
    for file in mixed.glob("*"):
        if not file.name.startswith("same"):
            file.unlink()
    predict(mixed, tmp_path / "off")
    assert (tmp_path / "off" / "same.nii.gz").read_bytes() == (tmp_path / "out" / "same.nii.gz").read_bytes()
    assert "alignment_T1w" not in (tmp_path / "off" / "manifest.csv").read_text()


def test_without_align_files_on_other_grids_are_refused_with_the_remedy(mixed, tmp_path):
    predict_some(mixed, tmp_path / "out")
    failures = rows(tmp_path / "out" / "failures.csv")
    assert failures.keys() == {"other", "beside"} and all("--align" in row["reason"] for row in failures.values())


def test_the_segmentation_is_moved_to_the_space_that_was_asked_for(mixed, tmp_path):
    (mixed / "beside_0001.nii.gz").unlink()
    predict(mixed, tmp_path / "reference", "--align", "grid")
    predict_some(mixed, tmp_path / "out", "--align", "grid", "--output_space", "T2w")
    found, space = labels(tmp_path / "out" / "other.nii.gz")
    assert space == Space.of(sitk.ReadImage(str(mixed / "other_0001.nii.gz")))
    before, of_reference = labels(tmp_path / "reference" / "other.nii.gz")
    assert np.array_equal(found, resampled_labels(before, of_reference, space)) and found.any()
    row = rows(tmp_path / "out" / "manifest.csv")["other"]
    assert float(row["volume_mm3_lesion"]) == pytest.approx((found == 1).sum() * np.prod(space.spacing))
    (failed,) = rows(tmp_path / "out" / "failures.csv").values()
    assert failed["case"] == "beside" and "has no T2w" in failed["reason"]
    # a resumed run keeps what was predicted in the same way, and refuses another one
    written = (tmp_path / "out" / "other.nii.gz").stat().st_mtime_ns
    predict_some(mixed, tmp_path / "out", "--align", "grid", "--output_space", "T2w", "--continue_prediction")
    assert (tmp_path / "out" / "other.nii.gz").stat().st_mtime_ns == written
    assert rows(tmp_path / "out" / "manifest.csv")["other"] == row
    for other in ((), ("--align", "grid"), ("--align", "rigid", "--output_space", "T2w")):
        with pytest.raises(SystemExit, match="other settings"):
            predict(mixed, tmp_path / "out", *other, "--continue_prediction")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--align", "grid", "--reference", "CT"), ("--reference CT", "T1w, T2w, FLAIR")),
        (("--reference", "T1w"), ("--align",)),
        (("--output_space", "T1w"), ("--align",)),
        (("--align", "grid", "--output_space", "CT"), ("--output_space CT", "T1w, T2w, FLAIR")),
        (("--align", "grid", "--output_space", "T1w", "--save_probabilities"), ("probabilities",)),
        (("--align", "grid", "--min_covered", "2"), ("--min_covered", "2")),
    ],
)
def test_options_that_do_not_fit_are_refused(mixed, tmp_path, options, named):
    with pytest.raises(SystemExit) as refused:
        predict(mixed, tmp_path / "out", *options)
    assert all(part in str(refused.value) for part in named)
