"""`nnunet_moe predict`: every case that can be predicted is, whatever the others are, and whenever it is killed."""

import _multiprocessing
import csv
import ctypes
import gzip
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import PIPE

import nibabel.loadsave
import nibabel.nifti1
import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from facts import facts
from killed_workers import kill_readers_of
from nnunet_in_process import command
from nnunet_moe.architectures.modality_network import ModalityNetwork
from nnunet_moe.cli import main
from nnunet_moe.commands.predict.manifest import Manifest, Prediction
from nnunet_moe.errors import ModelError
from nnunet_moe.labels.volumes import volumes_of
from nnunet_moe.modalities.codes import all_codes, code_digits, code_text, parse_code
from nnunet_moe.prediction import MissingModalityPredictor
from nnunet_moe.quality.calibration import OF_LEVEL, Calibration
from nnunet_moe.quality.file import as_json, read_calibrations
from nnunet_moe.quality.label_calibration import LabelCalibration
from nnunet_moe.quality.regression import SIGN, Fit
from nnunet_moe.quality.signals import SIGNALS
from nnunet_moe.reports.evaluation_folder import Scores

TRAINED = ("-d", 901, "-c", "3d_tiny", "-tr", "nnUNetTrainerMoESD", "-f", 0, "-device", "cpu")
MIRRORED = (*TRAINED, "--disable_progress_bar")
MODEL = (*MIRRORED, "--disable_tta")
"""Without mirroring, which is seven eighths of a prediction."""
INLINE = ("-npp", 0, "-nps", 0)
NAMES = ("T1w", "T2w", "FLAIR")


def predict(images: Path, out: Path, *more, workers=INLINE, model=MODEL):
    main(["predict", *map(str, ("-i", images, "-o", out, *model, *workers, *more))])


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
    command("nnUNetv2_predict", *where, *options)
    return out


@pytest.mark.parametrize("workers", [INLINE, ("-npp", 2, "-nps", 1)])
def test_the_predictions_are_those_of_nnunets_command(by_nnunet, subsets, tmp_path, workers):
    predict(subsets.predictions.parent / "incoming", tmp_path / "out", "--save_probabilities", workers=workers)
    assert segmentations(tmp_path / "out") == segmentations(by_nnunet) and len(segmentations(by_nnunet)) == 7
    for file in by_nnunet.glob("*.npz"):
        assert (tmp_path / "out" / file.name).read_bytes() == file.read_bytes()
    for name in ("dataset.json", "plans.json"):
        assert json.loads((tmp_path / "out" / name).read_text()) == json.loads((by_nnunet / name).read_text())


def test_with_mirroring_too_the_predictions_are_those_of_nnunets_command(trained, two_cases, tmp_path):
    predict(two_cases, tmp_path / "out", model=MIRRORED)
    command("nnUNetv2_predict", "-i", two_cases, "-o", tmp_path / "by_nnunet", *MIRRORED, *INLINE)
    predict(two_cases, tmp_path / "unmirrored")
    expected = segmentations(tmp_path / "by_nnunet")
    assert segmentations(tmp_path / "out") == expected != segmentations(tmp_path / "unmirrored")


def test_the_manifest_tells_where_each_modality_came_from_and_what_was_found(by_nnunet, subsets, tmp_path, capsys):
    images = subsets.predictions.parent / "incoming"
    predict(images, tmp_path, "--save_probabilities")
    manifest = rows(tmp_path / "manifest.csv")
    assert list(manifest) == sorted(file.name[:-7] for file in by_nnunet.glob("*.nii.gz"))
    for code in all_codes(3):
        case = f"{subsets.cases[0]}_{code_digits(code)}"
        row = manifest[case]
        assert row["modalities"] == code_text(code, NAMES)
        for channel, (name, available) in enumerate(zip(NAMES, code, strict=True)):
            assert row[f"file_{name}"] == (str(images / f"{case}_{channel:04d}.nii.gz") if available else "")
        lesions = sitk.GetArrayFromImage(sitk.ReadImage(str(by_nnunet / f"{case}.nii.gz"))) == 1
        assert float(row["volume_mm3_lesion"]) == lesions.sum() > 0  # voxels of 1 mm3
        assert 0 < float(row["seconds"]) < 600
        assert row["notes"] == row["expected_dsc_lesion"] == ""
    assert (tmp_path / "failures.csv").read_text() == "case,files,reason\n"
    assert "Predicted 7 cases into" in capsys.readouterr().out
    assert not list(tmp_path.glob(".*"))


