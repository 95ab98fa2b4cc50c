"""`nnunet_moe export` from start to end on the tiny dataset: stock nnU-Net without this package gives the same."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.evaluation.evaluate_predictions import load_summary_json
from torch import nn

from facts import facts
from made_networks import planned
from nnunet_in_process import CPU, command, make_trainer
from nnunet_moe.cli import main
from nnunet_moe.commands.export.channels import dataset_json_of, fingerprint_of, plans_of
from nnunet_moe.commands.export.onnx_file import write_onnx
from nnunet_moe.errors import ModelError
from nnunet_moe.images.phantom import SIGNAL
from nnunet_moe.modalities.codes import all_codes, code_digits, code_text
from nnunet_moe.prediction import MissingModalityPredictor
from nnunet_moe.runtime.environment import external_trainers_folder

NAMES = tuple(SIGNAL)
MOESD, DEDICATED = "nnUNetTrainerMoESD", "nnUNetTrainerDedicated"
STOCK = "nnUNetTrainer__nnUNetPlans__3d_tiny"
CASE = "phantomTs000"
PAIR = (True, False, True)


def export(out, *more, trainer=MOESD, configuration="3d_tiny", folds=(0, 1)) -> Path:
    model = ("-d", 901, "-c", configuration, "-tr", trainer, "-f", *folds)
    main(["export", *map(str, (*model, "-o", out, *more))])
    return out


def renumbered(subsets, code, folder: Path) -> Path:
    """The files of a case under a code as the exported model wants them: numbered from 0, without gaps."""
    folder.mkdir(parents=True)
    for number, channel in enumerate(np.flatnonzero(code)):
        shutil.copy(
            subsets.images / f"{CASE}_{channel:04d}.nii.gz", folder / f"{CASE}_{code_digits(code)}_{number:04d}.nii.gz"
        )
    return folder


def segmentations(folder: Path) -> dict[str, np.ndarray]:
    return {file.name[:-7]: sitk.GetArrayFromImage(sitk.ReadImage(str(file))) for file in folder.glob("*.nii.gz")}


@pytest.fixture(scope="module", autouse=True)
def single_precision():
    """As stock nnU-Net computes on every CPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("nnunet_moe_bf16", "0")
        yield


@pytest.fixture(scope="module")
def exported(trained, single_precision, tmp_path_factory) -> Path:
    """All subsets, of both folds."""
    return export(tmp_path_factory.mktemp("exported") / "models", "--all")


@pytest.fixture(scope="module")
def with_onnx(trained, single_precision, tmp_path_factory) -> Path:
    """One subset, of both folds, also as ONNX."""
    return export(tmp_path_factory.mktemp("with_onnx") / "model", "-m", "T1w+FLAIR", "--onnx")


INLINE = ("-device", "cpu", "-npp", 0, "-nps", 0)
WORKERS = ("-device", "cpu", "-npp", 1, "-nps", 1)
"""nnU-Net's command for model folders needs workers."""
UNMIRRORED = "--disable_tta"
"""Saves seven eighths of a prediction; `test_the_command_for_model_folders_takes_one` predicts with mirroring."""


