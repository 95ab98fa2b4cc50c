"""`nnunet_moe evaluate` from start to end on the tiny dataset, against nnU-Net's own prediction."""

import csv
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
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from facts import facts
from killed_workers import kill_readers_of
from nnunet_in_process import command, train
from nnunet_moe.architectures.modality_network import ModalityNetwork
from nnunet_moe.cli import main
from nnunet_moe.commands.evaluate.evaluate import choose_codes
from nnunet_moe.commands.evaluate.metric_settings import MetricSettings
from nnunet_moe.commands.evaluate.metrics import METRICS
from nnunet_moe.commands.evaluate.models import ScoredCase, folder_cases
from nnunet_moe.commands.evaluate.steps import score_labels
from nnunet_moe.errors import ModalityError, SettingsError
from nnunet_moe.images.phantom import SIGNAL
from nnunet_moe.modalities.codes import all_codes, code_digits, code_text
from nnunet_moe.models.network_input import NetworkInput
from nnunet_moe.quality.file import read_calibrations
from nnunet_moe.quality.signals import FAST, SIGNALS
from nnunet_moe.runtime.environment import versions

NAMES = tuple(SIGNAL)
CODES = [code_text(code, NAMES) for code in all_codes(3)]
MOESD, BASELINE, DEDICATED = "nnUNetTrainerMoESD", "nnUNetTrainerModalityDropout", "nnUNetTrainerDedicated"
CASE = "phantomTs000"


@pytest.fixture(scope="module")
def models(trained, tmp_path_factory):
    """Beside MoE-SD: the baseline, two dedicated models, and nnU-Net's own network with its first weights."""
    results = tmp_path_factory.mktemp("results")
    folder = Path(shutil.copytree(trained.model_folder(), results / "Dataset901_Tiny" / trained.model_folder().name))
    plans = json.loads(trained.plans_file.read_text())
    for name, code in (("3d_t1w", [1, 0, 0]), ("3d_all", [1, 1, 1])):
        settings = {**plans["configurations"]["3d_tiny"]["nnunet_moe"], "modality_code": code}
        plans["configurations"][name] = {"inherits_from": "3d_tiny", "nnunet_moe": settings}
    trained.plans_file.write_text(json.dumps(plans))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("nnUNet_results", str(results))
        train(901, "3d_tiny", BASELINE)
        for configuration in ("3d_t1w", "3d_all"):
            train(901, configuration, DEDICATED)
        write_stock_model(folder)
        yield trained


def write_stock_model(folder):
    """The model folder of an ordinary nnU-Net, beside that of MoE-SD."""
    stock = folder.with_name("nnUNetTrainer__nnUNetPlans__3d_tiny")
    shutil.copytree(folder, stock, ignore=shutil.ignore_patterns("fold_1", "validation", "*.png"))
    plans = PlansManager(str(stock / "plans.json"))
    network = nnUNetTrainer.build_network_architecture(plans, plans.get_configuration("3d_tiny"), 3, 2)
    file = stock / "fold_0" / "checkpoint_final.pth"
    checkpoint = torch.load(file, weights_only=False)
    del checkpoint["optimizer_state"]["nnunet_moe"]  # nnU-Net does not write it
    torch.save({**checkpoint, "trainer_name": "nnUNetTrainer", "network_weights": network.state_dict()}, file)


def evaluate(out, *more, trainers=(MOESD,), folds=(0,)):
    options = ("-d", "901", "-c", "3d_tiny", "-tr", *trainers, "-f", *folds, "-o", out, "-device", "cpu")
    main(["evaluate", *map(str, (*options, "--disable_tta", *more))])


def rows_of(out):
    with (out / "results.csv").open() as opened:
        return list(csv.DictReader(opened))


def copied(dataset, folder):
    """Images and labels of the two test cases, to be spoilt."""
    images, labels = (shutil.copytree(dataset.raw / name, folder / name) for name in ("imagesTs", "labelsTs"))
    return Path(images), Path(labels)


def rewrite(file, change):
    image = sitk.ReadImage(str(file))
    changed = sitk.GetImageFromArray(change(sitk.GetArrayFromImage(image)))
    changed.CopyInformation(image)
    sitk.WriteImage(changed, str(file))


def keep_center_only(array):
    outside = np.ones_like(array)
    outside[8:-8, 10:-10, 8:-8] = 0
    return np.where(outside, 0, array)


@pytest.fixture(scope="module")
def two_cases(dataset, tmp_path_factory):
    """The first case as it is; the second with a T1w that covers less, so that nnU-Net crops it to less alone."""
    images, labels = copied(dataset, tmp_path_factory.mktemp("two"))
    rewrite(images / "phantomTs001_0000.nii.gz", keep_center_only)
    return images, labels