def test_the_manifest_tells_what_evaluate_found_for_the_modalities(trained, subsets, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    for code in ("100", "011", "101"):
        for file in (subsets.predictions.parent / "incoming").glob(f"*_{code}_*"):
            shutil.copy(file, tmp_path / "in")
    main(["evaluate", *map(str, (*TRAINED, "--disable_tta", "-o", tmp_path / "scores", "-codes", "T1w", "T1w+FLAIR"))])
    predict(tmp_path / "in", tmp_path / "out", "-scores", tmp_path / "scores", model=MIRRORED)
    assert "WARNING: -scores come from predictions with mirroring False." in capsys.readouterr().out
    with (tmp_path / "scores" / "means.csv").open() as opened:
        means = {(row["code"], row["metric"]): row for row in csv.DictReader(opened)}
    predicted = rows(tmp_path / "out" / "manifest.csv").values()
    assert sorted(row["modalities"] for row in predicted) == ["T1w", "T1w+FLAIR", "T2w+FLAIR"]
    for row in predicted:
        mean = means.get((row["modalities"], "dsc"))
        if row["modalities"] in ("T1w", "T1w+FLAIR"):
            assert float(row["expected_dsc_lesion"]) == float(mean["mean"])
            assert row["dsc_standard_error_lesion"] == mean["standard_error"]
            assert row["expected_from_cases"] == mean["cases"]
        else:
            assert row["expected_dsc_lesion"] == row["expected_from_cases"] == ""


def test_the_manifest_tells_which_dice_is_expected_of_each_case_and_which_cases_are_doubtful(
    trained, subsets, tmp_path, capsys
):
    """`predict` measures the same signals as `evaluate` of the same segmentations, and applies its calibration."""
    options = ("-d", 901, "-c", "3d_tiny", "-tr", "nnUNetTrainerMoESD", "-f", 0, "-device", "cpu", "--disable_tta")
    images, labels = (shutil.copytree(trained.raw / name, tmp_path / name) for name in ("imagesTs", "labelsTs"))
    where = ("-i", images, "-l", labels, "-o", tmp_path / "scores")
    main(["evaluate", *map(str, (*options, *where, "--quality", "full"))])
    incoming = subsets.predictions.parent / "incoming"
    fits = {level: Fit(0.3, {}, {name: SIGN[name] / 5 for name in names}) for level, names in OF_LEVEL.items()}
    made = {level: Calibration(each, (), (), {}, 2, {}) for level, each in fits.items()}
    file = tmp_path / "scores" / "quality.json"
    assert set(read_calibrations(file, "nnUNetTrainerMoESD")["lesion"].by_level) == {"fast", "full"}
    file.write_text(json.dumps(as_json({"nnUNetTrainerMoESD": {"lesion": LabelCalibration(made)}})))
    trust = ("--disable_tta", "-scores", tmp_path / "scores", "--quality", "full", "--require_quality", 1)
    predict(incoming, tmp_path / "out", *trust)
    assert "too few. The expected Dice is the mean of the subset" in capsys.readouterr().out
    with (tmp_path / "scores" / "results.csv").open() as opened:
        scored = {row["code"]: row for row in csv.DictReader(opened) if row["case"] == subsets.cases[0]}
    for row in rows(tmp_path / "out" / "manifest.csv").values():
        of_case = scored[row["modalities"]]
        signals = {name: float(of_case[name] or "nan") for name in SIGNALS}
        expected = LabelCalibration(made).expect(code_digits(parse_code(row["modalities"], NAMES)), signals)
        assert row["case_expected_dsc_lesion"] == f"{expected.dsc:.4f}" and row["case_dsc_low_lesion"] == ""
        assert row["doubtful"] == "lesion" and row["unusual"] == "lesion: modalities"
        assert (tmp_path / "out" / f"{row['case']}.nii.gz").exists()
    predictor = MissingModalityPredictor(device=torch.device("cpu"), use_mirroring=False, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(trained.model_folder()), (0,))
    case = f"{subsets.cases[0]}_111"
    image, properties = SimpleITKIO().read_images(
        [str(incoming / f"{case}_000{channel}.nii.gz") for channel in range(3)]
    )
    calibrations = {"lesion": LabelCalibration(made)}
    segmentation, expected = predictor.predict_with_quality(image, properties, calibrations, full=True)
    written, _ = SimpleITKIO().read_seg(str(tmp_path / "out" / f"{case}.nii.gz"))
    assert np.array_equal(segmentation, written[0])
    cells = rows(tmp_path / "out" / "manifest.csv")[case]
    assert f"{expected['lesion'].dsc:.4f}" == cells["case_expected_dsc_lesion"]


class Faults:
    """A folder of good and bad cases."""

    def __init__(self, folder: Path, source: Path) -> None:
        self.folder, self.source = folder, sorted(source.glob("phantomTs001_*"))
        folder.mkdir()
        for good in ("good", "with space", "тест 患者", "p", 'comma, "quote"', "two\nlines", "NA", "007"):
            self.case(good)
        self.case("p_1", channels=(2,))  # `p` is the beginning of its name
        self.case("UPPER", ending=".NII.GZ")
        self.reasons: dict[str, str] = {}

    def case(self, name: str, channels=(0, 1, 2), ending=".nii.gz") -> list[Path]:
        return [
            Path(shutil.copy(self.source[channel], self.folder / f"{name}_{channel:04d}{ending}"))
            for channel in channels
        ]

    def bad(self, name: str, reason: str) -> Path:
        """A case whose second file is to be spoilt."""
        self.reasons[name] = reason
        return self.case(name)[1]


@pytest.fixture
def faults(dataset, tmp_path) -> Faults:
    faults = Faults(tmp_path / "in", dataset.raw / "imagesTs")
    file = faults.bad("truncated", "cannot be read")
    file.write_bytes(file.read_bytes()[:-5000])
    faults.bad("text", "cannot be read").write_text("This is no image.")
    faults.bad("empty", "cannot be read").write_bytes(b"")
    faults.bad("gzipped text", "cannot be read").write_bytes(gzip.compress(b"This is no image."))
    image = sitk.ReadImage(str(faults.source[1]))
    sitk.WriteImage(sitk.JoinSeries([image, image]), str(faults.bad("four dimensions", "has 2 channels")))
    moved = sitk.Image(image)
    moved.SetOrigin((0, 0, 7))
    sitk.WriteImage(moved, str(faults.bad("moved", "differ in origin")))
    turned = sitk.Image(image)
    turned.SetDirection((0, 1, 0, 1, 0, 0, 0, 0, -1))
    sitk.WriteImage(turned, str(faults.bad("turned", "differ in direction")))
    sitk.WriteImage(image[1:], str(faults.bad("cut", "differ in shape")))
    spoilt = sitk.GetArrayFromImage(image)
    spoilt[3, 4, 5] = np.nan
    holes = sitk.GetImageFromArray(spoilt)
    sitk.WriteImage(holes, str(faults.bad("nan", "has 1 voxels that are NaN or infinite")))
    hot = sitk.GetArrayFromImage(image).astype(np.float32)
    hot[3, 4, 5] = 1e10
    sitk.WriteImage(sitk.GetImageFromArray(hot), str(faults.bad("hot", "hot_0001.nii.gz (T2w): 98 % of the voxels")))
    complex_image = nibabel.nifti1.Nifti1Image(np.ones(image.GetSize(), dtype=np.complex64), np.eye(4))
    nibabel.loadsave.save(complex_image, faults.bad("complex", "holds complex numbers"))
    file = faults.bad("twice", "are both channel 1 (T2w)")
    shutil.copy(file, file.with_name("twice_0001.NII.GZ"))
    file = faults.bad("beyond", "names no channel of this dataset")
    file.rename(file.with_name("beyond_0003.nii.gz"))
    faults.bad("folder", "cannot be read").unlink()
    (faults.folder / "folder_0001.nii.gz").mkdir()
    faults.bad("locked", "cannot be read: there is no permission").chmod(0)
    (faults.folder / "dangling_0000.nii.gz").symlink_to("nowhere")
    faults.reasons["dangling"] = "cannot be read: it is a link to nowhere, which does not exist"
    for file in faults.case("nothing"):
        sitk.WriteImage(image * 0, str(file))
    faults.reasons["nothing"] = "is zero everywhere"
    shutil.copy(faults.source[0], faults.folder / "other ending_0000.nii")
    faults.reasons["other ending"] = "No file of the case ends in .nii.gz"
    shutil.copy(faults.source[0], os.fsencode(faults.folder) + b"/M\xfcller_0000.nii.gz")
    faults.reasons["M\\xfcller_0000.nii.gz"] = "not UTF-8"
    shutil.copy(faults.source[0], faults.folder / "no channel.nii.gz")
    faults.reasons["no channel.nii.gz"] = "The name has no channel"
    shutil.copy(faults.source[0], faults.folder / "._good_0000.nii.gz")  # as other systems leave them
    (faults.folder / "notes.txt").write_text("not an image")
    return faults


def without_privileges() -> None:
    """A root that may not read what no one may, as in a container."""
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, out of what the program that follows gets
        libc.prctl(24, capability, 0, 0, 0)


def run_predict(images: Path, out: Path, *more: object) -> subprocess.CompletedProcess:
    """The command in a process of its own, without a root's privileges."""
    return subprocess.run(
        [sys.executable, "-m", "nnunet_moe", "predict", *map(str, ("-i", images, "-o", out, *MODEL, *more))],
        capture_output=True,
        text=True,
        preexec_fn=without_privileges,
    )


def test_every_good_case_among_faults_is_predicted_as_alone(trained, faults, tmp_path):
    done = run_predict(faults.folder, tmp_path / "out", "-npp", 1, "-nps", 1)
    assert done.returncode == 1
    failures = rows(tmp_path / "out" / "failures.csv")
    assert failures.keys() == faults.reasons.keys()
    for case, reason in faults.reasons.items():
        assert reason in failures[case]["reason"] and f"  {case}: {failures[case]['reason']}" in done.stderr
    assert f"Not predicted: {len(failures)}" in done.stderr
    good = {"good", "with space", "тест 患者", "p", 'comma, "quote"', "two\nlines", "NA", "007", "p_1", "UPPER"}
    assert rows(tmp_path / "out" / "manifest.csv").keys() == good
    alone = tmp_path / "alone"
    alone.mkdir()
    for channel in range(3):
        shutil.copy(faults.source[channel], alone / f"good_{channel:04d}.nii.gz")
    shutil.copy(faults.source[2], alone / "p_1_0002.nii.gz")
    predict(alone, tmp_path / "one")
    expected = segmentations(tmp_path / "one")
    assert segmentations(tmp_path / "out") == {
        f"{case}.nii.gz": expected["p_1.nii.gz" if case == "p_1" else "good.nii.gz"] for case in good
    }


def outputs(folder: Path) -> dict[str, object]:
    """All that a run leaves, but for the seconds that it took and the times of the files that it read."""
    tables = (".csv", ".jsonl")
    found: dict[str, object] = {file.name: file.read_bytes() for file in folder.iterdir() if file.suffix not in tables}
    lines = map(json.loads, (folder / "inputs.jsonl").read_text().splitlines())
    found["inputs.jsonl"] = [
        (line["case"], *({path: state["sha256"] for path, state in line[key].items()} for key in ("files", "outputs")))
        for line in lines
    ]
    for name in ("manifest.csv", "failures.csv"):
        found[name] = [{**row, "seconds": ""} for row in rows(folder / name).values()]
    return found


def test_a_run_that_is_killed_at_any_moment_and_continued_ends_with_the_same_files(
    trained, dataset, preloaded_python, tmp_path
):
    """Ten times killed, at random moments of what a whole run takes; with worker processes and without."""
    images = tmp_path / "in"
    images.mkdir()
    for number in range(6):
        for channel in range(3) if number % 3 else (number % 2, 2):
            source = dataset.raw / "imagesTs" / f"phantomTs00{number % 2}_{channel:04d}.nii.gz"
            shutil.copy(source, images / f"case{number}_{channel:04d}.nii.gz")
    (images / "bad_0000.nii.gz").write_bytes(b"bad")
    with pytest.raises(SystemExit, match=facts("Not predicted: 1")):
        predict(images, tmp_path / "whole", "--save_probabilities")
    expected = outputs(tmp_path / "whole")
    assert len(expected) == 6 * 3 + 6
    rng = np.random.default_rng(0)
    out, num_killed_at_work = tmp_path / "out", 0
    (tmp_path / "starter.py").write_text(STARTER)
    command = [preloaded_python, tmp_path / "starter.py"]
    with subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True) as starter:
        assert starter.stdin is not None and starter.stdout is not None
        for number in range(10):
            workers = ("-npp", "1", "-nps", "1") if number == 4 else INLINE
            options = ("-i", images, "-o", out, *MODEL, *workers, "--save_probabilities", "--continue_prediction")
            begun = beginning(out)
            print(json.dumps(["predict", *map(str, options)]), file=starter.stdin, flush=True)
            process = int(starter.stdout.readline())
            wait_until(lambda begun=begun: beginning(out) != begun, f"run {number} writes prediction.json")
            time.sleep(rng.uniform(0, 0.6))
            os.kill(process, signal.SIGKILL)
            num_killed_at_work += starter.stdout.readline() == "killed\n"
            if (out / "manifest.csv").exists():  # what is said to be done is
                assert all((out / f"{case}.nii.gz").exists() for case in rows(out / "manifest.csv"))
            for file in out.glob("case*.*"):  # and whatever has its name is whole
                assert file.read_bytes() == expected[file.name]
    assert num_killed_at_work >= 5
    with pytest.raises(SystemExit, match=facts("Not predicted: 1")):
        predict(images, out, "--save_probabilities", "--continue_prediction")
    assert outputs(out) == expected