@pytest.fixture(scope="module")
def by_plugin(trained, subsets, single_precision, tmp_path_factory):
    """The case under every code, by `nnUNetv2_predict` with the trained model and files missing."""
    out = tmp_path_factory.mktemp("plugin")
    model = ("-d", 901, "-c", "3d_tiny", "-tr", MOESD, "-f", 0, 1, *INLINE, UNMIRRORED)
    command("nnUNetv2_predict", *model, "-i", subsets.predictions.with_name("incoming"), "-o", out)
    return segmentations(out)


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    """Runs Python in an environment without this package."""
    folder = tmp_path_factory.mktemp("stranger")
    (folder / "nnunet_moe.py").write_text("raise ModuleNotFoundError('nnunet_moe is not installed')")
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    environment.pop("nnUNet_extTrainer", None)

    def run(*arguments) -> str:
        python = [sys.executable, *map(str, arguments)]
        done = subprocess.run(python, env=environment, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.mark.slow
def test_the_stranger_has_no_nnunet_moe(stranger):
    script = "import importlib\ntry: importlib.import_module('nnunet_moe')\nexcept ModuleNotFoundError: print('none')"
    assert stranger("-c", script) == "none\n"


def test_stock_nnunet_without_this_package_gives_the_same_segmentations(
    exported, by_plugin, subsets, stranger, tmp_path
):
    script = """
import sys, torch
from pathlib import Path
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
models, work = map(Path, sys.argv[1:])
for model in sorted(models.iterdir()):
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False, use_mirroring=False)
    predictor.initialize_from_trained_model_folder(str(model), (0, 1))
    predictor.predict_from_files_sequential(str(work / "in" / model.name), str(work / "out"))
"""
    for code in all_codes(3):
        renumbered(subsets, code, tmp_path / "in" / code_text(code, NAMES))
    (tmp_path / "out").mkdir()
    stranger("-c", script, exported, tmp_path)
    by_stock = segmentations(tmp_path / "out")
    assert by_stock.keys() == by_plugin.keys() and len(by_stock) == 7
    for case, expected in by_plugin.items():
        assert np.array_equal(by_stock[case], expected), case
    assert len({segmentation.tobytes() for segmentation in by_plugin.values()}) == 7  # each code has its own


def test_the_command_for_model_folders_takes_one(exported, subsets, stranger, tmp_path):
    images = renumbered(subsets, PAIR, tmp_path / "in")
    (script,) = entry_points(group="console_scripts", name="nnUNetv2_predict_from_modelfolder")
    run = f"from {script.module} import {script.attr} as run\nif __name__ == '__main__': run()"
    file = tmp_path / "command.py"
    file.write_text(run)
    stranger(file, "-m", exported / "T1w+FLAIR", "-f", 0, 1, *WORKERS, "-i", images, "-o", tmp_path / "out")
    (tmp_path / "of_plugin").mkdir()
    for file in subsets.predictions.with_name("incoming").glob(f"{CASE}_101_*"):
        shutil.copy(file, tmp_path / "of_plugin")
    model = ("-d", 901, "-c", "3d_tiny", "-tr", MOESD, "-f", 0, 1, *INLINE)
    command("nnUNetv2_predict", *model, "-i", tmp_path / "of_plugin", "-o", tmp_path / "by_plugin")
    by_stock, by_plugin = (segmentations(tmp_path / name) for name in ("out", "by_plugin"))
    assert list(by_stock) == list(by_plugin) == [f"{CASE}_101"]
    assert np.array_equal(by_stock[f"{CASE}_101"], by_plugin[f"{CASE}_101"])


def test_as_a_dataset_of_its_own_zipped_and_installed_it_predicts_by_number(
    exported, by_plugin, subsets, tmp_path, monkeypatch
):
    images = renumbered(subsets, PAIR, tmp_path / "in")
    for side in ("sender", "receiver"):
        (tmp_path / side).mkdir()
    export(tmp_path / "sender", "-m", "T1w+FLAIR", "-dataset_id", 911)
    folder = tmp_path / "sender" / "Dataset911_T1w_FLAIR" / STOCK
    assert list((tmp_path / "sender").rglob("dataset.json")) == [folder / "dataset.json"]  # where 3D Slicer looks
    assert "nnUNetv2_predict -d 911 -c 3d_tiny -p nnUNetPlans -f 0 1 " in (folder / "README.md").read_text()
    files = {file.relative_to(folder) for file in folder.rglob("*")}
    assert files == {file.relative_to(exported / "T1w+FLAIR") for file in (exported / "T1w+FLAIR").rglob("*")}
    with pytest.raises(SystemExit, match=facts("Dataset911_T1w_FLAIR", "-dataset_id")):
        export(tmp_path / "sender", "-m", "T1w", "-dataset_id", 911)
    assert [path.name for path in (tmp_path / "sender").iterdir()] == ["Dataset911_T1w_FLAIR"]
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "sender"))
    package = tmp_path / "subset.zip"
    command("nnUNetv2_export_model_to_zip", "-d", 911, "-o", package, "-c", "3d_tiny", "-f", 0, 1)
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "receiver"))
    command("nnUNetv2_install_pretrained_model_from_zip", package)
    model = ("-d", 911, "-c", "3d_tiny", "-f", 0, 1, *INLINE)
    command("nnUNetv2_predict", *model, UNMIRRORED, "-i", images, "-o", tmp_path / "out")
    assert np.array_equal(segmentations(tmp_path / "out")[f"{CASE}_101"], by_plugin[f"{CASE}_101"])


def test_it_is_a_start_for_an_ordinary_training(dataset, exported, tmp_path, monkeypatch):
    subset, preprocessed = exported / "T1w+FLAIR", tmp_path / "preprocessed" / "Dataset901_Tiny"
    preprocessed.mkdir(parents=True)
    shutil.copy(subset / "plans.json", preprocessed / "nnUNetPlans.json")
    shutil.copy(subset / "dataset.json", preprocessed)
    images = "nnUNetPlans_3d_fullres"  # nnU-Net looks at what kind of files there are
    (preprocessed / images).symlink_to(dataset.plans_file.with_name(images))
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "preprocessed"))
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))
    file = subset / "fold_0" / "checkpoint_final.pth"
    trainer = make_trainer(901, "3d_tiny", "nnUNetTrainer", pretrained=str(file))
    given, own = torch.load(file, weights_only=True)["network_weights"], trainer.network.state_dict()
    assert own.keys() == given.keys()
    assert all(torch.equal(own[key], given[key]) for key in own if ".seg_layers." not in key)