@pytest.fixture(scope="module")
def evaluated(models, two_cases, tmp_path_factory):
    """All trainers on the test cases, segmentations kept."""
    out = tmp_path_factory.mktemp("evaluated") / "out"
    where = ("-i", two_cases[0], "-l", two_cases[1], "--save_predictions", "--quality", "full")
    evaluate(out, *where, trainers=(MOESD, BASELINE, DEDICATED, "nnUNetTrainer"))
    return out


def read(file):
    return sitk.GetArrayFromImage(sitk.ReadImage(str(file)))


def test_the_segmentations_are_those_of_nnunetv2_predict_voxel_by_voxel(evaluated, two_cases, tmp_path):
    """Every code of every case, as if its other files were missing; also where that changes what is cropped."""
    incoming = tmp_path / "in"
    incoming.mkdir()
    for code in all_codes(3):
        for channel in np.flatnonzero(code):
            for case in ("phantomTs000", "phantomTs001"):
                target = incoming / f"{case}_{code_digits(code)}_{channel:04d}.nii.gz"
                shutil.copy(two_cases[0] / f"{case}_{channel:04d}.nii.gz", target)
    model = ("-d", 901, "-c", "3d_tiny", "-tr", MOESD, "-f", 0, "-device", "cpu", "--disable_tta")
    command("nnUNetv2_predict", *model, "-i", incoming, "-o", tmp_path / "out", "-npp", 0, "-nps", 0)
    for code, text in zip(all_codes(3), CODES, strict=True):
        for case in ("phantomTs000", "phantomTs001"):
            ours = evaluated / "predictions" / MOESD / text / f"{case}.nii.gz"
            theirs = tmp_path / "out" / f"{case}_{code_digits(code)}.nii.gz"
            assert np.array_equal(read(ours), read(theirs)), (case, text)
            assert sitk.ReadImage(str(ours)).GetSpacing() == sitk.ReadImage(str(theirs)).GetSpacing()


def test_the_summary_says_with_which_versions_each_model_was_trained(evaluated):
    settings = json.loads((evaluated / "summary.json").read_text())["settings"]
    packages = ("nnunet-moe", "torch", "nnunetv2", "batchgeneratorsv2", "dynamic-network-architectures")
    assert versions(*packages).items() <= settings["versions"].items()
    for name, model in settings["models"].items():
        files = [f"{name.partition(',')[0]}/fold_0/checkpoint_final.pth"]
        is_ours = not name.startswith("nnUNetTrainer__")  # nnU-Net's checkpoints do not say it
        assert model["trained_with"] == ({file: versions(*packages) for file in files} if is_ours else {})


def test_kept_segmentations_are_a_folder_that_nnunets_evaluation_takes_and_agrees_with(evaluated, two_cases):
    folder = evaluated / "predictions" / MOESD / "T1w+FLAIR"
    files = ("-djfile", folder / "dataset.json", "-pfile", folder / "plans.json", "-np", 1)
    command("nnUNetv2_evaluate_folder", two_cases[1], folder, *files)
    theirs = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").unlink()
    by_case = {Path(case["prediction_file"]).name[:-7]: case["metrics"]["1"] for case in theirs["metric_per_case"]}
    ours = {row["case"]: row for row in rows_of(evaluated) if (row["trainer"], row["code"]) == (MOESD, "T1w+FLAIR")}
    assert by_case.keys() == ours.keys() and len(ours) == 2
    for case, metrics in by_case.items():
        assert float(ours[case]["dsc"]) == pytest.approx(metrics["Dice"])
        assert float(ours[case]["volume_mm3"]) == metrics["n_pred"]
        assert float(ours[case]["reference_volume_mm3"]) == metrics["n_ref"]
        assert float(ours[case]["ppv"]) == pytest.approx(metrics["TP"] / metrics["n_pred"])
        assert float(ours[case]["sensitivity"]) == pytest.approx(metrics["TP"] / metrics["n_ref"])


def test_signals_of_trust_are_those_of_the_kept_segmentations(evaluated):
    """The agreement is the Dice with the segmentations of one modality less; a single modality has none."""

    def lesions(row, code):
        return read(evaluated / "predictions" / row["trainer"] / code / f"{row['case']}.nii.gz") == 1

    for row in rows_of(evaluated):
        assert float(row["size_mm3"]) == pytest.approx(float(row["volume_mm3"]), rel=1e-12)
        assert float(row["components"]) == float(row["lesions"])
        assert 0 <= float(row["expected_dice"]) <= 1 and 0 <= float(row["entropy_inside"]) <= 1
        names = row["code"].split("+")
        if row["trainer"] in (DEDICATED, "nnUNetTrainer") or len(names) == 1:
            assert row["mean_agreement"] == row["least_agreement"] == ""
            continue
        whole, found = lesions(row, row["code"]), []
        for name in names:
            other = lesions(row, "+".join(each for each in names if each != name))
            total = whole.sum() + other.sum()
            found.append(2 * (whole & other).sum() / total if total else 1)
        assert float(row["mean_agreement"]) == pytest.approx(np.mean(found), rel=1e-12)
        assert float(row["least_agreement"]) == pytest.approx(min(found), rel=1e-12)