def beginning(out: Path) -> int:
    """Which run it is that began in a folder last."""
    settings = out / "prediction.json"
    return settings.stat().st_mtime_ns if settings.exists() else 0


def wait_until(happened: Callable[[], bool], what: str, seconds: float = 60) -> None:
    """Wait, and fail with a message where it does not happen."""
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, f"waited {seconds} s in vain until {what}"
        time.sleep(0.005)


STARTER = """
import json, os, sys, time
import nnunet_moe.commands.predict.predict
from nnunet_moe.cli import main
replace = os.replace
def slow(*files):  # so that most of such a small run is between the files that it writes
    time.sleep(0.05)
    replace(*files)
    time.sleep(0.05)
if __name__ == "__main__":
    for line in sys.stdin:
        process = os.fork()  # which saves the imports
        if not process:
            os.replace = slow
            sys.stdout = sys.stderr = open(os.devnull, "w")
            main(json.loads(line))
            os._exit(0)
        print(process, flush=True)
        print("killed" if os.WIFSIGNALED(os.waitpid(process, 0)[1]) else "ended", flush=True)
"""


@pytest.fixture
def two_cases(dataset, tmp_path) -> Path:
    """`a` is complete, `b` lacks T2w."""
    images = tmp_path / "two"
    images.mkdir()
    for case, channels in (("a", (0, 1, 2)), ("b", (0, 2))):
        for channel in channels:
            source = dataset.raw / "imagesTs" / f"phantomTs000_{channel:04d}.nii.gz"
            shutil.copy(source, images / f"{case}_{channel:04d}.nii.gz")
    return images