def test_it_holds_what_nnunet_writes_for_these_channels_and_nothing_of_this_package(trained, exported):
    source, subset = trained.model_folder(), exported / "T1w+FLAIR"
    assert sorted(path.relative_to(subset).as_posix() for path in subset.rglob("*") if path.is_file()) == sorted(
        [
            *("README.md", "dataset.json", "dataset_fingerprint.json", "plans.json"),
            *(f"fold_{n}/{file}" for n in (0, 1) for file in ("checkpoint_final.pth", "progress.png")),
            *(f"fold_{n}/validation/summary.json" for n in (0, 1)),
        ]
    )
    plans, dataset_json = (json.loads((subset / f"{name}.json").read_text()) for name in ("plans", "dataset"))
    assert dataset_json["channel_names"] == {"0": "T1w", "1": "FLAIR"}
    before = json.loads((source / "plans.json").read_text())
    intensities = "foreground_intensity_properties_per_channel"
    assert plans[intensities] == {"0": before[intensities]["0"], "1": before[intensities]["2"]}
    assert "nnunet_moe" in before["configurations"]["3d_tiny"] and "nnunet_moe" not in json.dumps(plans)
    assert plans["configurations"]["3d_fullres"]["normalization_schemes"] == ["ZScoreNormalization"] * 2
    for fold in (0, 1):
        checkpoint = torch.load(subset / f"fold_{fold}" / "checkpoint_final.pth", weights_only=True)
        assert checkpoint["trainer_name"] == "nnUNetTrainer"
        assert checkpoint["init_args"] == {
            **{"plans": plans, "configuration": "3d_tiny"},
            **{"fold": fold, "dataset_json": dataset_json},
        }
        assert checkpoint["inference_allowed_mirroring_axes"] == (0, 1, 2)
        weights = {tensor.data_ptr(): tensor.nbytes for tensor in checkpoint["network_weights"].values()}
        assert (subset / f"fold_{fold}" / "checkpoint_final.pth").stat().st_size < 2 * sum(weights.values())
        assert load_summary_json(str(subset / f"fold_{fold}" / "validation" / "summary.json"))["mean"] == {}


def test_neither_cases_nor_paths_nor_people_are_in_it(trained, with_onnx):
    folders = [trained.model_folder(), with_onnx.parent, sys.prefix, Path(__file__).parents[3]]
    private = ["phantom", *map(str, folders)]
    for file in with_onnx.rglob("*"):
        content = file.read_bytes() if file.is_file() else b""
        assert not [word for word in private if word.encode() in content], file


def test_what_the_trainers_write_loads_as_tensors_and_plain_containers_alone(trained):
    files = sorted(trained.model_folder().glob("fold_*/checkpoint_*.pth"))
    assert len(files) == 4  # the best and the final one of two folds
    for file in files:
        checkpoint = torch.load(file, weights_only=True)
        assert isinstance(checkpoint["_best_ema"], float)
        assert checkpoint["logging"]["train_losses"]


NO_ORDINARY_NETWORK = ("nnUNetTrainerLCKD", "nnUNetTrainerM4oE", "nnUNetTrainerSwinUNet")  # test_lckd, test_m4oe


def trainers_of_this_package() -> list[str]:
    (file,) = external_trainers_folder().glob("*.py")
    names = [line.strip(' ",') for line in file.read_text().splitlines() if line.startswith('    "')]
    return [name for name in names if not name.startswith(NO_ORDINARY_NETWORK)]