def test_too_few_patients_are_calibrated_by_the_mean_of_the_subset(evaluated):
    calibration = read_calibrations(evaluated / "quality.json", MOESD)["lesion"]
    for code in all_codes(3):
        scored = [float(row["dsc"]) for row in rows_of(evaluated) if row["trainer"] == MOESD
                  and row["code"] == code_text(code, NAMES)]  # fmt: skip
        expected = calibration.expect(code_digits(code), dict.fromkeys(FAST, 0.5))
        assert expected.dsc == pytest.approx(np.mean(scored)) and math.isnan(expected.low)


def test_each_model_is_scored_under_the_codes_that_it_takes(evaluated):
    scored = {(row["trainer"], row["configuration"], row["code"]) for row in rows_of(evaluated)}
    everything = {(trainer, "3d_tiny", code) for trainer in (MOESD, BASELINE) for code in CODES}
    dedicated = {(DEDICATED, "3d_t1w", "T1w"), (DEDICATED, "3d_all", CODES[-1])}
    assert scored == everything | dedicated | {("nnUNetTrainer", "3d_tiny", CODES[-1])}
    assert not any(row["failure"] for row in rows_of(evaluated)) and len(rows_of(evaluated)) == 2 * (7 + 7 + 2 + 1)


def test_the_tables_and_pictures_are_there(evaluated):
    assert (evaluated / "figures" / f"gates_{MOESD}.png").exists()
    assert not (evaluated / "figures" / f"gates_{BASELINE}.png").exists()
    assert {path.name for path in (evaluated / "figures").glob("case_*")} == {"case_worst.png", "case_best.png"}
    lines = (evaluated / "tables" / "lesion_codes.md").read_text().splitlines()
    assert sum(line.startswith("| ●") or line.startswith("| ○") for line in lines) == 7
    with (evaluated / "comparisons.csv").open() as opened:
        compared = list(csv.DictReader(opened))
    assert len({(row["trainer"], row["versus"]) for row in compared}) == 6


def test_a_case_is_preprocessed_once_for_all_codes_that_nnunet_crops_alike(models, two_cases, tmp_path, monkeypatch):
    """The first case once; the second also for T1w alone, which covers less."""
    seen = []
    preprocess = NetworkInput.preprocess

    def counted(self, case, code, *more):
        seen.append(code)
        return preprocess(self, case, code, *more)

    monkeypatch.setattr(NetworkInput, "preprocess", counted)
    evaluate(tmp_path / "out", "-i", two_cases[0], "-l", two_cases[1])
    assert seen == [(True, True, True), (True, False, False), (True, True, True)]


def test_the_validation_cases_of_the_folds(models, tmp_path):
    out = tmp_path / "out"
    evaluate(out, folds=(0, 1))
    splits = json.loads(models.plans_file.with_name("splits_final.json").read_text())
    expected = {(str(fold), case) for fold in (0, 1) for case in splits[fold]["val"]}
    assert {(row["fold"], row["case"]) for row in rows_of(out)} == expected
    assert len(rows_of(out)) == 7 * len(expected)


def test_an_ensemble_of_folds(models, two_cases, tmp_path):
    evaluate(tmp_path / "out", "-i", two_cases[0], "-l", two_cases[1], "-codes", "FLAIR", folds=(0, 1))
    assert {(row["fold"], row["code"]) for row in rows_of(tmp_path / "out")} == {("0+1", "FLAIR")}


def contents(out):
    files = [path for path in out.rglob("*") if path.is_file()]
    return {path.relative_to(out): path.read_bytes() for path in files if path.suffix != ".npz"}