def test_a_continued_run_does_again_what_changed_and_nothing_else(trained, two_cases, tmp_path, dataset, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.nii.gz").write_text("of another program")
    with pytest.raises(SystemExit, match=facts("1 of the cases", "(a, ...)")):
        predict(two_cases, out, "--continue_prediction")
    predict(two_cases, out)
    before = rows(out / "manifest.csv")
    times = {case: (out / f"{case}.nii.gz").stat().st_mtime_ns for case in "ab"}
    predict(two_cases, out, "--continue_prediction")
    assert rows(out / "manifest.csv") == before and "2 of them predicted before" in capsys.readouterr().out
    assert {case: (out / f"{case}.nii.gz").stat().st_mtime_ns for case in "ab"} == times

    elsewhere = tmp_path / "mounted" / "here"
    elsewhere.parent.mkdir()
    two_cases.rename(elsewhere)
    predict(Path(os.path.relpath(elsewhere)), out, "--continue_prediction")
    assert "2 of them predicted before" in capsys.readouterr().out
    assert {case: (out / f"{case}.nii.gz").stat().st_mtime_ns for case in "ab"} == times
    assert rows(out / "manifest.csv")["b"]["file_FLAIR"] == str(elsewhere / "b_0002.nii.gz")
    elsewhere.rename(two_cases)

    shutil.copy2(dataset.raw / "imagesTs" / "phantomTs000_0001.nii.gz", two_cases / "b_0001.nii.gz")  # and older
    predict(two_cases, out, "--continue_prediction")
    after = rows(out / "manifest.csv")
    assert "1 cases are predicted again, because their files or" in capsys.readouterr().out
    assert after["a"] == before["a"] and after["b"]["modalities"] == "T1w+T2w+FLAIR"
    assert (out / "b.nii.gz").read_bytes() == (out / "a.nii.gz").read_bytes()

    for file in two_cases.iterdir():
        file.touch()
    predict(two_cases, out, "--continue_prediction")  # other times, the same contents
    assert rows(out / "manifest.csv") == after

    segmentation = out / "b.nii.gz"
    whole = segmentation.read_bytes()
    segmentation.write_bytes(b"")
    predict(two_cases, out, "--continue_prediction")
    assert segmentation.read_bytes() == whole and rows(out / "manifest.csv")["a"] == before["a"]
    for altered in (whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1])):  # cut off, or a correction
        segmentation.write_bytes(altered)
        with pytest.raises(SystemExit, match=facts("Not predicted: 1", "b.nii.gz", "is not what this command wrote")):
            predict(two_cases, out, "--continue_prediction")
        assert segmentation.read_bytes() == altered and rows(out / "failures.csv").keys() == {"b"}
    segmentation.unlink()
    predict(two_cases, out, "--continue_prediction")
    assert segmentation.read_bytes() == whole and rows(out / "manifest.csv")["a"] == before["a"]

    replaced = two_cases / "a_0001.nii.gz"
    shutil.copy2(dataset.raw / "imagesTs" / "phantomTs001_0001.nii.gz", replaced)  # another patient's, and older
    assert replaced.stat().st_mtime < (out / "a.nii.gz").stat().st_mtime
    predict(two_cases, out, "--continue_prediction")
    assert (out / "b.nii.gz").read_bytes() != (out / "a.nii.gz").read_bytes()

    (out / "inputs.jsonl").unlink()  # as an earlier version left the folder
    for case in "ab":
        (out / f"{case}.nii.gz").touch()  # the images were touched above
    capsys.readouterr()
    predict(two_cases, out, "--continue_prediction")
    assert "2 cases are kept" in capsys.readouterr().out
    shutil.copy2(dataset.raw / "imagesTs" / "phantomTs000_0001.nii.gz", replaced)
    predict(two_cases, out, "--continue_prediction")
    assert "1 cases are kept" in capsys.readouterr().out
    assert (out / "b.nii.gz").read_bytes() == (out / "a.nii.gz").read_bytes()
    assert [json.loads(line)["case"] for line in (out / "inputs.jsonl").read_text().splitlines()] == ["a"]

    for file in two_cases.glob("b_*"):
        file.write_bytes(b"")
    with pytest.raises(SystemExit, match=facts("Not predicted: 1", "b: ", "read")):
        predict(two_cases, out, "--continue_prediction")
    assert not (out / "b.nii.gz").exists() and list(rows(out / "manifest.csv")) == ["a"]
    with pytest.raises(SystemExit, match=facts("other settings", "step_size", "prediction.json")):
        predict(two_cases, out, "--continue_prediction", "-step_size", 1)
    with pytest.raises(SystemExit, match=facts("Not predicted: 1")):
        predict(two_cases, out, "-step_size", 1)  # anew
    (out / "manifest.csv").write_text("nonsense")
    with pytest.raises(SystemExit, match=facts("manifest.csv", "not written by a run")):
        predict(two_cases, out, "--continue_prediction", "-step_size", 1)
    (out / "prediction.json").write_text("nonsense")
    with pytest.raises(SystemExit, match=facts("prediction.json", "cannot be read")):
        predict(two_cases, out, "--continue_prediction")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--require", "T2w"), ("T1w+FLAIR", "T2w", "--require")),
        (("--min_modalities", 3), ("T1w+FLAIR", "--min_modalities", 3)),
    ],
)
def test_too_few_modalities_are_a_failure_with_a_reason(trained, two_cases, tmp_path, options, said):
    out = tmp_path / "out"
    predict(two_cases, out)
    with pytest.raises(SystemExit):
        predict(two_cases, out, "--continue_prediction", *options)
    failure = rows(out / "failures.csv")["b"]
    assert failure["files"] == "; ".join(str(two_cases / f"b_{channel:04d}.nii.gz") for channel in (0, 2))
    assert re.search(facts(*said), failure["reason"])
    assert segmentations(out).keys() == {"a.nii.gz"}  # not the guess of before