@pytest.mark.parametrize("trainer", trainers_of_this_package())
def test_every_trainer_exports(dataset, tmp_path, monkeypatch, trainer):
    """Weights of a network that was not trained, but is not what it started with either."""
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))
    configuration = "3d_tiny"
    if trainer == DEDICATED:
        configuration = "3d_pair"
        dataset.add_configuration(configuration, modality_code=[1, 0, 1])
    made = make_trainer(901, configuration, trainer)
    made.initialize()
    with torch.no_grad():
        for parameter in made.network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    folder = Path(made.output_folder)
    made.save_checkpoint(str(folder / "checkpoint_final.pth"))
    shutil.copy(dataset.plans_file, folder.with_name("plans.json"))
    shutil.copy(dataset.dataset_json_file, folder.with_name("dataset.json"))
    shutil.copy(dataset.plans_file.with_name("dataset_fingerprint.json"), folder.parent)
    out = export(tmp_path / "out", "-m", "T1w+FLAIR", trainer=trainer, configuration=configuration, folds=(0,))
    card = (out / "README.md").read_text()

    predictor = MissingModalityPredictor(device=CPU)
    predictor.initialize_from_trained_model_folder(str(folder.parent), (0,))
    stock = MissingModalityPredictor.__base__(device=CPU)
    stock.initialize_from_trained_model_folder(str(out), (0,))
    x = torch.randn(1, 3, 16, 16, 16)
    x[:, 1] = torch.nan
    x = x.double()
    with torch.inference_mode():
        expected, got = predictor.network.double().eval()(x), stock.network.double().eval()(x[:, [0, 2]])
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    if trainer == DEDICATED:
        with pytest.raises(SystemExit, match=facts("-m T1w", "dedicated", "T1w+FLAIR")):
            export(tmp_path / "other", "-m", "T1w", trainer=trainer, configuration=configuration, folds=(0,))
        every = export(tmp_path / "every", "--all", trainer=trainer, configuration=configuration, folds=(0,))
        assert [path.name for path in every.iterdir()] == ["T1w+FLAIR"]
    cards = {DEDICATED: "for only these modalities."}
    assert f"Trained by nnunet-moe {cards.get(trainer, 'for every subset of T1w, T2w, FLAIR.')}" in card


def test_the_model_card_tells_files_origin_and_what_evaluate_found(trained, exported, tmp_path):
    scores = tmp_path / "scores"
    model = ("-d", "901", "-c", "3d_tiny", "-tr", MOESD, "-f", "0", "1", "-device", "cpu")
    main(["evaluate", *model, "-codes", "T1w+FLAIR", "-o", str(scores), "--disable_tta"])
    out = export(tmp_path / "models", "--all", "-scores", scores)
    card, without = ((out / name / "README.md").read_text() for name in ("T1w+FLAIR", "T2w"))
    assert "Its labels are 0 (background), 1 (lesion)." in card
    assert "| `CASE_0000.nii.gz` | T1w | 0 |\n| `CASE_0001.nii.gz` | FLAIR | 2 |\n" in card
    assert "| `CASE_0000.nii.gz` | T2w | 1 |\n" in without and "| modality code | `010` |" in without
    assert "-m THIS_FOLDER -f 0 1\n" in card and "Dataset901_Tiny/nnUNetTrainerMoESD__nnUNetPlans__3d_tiny" in card
    for fold in (0, 1):
        digest = hashlib.sha256((trained.model_folder() / f"fold_{fold}" / "checkpoint_final.pth").read_bytes())
        assert f"| fold {fold} | `checkpoint_final.pth` after 2 epochs, SHA-256 {digest.hexdigest()} |" in card
    assert "Not known." in without and "-scores" in without
    summary = json.loads((scores / "summary.json").read_text())["mean"][MOESD]["T1w+FLAIR"]["lesion"]
    assert "on validation cases, fold 0, 1." in card and "Predicted on cpu, without mirroring, in steps of 0.5" in card
    assert f"\n| lesion | 2 | {100 * summary['dsc']:.2f} ± " in card

    one = {"folds": (0,)}  # the means are over both folds' cases
    assert_refused(tmp_path / "other", "-m", "T2w", "-scores", scores, said=("-scores", "fold 0", "fold 1"), **one)
    assert_refused(tmp_path / "other", "-m", "T2w", "-scores", tmp_path, said=("no evaluation", "-scores"))
    whole = (scores / "means.csv").read_text()
    failed = [line[: line.rindex(",")] + ",1" for line in whole.splitlines()[1:] if ",T1w+FLAIR," in line]
    failed = [",".join([*line.split(",")[:4], "", "", "0", "1"]) for line in failed]
    (scores / "means.csv").write_text("\n".join([whole.splitlines()[0], *failed]))
    card = (export(tmp_path / "failed", "-m", "T1w+FLAIR", "-scores", scores) / "README.md").read_text()
    assert "| lesion | 0 | 1 failed | 1 failed | 1 failed | 1 failed |" in card
    (scores / "means.csv").write_text("\n".join(line for line in whole.splitlines() if ",dsc," not in line))
    assert_refused(tmp_path / "other", "-m", "T2w", "-scores", scores, said=("means.csv", "no rows", "dsc"))
    (scores / "means.csv").write_text("trainer,code\n")
    assert_refused(tmp_path / "other", "-m", "T2w", "-scores", scores, said=("no columns", "cases"))
    (scores / "means.csv").write_text(whole)
    content = json.loads((scores / "summary.json").read_text())
    files = content["settings"]["models"][f"{trained.model_folder().name}, fold 1"]["files"]
    files[f"{trained.model_folder().name}/fold_1/checkpoint_final.pth"] = "0" * 64
    (scores / "summary.json").write_text(json.dumps(content))
    assert_refused(tmp_path / "other", "-m", "T2w", "-scores", scores, said=("another", "fold_1/checkpoint_final.pth"))