def test_a_killed_run_goes_on_where_it_stopped_and_ends_the_same(models, two_cases, preloaded_python, tmp_path):
    out, where = tmp_path / "out", ("-i", two_cases[0], "-l", two_cases[1])
    arguments = ["evaluate", "-d", "901", "-c", "3d_tiny", "-tr", MOESD, "-f", "0", "-o", out, "-device", "cpu"]
    arguments = [str(argument) for argument in (*arguments, "--disable_tta", *where)]
    command = [preloaded_python, "-m", "nnunet_moe", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    while len(list(out.glob("records/**/[!.]*.npz"))) < 3 and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()  # until nobody writes any more
    done = {path: path.stat().st_mtime_ns for path in out.glob("records/**/[!.]*.npz")}
    assert 3 <= len(done) < 14 and not (out / "report.html").exists() and not (out / "results.csv").exists()
    main(arguments)
    assert {path: path.stat().st_mtime_ns for path in done} == done
    first = contents(out)
    main(arguments)
    assert contents(out) == first
    shutil.rmtree(out)
    main(arguments)
    assert contents(out) == first, "the same command gives the same figures"


def scores_of(out):
    """What the records hold, apart from the times of the kept files."""
    found = {}
    for path in out.rglob("records/**/*.npz"):
        with np.load(path) as stored:
            content = {**json.loads(str(stored["content"])), "kept": None}
            found[path.relative_to(out)] = str(stored["key"]), content, stored["overlay"].tobytes()
    return found


@pytest.mark.parametrize("trainers", [(MOESD, BASELINE)])
def test_with_worker_processes_the_results_are_the_same_byte_for_byte(models, two_cases, tmp_path, trainers, capsys):
    """Also among cases that cannot be read, and nothing is left of the work on the way."""
    images, labels = (Path(shutil.copytree(folder, tmp_path / folder.name)) for folder in two_cases)
    for channel in range(3):
        shutil.copy(images / f"{CASE}_{channel:04d}.nii.gz", images / f"broken_{channel:04d}.nii.gz")
    truncated(images / "broken_0001.nii.gz")
    shutil.copy(labels / f"{CASE}.nii.gz", labels / "broken.nii.gz")
    found, out = [], tmp_path / "out"
    for workers in (("-npp", 0, "-nps", 0), ("-npp", 2, "-nps", 2)):
        with pytest.raises(SystemExit, match=facts("Failed segmentations: 14")):
            evaluate(out, "-i", images, "-l", labels, "--save_predictions", *workers, trainers=trainers)
        said = capsys.readouterr().out
        assert re.search(r"The network ran for \d+ of \d+ s \(\d+%\)\.", said)
        assert not list(out.glob(".*"))
        found.append((contents(out), scores_of(out)))
        shutil.rmtree(out)
    assert found[0] == found[1] and len(found[0][1]) == 2 * 2 * 7
    assert sum(path.parts[0] == "predictions" and path.suffix == ".gz" for path in found[0][0]) == 2 * 2 * 7


def test_a_worker_that_is_killed_is_one_cases_failure(models, two_cases, tmp_path):
    """By an image that takes all memory, say; the other case is scored."""
    images, labels = (Path(shutil.copytree(folder, tmp_path / folder.name)) for folder in two_cases)
    pipe = images / f"{CASE}_0000.nii.gz"
    pipe.unlink()
    os.mkfifo(pipe)  # reading it waits, until the process is killed
    threading.Thread(target=kill_readers_of, args=(pipe, 2), daemon=True).start()
    with pytest.raises(SystemExit, match=facts("Failed segmentations: 1")):
        evaluate(tmp_path / "out", "-i", images, "-l", labels, "-codes", "T2w", "-npp", 1, "-nps", 1)
    by_case = {row["case"]: row for row in rows_of(tmp_path / "out")}
    assert re.search(facts("killed", "memory"), by_case[CASE]["failure"]) and by_case[CASE]["dsc"] == ""
    assert by_case["phantomTs001"]["failure"] == "" and 0 <= float(by_case["phantomTs001"]["dsc"]) <= 1


def test_what_changed_is_scored_anew(models, dataset, tmp_path):
    images, labels = copied(dataset, tmp_path)
    out, where = tmp_path / "out", ("-i", images, "-l", labels, "-codes", "FLAIR")
    evaluate(out, *where)
    before = {row["case"]: row for row in rows_of(out)}
    rewrite(labels / f"{CASE}.nii.gz", np.zeros_like)
    evaluate(out, *where)
    after = {row["case"]: row for row in rows_of(out)}
    assert after[CASE]["reference_lesions"] == "0" and after[CASE]["ltpr"] == after[CASE]["sensitivity"] == ""
    assert after["phantomTs001"] == before["phantomTs001"]
    evaluate(out, *where, "-min_lesion", "5")
    assert {row["case"]: row for row in rows_of(out)} != after
    evaluate(out, *where[:-1], "FLAIR", "T1w")
    assert {row["code"] for row in rows_of(out)} == {"FLAIR", "T1w"}


def test_nothing_of_an_earlier_evaluation_stays_beside_a_later_one(models, two_cases, tmp_path):
    out, where = tmp_path / "out", ("-i", two_cases[0], "-l", two_cases[1], "-codes", "FLAIR")
    evaluate(out, *where, trainers=(MOESD, BASELINE))
    assert (out / "tables" / "lesion_comparisons.md").exists()
    evaluate(out, *where, trainers=(BASELINE,))
    assert not list(out.glob("*/*_comparisons*")) and not list(out.glob("figures/gates*"))
    assert {row["trainer"] for row in rows_of(out)} == {BASELINE}
    with pytest.raises(SystemExit, match=facts("nothing to score", "complete cases")):
        evaluate(tmp_path / "none", *where, trainers=("nnUNetTrainer",))


def test_what_has_no_signals_of_trust_yet_is_scored_again_only_if_they_are_wanted(models, two_cases, tmp_path):
    out, where = tmp_path / "out", ("-i", two_cases[0], "-l", two_cases[1], "-codes", "FLAIR")
    evaluate(out, *where, "--quality", "off")
    before, (first, _) = times_of_records(out), rows_of(out)
    assert first["expected_dice"] == "" and not list(out.glob("quality*"))
    evaluate(out, *where, "--quality", "off")
    assert times_of_records(out) == before
    evaluate(out, *where)
    measured, (second, _) = times_of_records(out), rows_of(out)
    assert all(measured[file] != before[file] for file in before)
    assert {name: second[name] for name in first if name not in SIGNALS} == {
        name: value for name, value in first.items() if name not in SIGNALS
    }
    assert second["expected_dice"] != "" and (out / "quality.json").exists()
    evaluate(out, *where, "--quality", "off")
    assert times_of_records(out) == measured and not list(out.glob("quality*"))


def times_of_records(out):
    return {path: path.stat().st_mtime_ns for path in out.glob("records/**/*.npz")}


def test_a_checkpoint_that_is_damaged(models, two_cases, tmp_path):
    folder = Path(os.environ["nnUNet_results"]) / "Dataset901_Tiny" / f"{MOESD}__nnUNetPlans__3d_tiny"
    damaged = folder / "fold_0" / "damaged.pth"
    damaged.write_bytes((folder / "fold_0" / "checkpoint_final.pth").read_bytes()[:5000])
    with pytest.raises(SystemExit, match=facts("fold 0", "cannot be loaded")):
        evaluate(tmp_path / "out", "-i", two_cases[0], "-l", two_cases[1], "-chk", "damaged.pth")
    damaged.unlink()


def test_a_failure_is_shown_counted_and_repaired_by_the_next_run(models, dataset, tmp_path, capsys):
    images, labels = copied(dataset, tmp_path)
    broken = images / f"{CASE}_0001.nii.gz"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:200])
    out, where = tmp_path / "out", ("-i", images, "-l", labels, "-codes", "T1w", "T2w")
    said = ("Failed segmentations: 2", f"{CASE} (2 segmentations): {broken} cannot be read", out / "report.html")
    with pytest.raises(SystemExit, match=facts(*said)):
        evaluate(out, *where)
    assert "1 failed" in capsys.readouterr().out
    failed = [row for row in rows_of(out) if row["failure"]]
    assert {(row["case"], row["code"], row["dsc"]) for row in failed} == {(CASE, "T1w", ""), (CASE, "T2w", "")}
    assert all("cannot be read" in row["failure"] for row in failed) and len(rows_of(out)) == 4
    assert json.loads((out / "summary.json").read_text())["num_failed"] == 2
    assert "cannot be read" in (out / "report.html").read_text()
    broken.write_bytes(whole)
    evaluate(out, *where)
    assert not any(row["failure"] for row in rows_of(out))