def test_a_file_of_zeros_is_no_modality_and_the_manifest_says_so(trained, two_cases, tmp_path):
    image = sitk.ReadImage(str(two_cases / "b_0000.nii.gz"))
    sitk.WriteImage(image * 0, str(two_cases / "b_0001.nii.gz"))
    shutil.copy(two_cases / "a_0001.nii.gz", two_cases / "a_0001.mha")
    (two_cases / "a_0001.nii.gz").rename(two_cases / "a_0001.nii")
    with pytest.raises(SystemExit):
        predict(two_cases, tmp_path / "out", "--require", "T2w")
    predict(two_cases, tmp_path / "out")
    manifest = rows(tmp_path / "out" / "manifest.csv")
    assert manifest["b"]["modalities"] == manifest["a"]["modalities"] == "T1w+FLAIR"
    assert manifest["b"]["file_T2w"] == str(two_cases / "b_0001.nii.gz") and manifest["a"]["file_T2w"] == ""
    assert manifest["b"]["notes"] == f"{two_cases / 'b_0001.nii.gz'} is zero everywhere: treated as missing"
    assert manifest["a"]["notes"] == "a: not used, because the ending is not .nii.gz: a_0001.mha, a_0001.nii"


def test_masks_as_inputs_are_noted_once_in_the_log_and_for_each_case_in_the_manifest(
    trained, two_cases, tmp_path, capsys
):
    for case in "ab":
        file = str(two_cases / f"{case}_0001.nii.gz")
        image = sitk.ReadImage(str(two_cases / f"{case}_0000.nii.gz"))
        sitk.WriteImage(sitk.Cast(image > 100, sitk.sitkFloat32), file)
    predict(two_cases, tmp_path)
    assert capsys.readouterr().out.count("has only the values 0 and 1") == 1
    manifest = rows(tmp_path / "manifest.csv")
    assert all(f"{case}_0001.nii.gz has only the values 0 and 1" in manifest[case]["notes"] for case in "ab")