def assert_refused(out: Path, *more, said: tuple[object, ...], **options) -> None:
    """The command ends with a message, and leaves nothing behind."""
    before = sorted(out.parent.iterdir())
    with pytest.raises(SystemExit, match=facts(*said)):
        export(out, *more, **options)
    assert sorted(out.parent.iterdir()) == before


@pytest.mark.parametrize(
    ("more", "options", "said"),
    [
        (("-m", ""), {}, ("not a subset", "T1w, T2w, FLAIR")),
        (("-m", "000"), {}, ("no modality",)),
        (("-m", "T1w+T1c"), {}, ("'T1w+T1c'", "not a subset", "T1w, T2w, FLAIR")),
        (("-m", "11"), {}, ("'11'", "not a subset")),
        (("--all",), {"folds": (0, 0)}, ("fold", "twice")),
        (("--all",), {"folds": (0, 3)}, ("fold_3/checkpoint_final.pth", "does not exist", "fold_0")),
        (("--all",), {"folds": ("x",)}, ("-f x", "fold", "'all'")),
        (("--all",), {"trainer": "nnUNetTrainerMoE"}, ("nnUNetTrainerMoE", "not been trained", "Dataset901_Tiny")),
        (("--all",), {"configuration": "2d"}, ("2d", "not been trained")),
        (("--all", "-chk", "checkpoint_latest.pth"), {}, ("checkpoint_latest.pth", "does not exist")),
        (("--all", "-d", 77), {}, ("-d 77", "dataset")),
        (("--all",), {"trainer": "nnUNetTrainer*"}, ("nnUNetTrainer*", "not been trained")),
        (("--all", "-dataset_id", 911), {}, ("-dataset_id", "--all", "-m")),
        (("-m", "T1w", "-dataset_id", 0), {}, ("-dataset_id 0", "1 to 999")),
    ],
)
def test_what_cannot_be_meant_is_refused(trained, tmp_path, more, options, said):
    assert_refused(tmp_path / "out", *more, said=said, **options)


def test_a_folder_that_holds_something_is_refused_and_an_empty_one_is_filled(trained, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "plans.json").write_text("{}")
    with pytest.raises(SystemExit, match=facts("full", "not an empty folder")):
        export(tmp_path / "full", "-m", "T2w")
    assert (tmp_path / "full" / "plans.json").read_text() == "{}"
    assert_refused(tmp_path / "full" / "plans.json", "-m", "T2w", said=("plans.json", "already exists"))
    unfinished = tmp_path / "empty" / ".unfinished"
    unfinished.mkdir(parents=True)
    with pytest.raises(SystemExit, match=facts("empty/.unfinished", "another run")):
        export(tmp_path / "empty", "-m", "T2w")
    unfinished.rmdir()
    export(tmp_path / "empty", "-m", "T2w", folds=(0,))
    assert sorted(path.name for path in (tmp_path / "empty").iterdir())[0] == "README.md"
    export(tmp_path / "deep" / "er", "-m", "010", folds=(0,))
    first, second = ((tmp_path / name / "README.md").read_text() for name in ("empty", "deep/er"))
    assert first == second


@pytest.fixture
def spoilt(trained, tmp_path, monkeypatch) -> Path:
    """A copy of fold 0 to be spoilt."""
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))
    folder = tmp_path / "results" / "Dataset901_Tiny" / trained.model_folder().name
    shutil.copytree(trained.model_folder(), folder, ignore=shutil.ignore_patterns("fold_1", "validation"))
    return folder


def changed(file: Path, change, *without: str) -> None:
    checkpoint = torch.load(file, weights_only=False)
    for key in without:
        del checkpoint[key]
    change(checkpoint["network_weights"])
    torch.save(checkpoint, file)