def test_a_segmentation_for_which_memory_does_not_suffice_names_case_code_and_device(
    models, two_cases, tmp_path, monkeypatch
):
    forward = ModalityNetwork.forward

    def short_with_t2w_alone(network, x):
        if x[:, 0].isnan().any() and x[:, 2].isnan().any():
            torch.zeros(1 << 52)
        return forward(network, x)

    out, where = tmp_path / "out", ("-i", two_cases[0], "-l", two_cases[1], "-codes", "T1w", "T2w")
    monkeypatch.setattr(ModalityNetwork, "forward", short_with_t2w_alone)
    with pytest.raises(SystemExit, match=facts("Failed segmentations: 2")):
        evaluate(out, *where)
    found = rows_of(out)
    assert len(found) == 4 and {row["code"] for row in found if row["failure"]} == {"T2w"}
    for row in found:
        if row["code"] == "T2w":
            assert re.search(facts(f"{row['case']} (T2w)", "device cpu", "more memory"), row["failure"])
    monkeypatch.undo()
    evaluate(out, *where)
    assert not any(row["failure"] for row in rows_of(out))


def cropped(file):
    sitk.WriteImage(sitk.ReadImage(str(file))[:-1], str(file))


def moved(file):
    image = sitk.ReadImage(str(file))
    image.SetOrigin((0.0, 500.0, 0.0))
    sitk.WriteImage(image, str(file))


def truncated(file):
    file.write_bytes(file.read_bytes()[:-200])


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (cropped, ("differ", "shape")),
        (moved, ("differ", "origin", "500")),
        (truncated, (f"{CASE}.nii.gz", "read")),
        (lambda file: rewrite(file, lambda array: array * 255), ("voxels", 255, "0, 1")),
        (lambda file: rewrite(file, lambda array: array * np.float32(0.7)), ("voxels", 0.7)),
        (lambda file: rewrite(file, lambda array: np.where(array, np.nan, 0)), ("voxels", "NaN")),
    ],
)
def test_a_label_that_cannot_be_trusted_is_a_failure(models, dataset, tmp_path, spoil, reason):
    images, labels = copied(dataset, tmp_path)
    spoil(labels / f"{CASE}.nii.gz")
    with pytest.raises(SystemExit, match=facts("Failed segmentations: 1")):
        evaluate(tmp_path / "out", "-i", images, "-l", labels, "-codes", "T1w")
    (failed,) = (row for row in rows_of(tmp_path / "out") if row["failure"])
    assert failed["case"] == CASE and re.search(facts(*reason), failed["failure"])