def test_a_resumed_run_that_refuses_copies_keeps_other_noted_cases_and_their_notes_follow_the_images(
    trained, two_cases, tmp_path, capsys
):
    shutil.copy(two_cases / "a_0000.nii.gz", two_cases / "a_0001.nii.gz")
    flair = sitk.ReadImage(str(two_cases / "b_0002.nii.gz"))
    sitk.WriteImage(sitk.Cast(flair > 100, sitk.sitkFloat32), str(two_cases / "b_0001.nii.gz"))
    hot = sitk.Cast(flair, sitk.sitkFloat32)
    hot[14, 12, 10] = 1e6
    sitk.WriteImage(hot, str(two_cases / "b_0002.nii.gz"))
    predict(two_cases, tmp_path / "out")
    assert capsys.readouterr().out.count("sees little contrast") == 1
    of_a, of_b = (row["notes"] for row in rows(tmp_path / "out" / "manifest.csv").values())
    assert of_a.startswith(f"{two_cases / 'a_0001.nii.gz'} is equal to T1w in every voxel")
    assert f"{two_cases / 'b_0001.nii.gz'} has only the values 0 and 1" in of_b
    assert f"{two_cases / 'b_0002.nii.gz'} (FLAIR): 98 % of the voxels" in of_b and "single voxels reach 1e+06" in of_b

    elsewhere = two_cases.rename(tmp_path / "else where")
    with pytest.raises(SystemExit, match=facts("Not predicted: 1", elsewhere / "a_0001.nii.gz", "--refuse_copies")):
        predict(elsewhere, tmp_path / "out", "--continue_prediction", "--refuse_copies")
    assert "2 cases, 1 of them predicted before" in capsys.readouterr().out
    (kept,) = rows(tmp_path / "out" / "manifest.csv").values()
    assert kept["notes"] == of_b.replace(str(two_cases), str(elsewhere)) != of_b
    elsewhere.rename(two_cases)
    predict(two_cases, tmp_path / "out", "--continue_prediction")
    assert [row["notes"] for row in rows(tmp_path / "out" / "manifest.csv").values()] == [of_a, of_b]