def test_damaged_models_are_refused(spoilt, tmp_path):
    file = spoilt / "fold_0" / "checkpoint_final.pth"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    assert_refused(tmp_path / "out", "--all", said=("checkpoint_final.pth", "cannot be read"), folds=(0,))
    file.write_bytes(whole)
    changed(file, lambda weights: next(iter(weights.values())).fill_(torch.nan))
    assert_refused(tmp_path / "out", "--all", said=("weights", "NaN"), folds=(0,))
    file.write_bytes(whole)
    changed(file, lambda weights: weights.popitem())
    assert_refused(tmp_path / "out", "--all", said=("not fit", "plans", "Missing key"), folds=(0,))
    file.write_bytes(whole)
    other = spoilt.with_name("nnUNetTrainerMoE__nnUNetPlans__3d_tiny")
    shutil.copytree(spoilt, other)
    said = ("nnUNetTrainerMoESD and 3d_tiny", "nnUNetTrainerMoE and 3d_tiny")
    assert_refused(tmp_path / "out", "--all", said=said, folds=(0,), trainer="nnUNetTrainerMoE")


def with_entry(*keys: str, value: object):
    def change(content: dict) -> dict:
        inner = content
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = value
        return content

    return change


INTENSITIES = "foreground_intensity_properties_per_channel"


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("plans", None, ("plans.json", "read")),
        ("dataset_fingerprint", None, ("dataset_fingerprint.json", "read")),
        ("dataset", lambda content: "{", ("dataset.json", "read", "property name")),
        ("plans", lambda content: {}, ("KeyError", f"'{INTENSITIES}'")),
        ("plans", lambda content: [], ("plans.json", "object")),
        ("plans", with_entry("configurations", value={}), ("configuration",)),
        ("plans", with_entry(INTENSITIES, value={"0": {}, "1": {}}), ("2 entries", "3 channels")),
        ("plans", with_entry(INTENSITIES, value={"1": {}, "2": {}, "3": {}}), ("KeyError", "'0'")),
        ("dataset_fingerprint", lambda content: {}, ("KeyError", f"'{INTENSITIES}'")),
        ("dataset_fingerprint", lambda content: [], ("dataset_fingerprint.json", "object")),
        ("dataset", lambda content: [], ("dataset.json", "object")),
        ("dataset", lambda content: {"channel_names": content["channel_names"]}, ("file_ending", "labels")),
        (
            "dataset",
            with_entry("channel_names", value=["T1w", "T2w", "FLAIR"]),
            ("dataset.json", "channel_names", "FLAIR"),
        ),
    ],
)
def test_model_folders_with_other_contents_are_refused_before_any_work(spoilt, tmp_path, name, change, said):
    file = spoilt / f"{name}.json"
    content = json.loads(file.read_text())
    if change is None:
        file.unlink()
    else:
        new = change(content)
        file.write_text(new if isinstance(new, str) else json.dumps(new))
    assert_refused(tmp_path / "out", "--all", said=said, folds=(0,))


def test_a_checkpoint_that_was_stripped_for_sharing_exports_without_curves(spoilt, tmp_path):
    changed(spoilt / "fold_0" / "checkpoint_final.pth", lambda weights: None, "logging", "current_epoch")
    out = export(tmp_path / "out", "-m", "T2w", folds=(0,))
    assert not (out / "fold_0" / "progress.png").exists() and (out / "fold_0" / "checkpoint_final.pth").exists()
    assert "| fold 0 | `checkpoint_final.pth`, SHA-256 " in (out / "README.md").read_text()


def test_an_export_is_not_written_among_the_results_that_it_came_from(trained, tmp_path):
    results = trained.model_folder().parent
    for out in (results / STOCK, trained.model_folder() / "out"):
        assert_refused(out, "-m", "T2w", said=("among the results", "Dataset901_Tiny"))


def test_odd_names_of_modalities(spoilt, tmp_path):
    """As nnU-Net allows them: with a plus, a bar or a line break in them, or empty."""
    file = spoilt / "dataset.json"
    content = json.loads(file.read_text())

    def name(*names: str) -> None:
        file.write_text(json.dumps({**content, "channel_names": dict(zip("012", names, strict=True))}))

    name("a", "b", "a+b")
    assert_refused(tmp_path / "out", "-m", "a+b", said=("several subsets", "a, b, a+b"), folds=(0,))
    assert_refused(tmp_path / "out", "--all", said=("same file",), folds=(0,))
    out = export(tmp_path / "digits", "-m", "001", folds=(0,))
    assert json.loads((out / "dataset.json").read_text())["channel_names"] == {"0": "a+b"}
    name("", "b", "c")
    assert_refused(tmp_path / "out", "--all", said=("empty", "'', 'b'"), folds=(0,))
    name("a|b", "c\n# d", "e")
    card = (export(tmp_path / "card", "-m", "110", folds=(0,)) / "README.md").read_text()
    assert card.startswith("# a\\|b+c # d: Dataset901") and "| `CASE_0001.nii.gz` | c # d | 1 |" in card


