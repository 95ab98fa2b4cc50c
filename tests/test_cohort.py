"""`nnunet_moe predict`: every case that can be predicted is, whatever the others are, and whenever it is killed."""

import csv
import json
from pathlib import Path

import pytest

from nnunet_moe.cli import main

MODEL = ("-d", 901, "-c", "3d_tiny", "-tr", "nnUNetTrainerMoESD", "-f", 0, "-device", "cpu", "--disable_progress_bar")
INLINE = ("-npp", 0, "-nps", 0)
NAMES = ("T1w", "T2w", "FLAIR")


def predict(images: Path, out: Path, *more, workers=INLINE):
    main(["predict", *map(str, ("-i", images, "-o", out, *MODEL, *workers, *more))])


def rows(file: Path) -> dict[str, dict[str, str]]:
    with file.open() as opened:
        return {row["case"]: row for row in csv.DictReader(opened)}


def segmentations(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.glob("*.nii.gz")}


@pytest.fixture(scope="module")
def by_nnunet(trained, subsets, tmp_path_factory) -> Path:
    """The predictions of nnU-Net's own command for one case under all codes."""
    out = tmp_path_factory.mktemp("by_nnunet")
    where = ("-i", str(subsets.predictions.parent / "incoming"), "-o", str(out))
    options = [*map(str, MODEL), "--save_probabilities", "-npp", "0", "-nps", "0"]
    trained.workspace.run("nnUNetv2_predict", *where, *options)
    return out


@pytest.mark.parametrize("workers", [INLINE, ("-npp", 2, "-nps", 1)])
def test_the_predictions_are_those_of_nnunets_command(by_nnunet, subsets, tmp_path, workers):
    predict(subsets.predictions.parent / "incoming", tmp_path / "out", "--save_probabilities", workers=workers)
    assert segmentations(tmp_path / "out") == segmentations(by_nnunet) and len(segmentations(by_nnunet)) == 7
    for file in by_nnunet.glob("*.npz"):
        assert (tmp_path / "out" / file.name).read_bytes() == file.read_bytes()
    for name in ("dataset.json", "plans.json"):
        assert json.loads((tmp_path / "out" / name).read_text()) == json.loads((by_nnunet / name).read_text())