def test_parts_share_the_cases_and_do_not_disturb_each_other(trained, two_cases, tmp_path):
    predict(two_cases, tmp_path / "whole")
    for part in (0, 1):
        predict(two_cases, tmp_path / "out", "-num_parts", 2, "-part_id", part)
    assert segmentations(tmp_path / "out") == segmentations(tmp_path / "whole")
    for part, case in enumerate("ab"):
        assert list(rows(tmp_path / "out" / f"manifest_{part}_of_2.csv")) == [case]
        assert not rows(tmp_path / "out" / f"failures_{part}_of_2.csv")
    with pytest.raises(SystemExit, match=facts("other settings", "num_parts", "prediction_0_of_2.json")):
        predict(two_cases, tmp_path / "out", "--continue_prediction")
    predict(two_cases, tmp_path / "out")
    kept = {"a.nii.gz", "b.nii.gz", "dataset.json", "plans.json", "prediction.json", "manifest.csv", "failures.csv"}
    kept.add("inputs.jsonl")
    assert {file.name for file in (tmp_path / "out").iterdir()} == kept


def test_a_case_for_which_memory_does_not_suffice_is_one_cases_failure(trained, two_cases, tmp_path, monkeypatch):
    shutil.copy(two_cases / "a_0000.nii.gz", two_cases / "c_0000.nii.gz")
    forward = ModalityNetwork.forward

    def short_without_t2w(network, x):
        if x[:, 1].isnan().any() and not x[:, 2].isnan().any():
            torch.zeros(1 << 52)
        return forward(network, x)

    predict(two_cases, tmp_path / "before")
    monkeypatch.setattr(ModalityNetwork, "forward", short_without_t2w)
    with pytest.raises(SystemExit, match=facts("Not predicted: 1", "b (T1w+FLAIR)", "device cpu", "more memory")):
        predict(two_cases, tmp_path / "out")
    expected = segmentations(tmp_path / "before")
    assert segmentations(tmp_path / "out") == {name: expected[name] for name in ("a.nii.gz", "c.nii.gz")}
    monkeypatch.undo()
    predict(two_cases, tmp_path / "out", "--continue_prediction")
    assert segmentations(tmp_path / "out") == expected


@pytest.mark.usefixtures("own_workers")
def test_a_worker_that_is_killed_is_one_cases_failure(trained, two_cases, tmp_path, monkeypatch):
    """By an image that takes all memory, say; a case that was at work beside it is none the worse."""
    (two_cases / "b_0000.nii.gz").unlink()
    os.mkfifo(two_cases / "b_0000.nii.gz")  # reading it waits, until the process is killed
    killer = threading.Thread(target=kill_readers_of, args=(two_cases / "b_0000.nii.gz", 2), daemon=True)
    killer.start()
    with pytest.raises(SystemExit, match=facts("b: ", "killed", "memory")):
        predict(two_cases, tmp_path / "out", workers=("-npp", 1, "-nps", 0))
    assert segmentations(tmp_path / "out").keys() == {"a.nii.gz"}


def test_without_shared_memory_or_a_home_by_an_unknown_user_from_read_only_folders(trained, two_cases, tmp_path):
    """What containers take away: semaphores and processes, a home, a name for the user, permission to write."""
    predict(two_cases, tmp_path / "expected")
    out = tmp_path / "out"
    out.mkdir()
    locked = [two_cases, *two_cases.iterdir(), *(path for path in trained.model_folder().rglob("*"))]
    modes = {path: path.stat().st_mode for path in locked}
    for path, mode in modes.items():
        path.chmod(mode & ~0o222)
    options = map(str, ("predict", "-i", two_cases, "-o", out, *MODEL, *INLINE))
    try:
        done = subprocess.run(
            [sys.executable, "-c", CONTAINER, *options],
            env={**os.environ, "HOME": "/nonexistent", "USER": "", "LOGNAME": ""},
            capture_output=True,
            text=True,
            preexec_fn=without_privileges,
        )
    finally:
        for path, mode in modes.items():
            path.chmod(mode)
    assert done.returncode == 0, done.stderr
    assert segmentations(out) == segmentations(tmp_path / "expected") and len(segmentations(out)) == 2