def test_a_case_without_any_of_the_modalities_asked_for_is_named(models, dataset, tmp_path):
    images, labels = copied(dataset, tmp_path)
    (images / f"{CASE}_0002.nii.gz").unlink()
    out, where = tmp_path / "out", ("-i", images, "-l", labels, "-codes", "FLAIR")
    evaluate(out, *where)
    assert re.search(facts("Not scored", "missing", CASE), (out / "report.html").read_text())
    assert json.loads((out / "summary.json").read_text())["unscored_cases"] == [CASE]
    (images / "phantomTs001_0002.nii.gz").unlink()
    with pytest.raises(SystemExit, match=facts("nothing to score")):
        evaluate(out, *where)


def test_kept_segmentations_are_those_that_were_scored(models, two_cases, tmp_path):
    out, where = tmp_path / "out", ("-i", two_cases[0], "-l", two_cases[1], "-codes", "FLAIR")
    file = out / "predictions" / MOESD / "FLAIR" / f"{CASE}.nii.gz"

    def kept_volume():
        (row,) = (row for row in rows_of(out) if row["case"] == CASE)
        return float(row["volume_mm3"]), float(read(file).sum()) if file.exists() else None

    evaluate(out, *where, "--save_predictions")
    assert len(set(kept_volume())) == 1
    evaluate(out, *where, "-step_size", "1")
    assert not file.exists(), "it is not what was scored last"
    evaluate(out, *where, "-step_size", "1", "--save_predictions")
    assert len(set(kept_volume())) == 1
    rewrite(file, np.ones_like)
    evaluate(out, *where, "-step_size", "1", "--save_predictions")
    assert len(set(kept_volume())) == 1
    label = shutil.copytree(two_cases[1], tmp_path / "labels") / f"{CASE}.nii.gz"
    truncated(label)
    with pytest.raises(SystemExit, match=facts("Failed segmentations: 1")):
        evaluate(out, *where[:3], label.parent, *where[4:], "--save_predictions")
    assert not file.exists(), "a failure leaves no segmentation that looks scored"


def scored_again(out, before):
    """Which records were written anew."""
    return {path.parent.name for path in out.glob("records/**/*.npz") if path.stat().st_mtime_ns != before[path]}


def test_damaged_records_and_changed_models_are_scored_anew(models, two_cases, tmp_path):
    out, where = tmp_path / "out", ("-i", two_cases[0], "-l", two_cases[1], "-codes", "FLAIR")
    evaluate(out, *where)
    first = contents(out)

    def times():
        return {path: path.stat().st_mtime_ns for path in out.glob("records/**/*.npz")}

    damaged, empty = sorted(times())
    damaged.write_bytes(damaged.read_bytes()[:100])
    empty.write_bytes(b"")
    before = times()
    evaluate(out, *where)
    assert scored_again(out, before) == {CASE, "phantomTs001"} and contents(out) == first
    before = times()
    evaluate(out, *where)
    assert scored_again(out, before) == set()
    plans = Path(os.environ["nnUNet_results"]) / "Dataset901_Tiny" / f"{MOESD}__nnUNetPlans__3d_tiny" / "plans.json"
    text = plans.read_text()
    plans.write_text(text + "\n")
    evaluate(out, *where)
    plans.write_text(text)
    assert scored_again(out, before) == {CASE, "phantomTs001"}


def test_an_output_folder_that_cannot_be_written_is_an_error_before_any_work(models, two_cases, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SystemExit, match=facts("Not a directory")):
        evaluate(tmp_path / "file" / "out", "-i", two_cases[0], "-l", two_cases[1])