def test_an_ordinary_nnunet_is_not_exported(spoilt, tmp_path):
    spoilt.rename(spoilt.with_name(STOCK))
    said = ("PlainConvUNet", "nnUNetTrainer", "ordinary")
    assert_refused(tmp_path / "out", "--all", said=said, folds=(0,), trainer="nnUNetTrainer")


def test_fold_all_and_another_checkpoint(spoilt, tmp_path):
    (spoilt / "fold_0").rename(spoilt / "fold_all")
    best = export(tmp_path / "best", "-m", "T2w", "-chk", "checkpoint_best.pth", folds=("all",))
    card, checkpoint = (best / "README.md").read_text(), best / "fold_all" / "checkpoint_final.pth"
    assert "| fold all | `checkpoint_best.pth` after " in card and "-f all\n" in card
    assert torch.load(checkpoint, weights_only=True)["init_args"]["fold"] == "all"


def test_modalities_of_one_name_keep_their_numbers_in_the_card(spoilt, tmp_path):
    file = spoilt / "dataset.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "channel_names": {"0": "T1w", "1": "MRI", "2": "MRI"}}))
    out = export(tmp_path / "out", "-m", "MRI:1+MRI:2", folds=(0,))
    card = (out / "README.md").read_text()
    assert "| `CASE_0000.nii.gz` | MRI:1 | 1 |\n| `CASE_0001.nii.gz` | MRI:2 | 2 |\n" in card
    assert json.loads((out / "dataset.json").read_text())["channel_names"] == {"0": "MRI", "1": "MRI"}


ODD = """
from nnunet_moe.architectures.modality_network import ModalityNetwork
from nnunet_moe.trainers.moesd import nnUNetTrainerModalityDropout


class Odd(ModalityNetwork):
    def forward(self, x):
        return 2 * super().forward(x)


class nnUNetTrainerOdd(nnUNetTrainerModalityDropout):
    @classmethod
    def build_network_architecture(
        cls, plans_manager, configuration_manager, num_input_channels, num_output_channels, enable_deep_supervision=True
    ):
        network = super().build_network_architecture(
            plans_manager, configuration_manager, num_input_channels, num_output_channels, enable_deep_supervision
        )
        network.__class__ = Odd
        return network
"""


def test_a_network_that_the_export_does_not_know_is_refused(spoilt, tmp_path, monkeypatch):
    """A trainer of somebody's own, whose network has the weights of an ordinary one and does something else."""
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "odd.py").write_text(ODD)
    monkeypatch.setenv("nnUNet_extTrainer", str(tmp_path / "own"))
    made = make_trainer(901, "3d_tiny", "nnUNetTrainerOdd")
    made.initialize()
    shutil.copytree(spoilt, made.output_folder_base, dirs_exist_ok=True)
    made.save_checkpoint(str(Path(made.output_folder) / "checkpoint_final.pth"))
    said = ("cannot be exported", "differ by 5.0e-01")
    assert_refused(tmp_path / "out", "-m", "T2w", said=said, folds=(0,), trainer="nnUNetTrainerOdd")


def test_nothing_is_left_of_an_export_that_fails_on_its_way(spoilt, tmp_path):
    """The second fold is damaged: the first one had been written."""
    shutil.copytree(spoilt / "fold_0", spoilt / "fold_1")
    (spoilt / "fold_1" / "checkpoint_final.pth").write_bytes(b"")
    assert_refused(tmp_path / "out", "--all", said=("fold_1/checkpoint_final.pth", "cannot be read"))


def test_per_channel_entries_are_cut_and_numbered_anew():
    def intensities(*channels):
        return {"foreground_intensity_properties_per_channel": {str(n): {"mean": c} for n, c in enumerate(channels)}}

    plans = {
        "plans_name": "P",
        **intensities("a", "b", "c", "d"),
        "configurations": {
            "3d": {"normalization_schemes": [*"abcd"], "use_mask_for_norm": [1, 2, 3, 4], "batch_size": 2},
            "mine": {"inherits_from": "3d", "nnunet_moe": {"num_epochs": 3}},
        },
    }
    before, code = json.dumps(plans), (False, True, False, True)
    assert plans_of(plans, code) == {
        "plans_name": "P",
        **intensities("b", "d"),
        "configurations": {
            "3d": {"normalization_schemes": ["b", "d"], "use_mask_for_norm": [2, 4], "batch_size": 2},
            "mine": {"inherits_from": "3d"},
        },
    }
    assert json.dumps(plans) == before
    for key in ("channel_names", "modality"):
        cases = {"dataset": {"Doe": {"label": "/home/me/doe.nii.gz"}}, "training": ["doe"], "description": "roe"}
        named = {"labels": {"background": 0}, key: {"0": "CT", "1": "MRI", "2": "MRI", "3": "PET"}, **cases}
        assert dataset_json_of(named, code) == {"labels": {"background": 0}, key: {"0": "MRI", "1": "PET"}}
    assert fingerprint_of({"spacings": [1], **intensities(*"abcd")}, code) == {"spacings": [1], **intensities("b", "d")}