CONTAINER = """
import _multiprocessing, os, pwd, sys
class SemLock:
    SEM_VALUE_MAX = 1
    def __init__(self, *_, **__):
        raise OSError(38, "Function not implemented")
_multiprocessing.SemLock = SemLock
def nobody(uid):
    raise KeyError(f"getpwuid(): uid not found: {uid}")
pwd.getpwuid = nobody
def no_fork(*_):
    raise OSError(11, "Resource temporarily unavailable")
from nnunet_moe.cli import main
import multiprocessing.process
multiprocessing.process.BaseProcess.start = no_fork
main()
"""


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("-step_size", 0), ("step_size", "0.0", 1)),
        (("-npp", -1), ("-npp", "-nps", 0)),
        (("-num_parts", 2, "-part_id", 2), ("-part_id is 2", "-num_parts 2")),
        (("--require", "T3w"), ("--require T3w", "T1w, T2w, FLAIR")),
        (("--min_modalities", 4), ("--min_modalities", 4, "1 to 3")),
        (("-prev_stage_predictions", "x"), ("no segmentations", "previous stage")),
        (("-f", 3), ("fold_3/checkpoint_final.pth", "does not exist")),
        (("-tr", "nnUNetTrainerSD"), ("nnUNetTrainerSD", "not been trained")),
        (("-i", "nowhere"), ("nowhere", "no folder")),
        (("-scores", "nowhere"), ("nowhere", "no evaluation")),
    ],
)
def test_what_cannot_be_met_is_refused_before_anything_is_written(trained, two_cases, tmp_path, options, said):
    with pytest.raises(SystemExit, match=facts(*said)):
        predict(two_cases, tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()
    with pytest.raises(SystemExit, match=facts("-i", "-prev_stage_predictions")):
        predict(two_cases, two_cases)
    with pytest.raises(SystemExit, match=facts("-i", "-prev_stage_predictions")):
        predict(two_cases, tmp_path / "out", "-prev_stage_predictions", tmp_path / "out")
    with pytest.raises(SystemExit, match=facts("no images")):
        predict(trained.plans_file.parent, tmp_path / "out")


def test_without_semaphores_the_command_says_what_to_do(trained, two_cases, tmp_path, monkeypatch):
    def none(*_, **__):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(_multiprocessing, "SemLock", none)
    with pytest.raises(SystemExit, match=facts("Function not implemented", "-npp 0 -nps 0")):
        predict(two_cases, tmp_path / "out", workers=("-npp", 1, "-nps", 1))
    assert not (tmp_path / "out").exists()


class Evaluation:
    """Scores as `EvaluationFolder` gives them, for one code, of two labels and their mean."""

    def scores(self, modalities: str) -> Scores | None:
        rows = [("a", 0.5, 0.125), ("se_a", 0.25, math.nan), ("mean over labels", 0.375, 0.1)]
        means = pd.DataFrame(
            [(label, metric, mean, error, 4, 1) for label, mean, error in rows for metric in ("dsc", "hd95_mm")],
            columns=["label", "metric", "mean", "standard_error", "cases", "failed"],
        )
        return Scores(means, "", "") if modalities == "T1w" else None


def test_the_manifest_of_several_labels(tmp_path):
    manifest = Manifest(tmp_path / "manifest.csv", ("T1w", "a b/c"), ("a", "se_a"), Evaluation())
    manifest.add("y", Prediction("a b/c", {"a b/c": "y_0001.mha"}, 1.0, {"a": 1.5, "se_a": 0.0}, "note, with comma"))
    manifest.add("x", Prediction("T1w", {"T1w": "x_0000.mha"}, 2.0, {"a": 1e-7, "se_a": 12345678.5}, ""))
    manifest.write()
    assert manifest.file.read_text().splitlines() == [
        "case,modalities,file_T1w,file_a b/c,seconds,volume_mm3_a,expected_dsc_a,dsc_standard_error_a,"
        "volume_mm3_se_a,expected_dsc_se_a,dsc_standard_error_se_a,expected_from_cases,notes",
        "x,T1w,x_0000.mha,,2.00,1e-07,0.5,0.125,12345678.5,0.25,,4,",
        'y,a b/c,,y_0001.mha,1.00,1.5,,,0,,,,"note, with comma"',
    ]
    again = Manifest(manifest.file, manifest.modalities, manifest.labels, None)
    again.read()
    assert again.predictions == manifest.predictions
    with pytest.raises(ModelError, match=facts("manifest.csv", "not written by a run")):
        Manifest(manifest.file, ("T1w",), manifest.labels, None).read()


def test_each_case_appends_a_row_and_half_a_row_of_a_killed_run_is_ignored(tmp_path):
    predictions = {
        case: Prediction("T1w", {"T1w": f"/in/{case}_0000.nii.gz"}, 1.0, {"a": 1.0}, f"note, of {case}")
        for case in ("c", "a", 'two "lines"\nb, 患者')
    }

    def manifest():
        return Manifest(tmp_path / "manifest.csv", ("T1w",), ("a",), None)

    run, contents = manifest(), [b""]
    for case, prediction in predictions.items():
        run.add(case, prediction)
        contents.append(run.file.read_bytes())
        assert contents[-1].startswith(contents[-2])
    whole, before = contents[-1], contents[-2]
    for size in range(len(before), len(whole)):
        run.file.write_bytes(whole[:size])
        continued = manifest()
        continued.read()
        assert list(continued.predictions) == ["c", "a"], whole[:size]
    *_, (last, prediction) = predictions.items()
    continued.add(last, prediction)
    continued.write()
    again = manifest()
    again.read()
    assert again.predictions == predictions and list(again.predictions) == sorted(predictions)


def test_volumes_by_hand():
    segmentation = np.array([[[0, 1, 1], [2, 2, 2]]])
    labels = {"a": 1, "both": (1, 2), "none": 3}
    assert volumes_of(segmentation, (2.0, 0.5, 3.0), labels) == {"a": 6.0, "both": 15.0, "none": 0.0}
    assert volumes_of(segmentation, (999.0, 1.0, 1.0), labels) == {"a": 2.0, "both": 5.0, "none": 0.0}  # a 2D image