def test_cases_that_lack_modalities_are_scored_under_what_they_have(models, dataset, tmp_path):
    images, labels = copied(dataset, tmp_path)
    (images / f"{CASE}_0002.nii.gz").unlink()
    rewrite(images / f"{CASE}_0001.nii.gz", np.zeros_like)  # zero everywhere: absent too
    out = tmp_path / "out"
    evaluate(out, "-i", images, "-l", labels, trainers=(MOESD, "nnUNetTrainer"))
    scored = {(row["trainer"], row["code"]) for row in rows_of(out) if row["case"] == CASE}
    assert scored == {(MOESD, "T1w")}
    assert "1 of 2 cases have all these modalities" in (out / "tables" / "lesion_codes.md").read_text()
    evaluate(out, "-i", images, "-l", labels, trainers=(MOESD, "nnUNetTrainer"))
    assert {(row["trainer"], row["code"]) for row in rows_of(out) if row["case"] == CASE} == scored


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            ("-tr", "nnUNetTrainerSD"),
            ("nnUNetTrainerSD", "not been trained", f"{MOESD}__nnUNetPlans__3d_tiny"),
        ),
        (("-d", "987"), ("-d 987", "dataset")),
        (("-f", "3"), ("fold_3/checkpoint_final.pth", "does not exist", "fold_0/checkpoint_final.pth")),
        (("-chk", "other.pth"), ("fold_0/other.pth", "does not exist")),
        (("-f", "one"), ("fold", "number")),
        (("-f", "0", "0"), ("named twice",)),
        (("-codes", "T1w+PET"), ("'T1w+PET'", "not a subset", "T1w, T2w, FLAIR")),
        (("-codes", "T1w", "-num_codes", "2"), ("-codes", "-num_codes", "exclude")),
        (("-num_codes", "8"), ("-num_codes", 8, "1 to 7")),
        (("-i", "here"), ("-i", "-l")),
        (("-i", "here", "-l", "there"), ("here", "folder")),
        (("-step_size", "0"), ("step_size", "0.0", 0)),
        (("-tolerance", "-1"), ("tolerance_mm", "-1.0")),
        (("-min_lesion", "nan"), ("min_lesion_mm3", "nan")),
    ],
)
def test_bad_options_are_one_sentence_and_leave_nothing(models, tmp_path, more, said):
    with pytest.raises(SystemExit, match=facts(*said)):
        evaluate(tmp_path / "out", *more)
    assert not (tmp_path / "out").exists()


def test_only_cases_with_an_image_and_a_label_are_scored_and_all_others_are_named(models, dataset, tmp_path, capsys):
    images, labels = copied(dataset, tmp_path)
    out, where = tmp_path / "out", ("-i", images, "-l", labels, "-codes", "T1w")
    shutil.copy(labels / f"{CASE}.nii.gz", labels / "other.nii.gz")
    evaluate(out, *where)
    assert {row["case"] for row in rows_of(out)} == {CASE, "phantomTs001"}
    told = capsys.readouterr().out
    assert re.search(facts("WARNING", images, "no image", labels, "other"), told)
    assert re.search(facts("no image", "other"), (out / "report.html").read_text())
    with pytest.raises(SystemExit, match=facts(images, "not empty", "no evaluation")):
        evaluate(images, *where)


def test_images_and_labels_are_paired_by_name(tmp_path):
    images, labels = tmp_path / "images", tmp_path / "labels"
    for folder, names in (
        (images, ("a_0000.nii", "a_0001.nii", "b_0000.nii", "Pat_0000.nii", "Pat2.nii")),
        (labels, ("a.nii", "pat.nii", "Pat2.nii", "notes.txt")),
    ):
        folder.mkdir()
        for name in names:
            (folder / name).touch()
    (case,), notes = folder_cases(images, labels, ".nii")
    assert (case.name, case.label, case.channels) == ("a", str(labels / "a.nii"), {0, 1}) and len(case.images) == 2
    assert len(notes) == 4
    for note, said in zip(
        notes,
        (
            (images / "Pat2.nii", "no channel", "CASE_XXXX.nii"),
            (images, "no image", "Pat2, pat"),
            (labels, "no label", "Pat, b"),
            (images / "Pat", labels / "pat", "upper and lower case", "same name"),
        ),
        strict=True,
    ):
        assert re.search(facts(*said), note), note
    (labels / "a.nii").unlink()
    with pytest.raises(ModalityError, match=facts("No case", images, labels, "Pat, a, b")):
        folder_cases(images, labels, ".nii")
    (labels / "b.nii.gz").touch()
    (labels / "x.nii").touch()
    (images / "x_0000.nii").touch()
    assert folder_cases(images, labels, ".nii")[1][-1] == (
        f"{labels} has files that look like labels, but do not end in .nii: b.nii.gz. Convert them."
    )
    (labels / "b.nii.gz").unlink()
    many = [f"c{number:02d}" for number in range(12)]
    for name in many:
        (images / f"{name}_0000.nii").touch()
    assert "Pat, a, b, c00, c01, c02, c03, c04, c05, c06 and 5 more." in folder_cases(images, labels, ".nii")[1][2]


def test_more_than_five_modalities_ask_for_a_choice():
    names, complete = tuple("ABCDEF"), [having(range(6))]
    assert len(choose_codes(names[:5], None, None, complete)) == 31
    with pytest.raises(SettingsError, match=facts("63 codes", "6 modalities")):
        choose_codes(names, None, None, complete)
    drawn = choose_codes(names, None, 10, complete)
    assert len(set(drawn)) == 10 and (True,) * 6 in drawn and drawn == choose_codes(names, None, 10, complete)
    assert choose_codes(names, ["F+A", "B"], None, complete) == [parse("010000"), parse("100001")]