def test_onnx_gives_the_logits_of_the_trained_model(trained, with_onnx):
    predictor = MissingModalityPredictor(device=CPU)
    predictor.initialize_from_trained_model_folder(str(trained.model_folder()), (0, 1))
    for fold, weights in zip((0, 1), predictor.list_of_parameters, strict=True):
        predictor.network.load_state_dict(weights)
        session = onnxruntime.InferenceSession(str(with_onnx / f"fold_{fold}" / "model.onnx"))
        (image,), (logits,) = session.get_inputs(), session.get_outputs()
        assert (image.name, image.shape) == ("image", ["batch", 2, "4*z", "4*y", "4*x"])
        assert (logits.name, logits.shape) == ("logits", ["batch", 2, "4*z", "4*y", "4*x"])
        for batch, size in ((1, (32, 32, 32)), (3, (8, 16, 12))):
            x = torch.randn(batch, 3, *size)
            x[:, 1] = torch.nan
            with torch.inference_mode():
                expected = predictor.network.eval()(x)
            (got,) = session.run(None, {"image": x[:, [0, 2]].numpy()})
            atol = 1e-5 * float(expected.abs().max())
            torch.testing.assert_close(torch.from_numpy(got), expected, rtol=0, atol=atol)
    assert "| input `image` | (batch, 2, space) |\n| output `logits` |" in (with_onnx / "README.md").read_text()


@pytest.mark.parametrize(("kind", "dimensions"), [("residual", 3), ("residual", 2), ("plain", 2)])
def test_onnx_takes_any_batch_and_space_of_every_network_that_nnunet_plans(tmp_path, kind, dimensions):
    network, file = planned(kind, dimensions).float().eval(), tmp_path / "model.onnx"
    assert write_onnx(network, file, 3, [4] * dimensions, [8] * dimensions) is True
    x = torch.randn(3, 3, *(20, 12, 8)[:dimensions])
    with torch.inference_mode():
        expected = network(x)
    (got,) = onnxruntime.InferenceSession(str(file)).run(None, {"image": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(got), expected, rtol=0, atol=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]  # the weights are in it


class OfOneSize(nn.Module):
    """A network that PyTorch cannot write for any space."""

    def forward(self, x):
        return x.reshape(x.shape[0], 3, 64).reshape(x.shape[0], 3, 8, 8)


def test_where_the_space_must_be_that_of_the_patch_the_batch_still_may_have_any_size(tmp_path):
    file = tmp_path / "model.onnx"
    assert write_onnx(OfOneSize().eval(), file, 3, [2, 2], [8, 8]) is False
    session = onnxruntime.InferenceSession(str(file))
    of_batch, *others = session.get_inputs()[0].shape
    assert isinstance(of_batch, str) and others == [3, 8, 8]  # PyTorch chooses the name of the size
    x = np.ones((5, 3, 8, 8), np.float32)
    assert np.array_equal(session.run(None, {"image": x})[0], x)


class Drifting(nn.Module):
    """Not the same twice: what ONNX Runtime computes cannot be what PyTorch does."""

    def forward(self, x):
        return x + torch.randn_like(x)


def test_an_onnx_file_that_computes_something_else_is_refused(tmp_path):
    with pytest.raises(ModelError, match=facts("ONNX", "(1, 3, 8, 8)", "differ")):
        write_onnx(Drifting().eval(), tmp_path / "model.onnx", 3, [2, 2], [8, 8])


def test_without_the_packages_for_onnx_the_command_says_what_to_install(trained, tmp_path, monkeypatch):
    monkeypatch.setattr("nnunet_moe.commands.export.onnx_file.PACKAGES", ("onnx", "onnx_that_is_not_there"))
    said = ("--onnx", "pip install onnx_that_is_not_there")
    assert_refused(tmp_path / "out", "--all", "--onnx", said=said)