def test_codes_that_no_case_has_are_not_scored():
    names = tuple("ABCDEFG")
    each_of_one_kind = [having([channel]) for channel in range(7)]
    assert choose_codes(names, None, None, each_of_one_kind) == [
        tuple(place == channel for place in range(7)) for channel in range(7)
    ]
    some = choose_codes(names, None, None, [having([0, 2]), having([2, 5])])
    assert some == [parse(digits) for digits in ("1000000", "0010000", "0000010", "1010000", "0010010")]
    assert parse("0010010") in choose_codes(names, None, 2, [having([0, 2]), having([2, 5])])
    with pytest.raises(SettingsError, match=facts(6, "1 to 5")):
        choose_codes(names, None, 6, [having([0, 2]), having([2, 5])])
    with pytest.raises(ModalityError, match=facts("No case", "A, B")):
        choose_codes(names, None, None, [having([7])])


def having(channels):
    return ScoredCase("case", (), "", frozenset(channels))


def parse(digits):
    return tuple(digit == "1" for digit in digits)


@pytest.mark.parametrize(
    ("reader", "ending"), [(SimpleITKIO, ".nii.gz"), (SimpleITKIO, ".mha"), (NaturalImage2DIO, ".png")]
)
def test_images_of_two_dimensions_are_measured_in_the_plane(tmp_path, reader, ending):
    labels = np.zeros((9, 8), dtype=np.uint8)
    labels[2:4, 3:6] = 1
    image = sitk.GetImageFromArray(labels)
    image.SetSpacing((0.5, 0.5))
    sitk.WriteImage(image, str(tmp_path / f"label{ending}"))
    reference, properties = reader().read_seg(str(tmp_path / f"label{ending}"))
    scores = score_labels(
        np.zeros_like(reference[0]), reference[0], properties["spacing"], {"a": 1}, None, MetricSettings()
    )
    width = 1 if reader is NaturalImage2DIO else 0.5  # those files tell no spacing
    assert scores["a"]["reference_volume_mm3"] == 6 * width**2
    assert scores["a"]["hd95_mm"] == pytest.approx(width * math.hypot(9, 8))


def test_a_case_without_an_annotated_voxel_has_no_score_and_one_annotated_voxel_is_enough():
    reference, predicted = np.full((1, 4, 5), 3), np.zeros((1, 4, 5), dtype=np.uint8)
    regions = {"whole": (1, 2), "core": 2}
    score = partial(score_labels, spacing=(1, 1, 1), labels=regions, ignore_label=3, settings=MetricSettings())
    undefined = dict.fromkeys(METRICS)
    for prediction in (predicted, predicted + 2):
        assert score(prediction, reference) == {"whole": undefined, "core": undefined}
    reference[0, 0, 0] = 1
    scores = score(predicted + 2, reference)
    assert (scores["whole"]["dsc"], scores["core"]["dsc"]) == (1, 0)
    assert (scores["core"]["volume_mm3"], scores["core"]["reference_volume_mm3"]) == (1, 0)
    reference[0, 0, 0] = 0  # annotated as background: an empty reference, which is a defined one
    assert score(predicted, reference)["core"]["dsc"] == 1


def test_a_fold_without_validation_cases(models, tmp_path):
    folder = Path(os.environ["nnUNet_results"]) / "Dataset901_Tiny" / f"{MOESD}__nnUNetPlans__3d_tiny"
    shutil.copytree(folder / "fold_0", folder / "fold_all")
    try:
        with pytest.raises(SystemExit, match=facts("Fold all", "no validation cases", "-i", "-l")):
            evaluate(tmp_path / "out", folds=("all",))
    finally:
        shutil.rmtree(folder / "fold_all")


def test_two_models_for_the_same_modalities_are_an_error(models, two_cases, tmp_path):
    folder = Path(os.environ["nnUNet_results"]) / "Dataset901_Tiny"
    twin = folder / f"{DEDICATED}__nnUNetPlans__3d_twin"
    shutil.copytree(folder / f"{DEDICATED}__nnUNetPlans__3d_t1w", twin)
    plans = json.loads((twin / "plans.json").read_text())
    plans["configurations"]["3d_twin"] = plans["configurations"]["3d_t1w"]
    (twin / "plans.json").write_text(json.dumps(plans))
    try:
        with pytest.raises(SystemExit, match=facts(twin.name, "same modalities")):
            evaluate(tmp_path / "out", "-i", two_cases[0], "-l", two_cases[1], "-codes", "T1w", trainers=(DEDICATED,))
    finally:
        shutil.rmtree(twin)


def test_scoring_does_not_import_what_draws():
    """The models' steps do not either; only the report needs matplotlib."""
    modules = ("commands.evaluate.evaluate", "commands.evaluate.scoring", "models.segmenter", "models.inference")
    imports = "; ".join(f"import nnunet_moe.{module}" for module in modules)
    code = f"{imports}; import sys; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
