"""Planning and preprocessing of datasets whose training cases lack files."""

import json
import os
import re
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

from facts import facts
from incomplete import (
    describe,
    extract_fingerprint,
    plan_and_preprocess,
    write,
    write_cases_without_each_file,
)
from nnunet_in_process import command, make_trainer, train
from nnunet_moe.commands.plan_and_preprocess.fingerprint import (
    UNSEEN,
    IncompleteDatasetFingerprintExtractor,
    without_foreground,
)
from nnunet_moe.commands.plan_and_preprocess.raw_dataset import read_raw_dataset, verify_integrity
from nnunet_moe.commands.plan_and_preprocess.references import copy_references
from nnunet_moe.commands.plan_and_preprocess.request import Request
from nnunet_moe.errors import ModalityError, SettingsError
from nnunet_moe.modalities.availability import Availability
from nnunet_moe.modalities.codes import all_codes, code_text
from nnunet_moe.reports.availability import availability_tables

TRAINERS = [
    f"nnUNetTrainer{n}" for n in ("MoESD", "SD", "MoE", "ModalityDropout", "DynamicStem", "MoEStem", "MoENoReg")
]


@pytest.fixture
def folders(tmp_path, monkeypatch) -> Path:
    """nnU-Net's three folders, empty."""
    for kind in ("raw", "preprocessed", "results"):
        (tmp_path / kind).mkdir()
        monkeypatch.setenv(f"nnUNet_{kind}", str(tmp_path / kind))
    return tmp_path


@pytest.fixture
def cohort(folders, dataset) -> Path:
    """A copy of the tiny dataset's training cases."""
    raw = folders / "raw" / "Dataset901_Tiny"
    raw.mkdir()
    shutil.copy(dataset.dataset_json_file, raw)
    for folder in ("imagesTr", "labelsTr"):
        shutil.copytree(dataset.raw / folder, raw / folder)
    return raw


def preprocessed_files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_for_complete_cases_everything_is_that_of_nnunets_command(folders, cohort, dataset):
    extract_fingerprint(901, num_samples=1e5)  # as many as the session's dataset
    plan_and_preprocess("-d", 901, "-c", "3d_fullres", "--verify_dataset_integrity")
    theirs = dataset.plans_file.parent
    ours = folders / "preprocessed" / theirs.name
    data = preprocessed_files(ours / "nnUNetPlans_3d_fullres")
    assert data and data == preprocessed_files(theirs / "nnUNetPlans_3d_fullres")
    truth = preprocessed_files(ours / "gt_segmentations")
    assert len(truth) == 5 and truth == preprocessed_files(theirs / "gt_segmentations")
    for name in ("dataset_fingerprint.json", "dataset.json"):
        assert (ours / name).read_text() == (theirs / name).read_text()
    axes = nibabel.aff2axcodes(nibabel.load(next((cohort / "imagesTr").iterdir())).affine)
    planned = json.loads(dataset.planned_file.read_text())
    with_axes = json.dumps({**planned, "axis_codes": {"".join(axes): 5}}, indent=4)  # as nnU-Net writes its plans
    assert dataset.planned_file.read_text() == json.dumps(planned, indent=4)
    assert (ours / "nnUNetPlans.json").read_text() == with_axes


def test_cases_that_lack_files_leave_those_of_the_others_as_they_are(folders, cohort, dataset, capsys):
    for name in ("phantomTr000_0000", "phantomTr001_0001", "phantomTr001_0000", "phantomTr003_0002"):
        (cohort / "imagesTr" / f"{name}.nii.gz").unlink()
    for file in [*cohort.glob("imagesTr/*"), *cohort.glob("labelsTr/*Tr002*"), cohort / "imagesTr" / "zip_0000.nii.gz"]:
        file.with_name(f"._{file.name}").write_bytes(b"\0\5\x16\7Mac OS X")  # which nnU-Net takes for cases
    change(cohort, numTraining="5")  # which nnU-Net's planner cannot multiply
    extract_fingerprint(901)
    plan_and_preprocess("-d", 901, "-c", "3d_fullres")
    printed = capsys.readouterr().out
    assert "| T1w+T2w+FLAIR | 2 |" in printed and "| FLAIR | 1 |" in printed and "| T1w | 3 of 5 | 0 |" in printed
    ours = folders / "preprocessed" / "Dataset901_Tiny"
    theirs = dataset.plans_file.parent
    assert not list(ours.rglob("._*")) and len(list((ours / "gt_segmentations").iterdir())) == 5
    assert json.loads((ours / "nnUNetPlans.json").read_text())["experiment_planner_used"] == "ExperimentPlanner"
    table = (ours / "availability.csv").read_text().splitlines()
    assert table[:3] == [
        "case,modalities,T1w,T2w,FLAIR",
        "phantomTr000,T2w+FLAIR,absent,available,available",
        "phantomTr001,FLAIR,absent,absent,available",
    ]
    data, complete = (folder / "nnUNetPlans_3d_fullres" for folder in (ours, theirs))
    for case in ("phantomTr002", "phantomTr004"):
        for name in (f"{case}.b2nd", f"{case}_seg.b2nd", f"{case}.pkl"):
            assert (data / name).read_bytes() == (complete / name).read_bytes()
    lacking = {"phantomTr000": [0], "phantomTr001": [0, 1], "phantomTr003": [2]}
    for case, channels in lacking.items():
        ours_case, theirs_case = (nnUNetDatasetBlosc2(str(f), [case]).load_case(case) for f in (data, complete))
        (image, seg, _, properties), (full, full_seg, _, full_properties) = ours_case, theirs_case
        for channel in range(3):
            expected = np.full_like(full[channel], np.nan) if channel in channels else full[channel]
            assert np.array_equal(image[channel], expected, equal_nan=True)  # the head is one in all contrasts
        assert np.array_equal(seg[:], full_seg[:])
        locations, expected = properties["class_locations"], full_properties["class_locations"]
        assert locations.keys() == expected.keys() and len(locations[1])
        assert all(np.array_equal(locations[label], expected[label]) for label in locations)


@pytest.mark.slow
@pytest.mark.parametrize("num_modalities", [1, 4])
def test_training_and_prediction_with_each_file_of_each_case_missing_in_turn(folders, num_modalities):
    raw = folders / "raw" / "Dataset910_Each"
    lacking = write_cases_without_each_file(raw, num_modalities, heads=(0,))
    extract_fingerprint(910)
    plan_and_preprocess("-d", 910, "-c", "3d_fullres", "-gpu_memory_target", 0.02)
    plans_file = folders / "preprocessed" / raw.name / "nnUNetPlans.json"
    length = {"num_epochs": 1, "num_iterations_per_epoch": 1, "num_val_iterations_per_epoch": 2**num_modalities - 1}
    shorten(plans_file, length)
    complete = next(iter(lacking))
    splits = [{"train": [case, complete], "val": [case]} for case in lacking]
    plans_file.with_name("splits_final.json").write_text(json.dumps(splits))
    for fold, (case, absent) in enumerate(lacking.items()):
        trainer = train(910, "3d_fullres", TRAINERS[fold % len(TRAINERS)], fold=fold)
        assert all(bool(weight.isfinite().all()) for weight in trainer.network.parameters())
        image = trainer.dataset_class(trainer.preprocessed_dataset_folder, [case]).load_case(case)[0]
        assert np.isnan(image[:]).all(axis=(1, 2, 3)).tolist() == [c == absent for c in range(num_modalities)]
        log = Path(trainer.log_file).read_text()
        seen = {line.split("Pseudo dice ")[1].split(":")[0] for line in log.splitlines() if "Pseudo dice M" in line}
        names = [f"M{channel}" for channel in range(num_modalities) if channel != absent]
        whole = "+".join(f"M{channel}" for channel in range(num_modalities))
        told = f"this fold's training cases: {whole} 1, {'+'.join(names)} 1"
        assert (told in log) == (absent is not None)
        assert seen == {code_text(code, names) for code in all_codes(len(names))}  # a code counts where all have it
    if num_modalities == 2:  # as every training ends; the last case is an incomplete one
        trainer.perform_actual_validation()
        validation = Path(trainer.output_folder) / "validation"
        assert (validation / f"{case}.nii.gz").exists() and (validation / "summary.json").exists()
    out = folders / "out"
    model = ("-d", 910, "-c", "3d_fullres", "-tr", "nnUNetTrainerMoESD", "-f", 0, "-device", "cpu", "--disable_tta")
    command("nnUNetv2_predict", *model, "-i", raw / "imagesTr", "-o", out, "-npp", 0, "-nps", 0)
    assert {file.name[:-7] for file in out.glob("*.nii.gz")} == set(lacking)


def shorten(plans_file: Path, settings: dict) -> None:
    """Few iterations, and few features a stage."""
    plans = json.loads(plans_file.read_text())
    configuration = plans["configurations"]["3d_fullres"]
    configuration["nnunet_moe"] = settings
    network = configuration["architecture"]["arch_kwargs"]
    network["features_per_stage"] = [4 + 2 * stage for stage in range(network["n_stages"])]
    plans_file.write_text(json.dumps(plans))


def tiny_case(folder: Path, name: str, boxes: dict[int, tuple[slice, ...]], value: float, num_foreground=8):
    """Images of one value inside a box and zero outside; the label is a cube of `num_foreground` voxels at 4."""
    shape = (12, 12, 12)
    label = np.zeros(shape, dtype=np.uint8)
    label[4:6, 4:6, 4 : 4 + num_foreground // 4] = 1
    write(folder / "labelsTr" / f"{name}.nii.gz", label)
    for channel, box in boxes.items():
        image = np.zeros(shape, dtype=np.float32)
        image[box] = value + channel
        write(folder / "imagesTr" / f"{name}_{channel:04d}.nii.gz", image)


SMALL, LARGE = (slice(3, 8),) * 3, (slice(2, 9), slice(1, 11), slice(3, 8))


@pytest.fixture
def tiny(folders) -> Path:
    """Case a has channel 1 alone, b channels 0 and 2, c channel 2 and zeros as channel 1; nobody has channel 3."""
    raw = folders / "raw" / "Dataset911_Tiny"
    tiny_case(raw, "a", {1: SMALL}, 100)
    tiny_case(raw, "b", {0: LARGE, 2: SMALL}, 200)
    tiny_case(raw, "c", {2: LARGE}, 400)
    write(raw / "imagesTr" / "c_0001.nii.gz", np.zeros((12, 12, 12), dtype=np.float32))
    describe(raw, ["A", "B", "C", "D"], 3)
    return raw


def test_the_fingerprint_takes_each_channel_from_the_cases_that_have_it(tiny, folders):
    fingerprint = extract_fingerprint(911, num_samples=300).run()
    properties = fingerprint["foreground_intensity_properties_per_channel"]
    assert {key: properties["0"][key] for key in ("min", "max", "mean", "std")} == {
        "min": 200,
        "max": 200,
        "mean": 200,
        "std": 0,
    }
    assert properties["1"]["mean"] == 101  # not c's zeros
    assert (properties["2"]["min"], properties["2"]["mean"], properties["2"]["max"]) == (202, 302, 402)  # b and c
    assert properties["2"]["std"] == 100
    assert properties["3"] == UNSEEN
    assert fingerprint["shapes_after_crop"] == [[5, 5, 5], [7, 10, 5], [7, 10, 5]]  # no channel decides alone
    assert fingerprint["median_relative_size_after_cropping"] == 350 / 12**3
    table = (folders / "preprocessed" / tiny.name / "availability.csv").read_text()
    assert table.splitlines()[1:] == [
        "a,B,absent,available,absent,absent",
        "b,A+C,available,absent,available,absent",
        "c,C,absent,zeros,available,absent",
    ]


def test_a_case_without_foreground_counts_for_shapes_alone(tiny):
    tiny_case(tiny, "a", {1: SMALL}, 100, num_foreground=0)
    extractor = extract_fingerprint(911, num_samples=300)
    fingerprint = extractor.run()
    assert fingerprint["foreground_intensity_properties_per_channel"]["1"] == UNSEEN
    assert len(fingerprint["spacings"]) == 3
    (warning,) = without_foreground(fingerprint, extractor.availability)
    assert warning.startswith("No case that has B has a labeled voxel")


def test_a_dataset_without_foreground_is_told_with_the_number_of_its_cases(tiny, capsys):
    for case, channels in (("a", {1: SMALL}), ("b", {0: SMALL, 2: SMALL}), ("c", {2: SMALL})):
        tiny_case(tiny, case, channels, 100, num_foreground=0)
    extractor = extract_fingerprint(911, num_samples=300)
    (warning,) = without_foreground(extractor.run(), extractor.availability)
    assert warning.startswith("None of the 3 training cases has a labeled voxel") and "labelsTr" in warning
    plan_and_preprocess("-d", 911, "--no_pp")
    assert f"WARNING: {warning}" in capsys.readouterr().out


def test_the_table_and_its_warnings(tiny, capsys):
    training = extract_fingerprint(911).availability
    assert availability_tables(training).splitlines() == [
        "| modalities | cases |",
        "| --- | --- |",
        "| A+C | 1 |",
        "| C | 1 |",
        "| B | 1 |",
        "",
        "| modality | cases that have it | files of one value |",
        "| --- | --- | --- |",
        "| A | 1 of 3 | 0 |",
        "| B | 1 of 3 | 1 |",
        "| C | 2 of 3 | 0 |",
        "| D | 0 of 3 | 0 |",
    ]
    names = ("A", "B", "C", "D")
    test = Availability({"x": (1, 0, 0, 0), "y": (1, 1, 0, 0), "z": (1, 1, 0, 0)}, names)
    none_has, unseen = training.warnings(test)
    assert none_has.startswith("No training case has D. ")
    assert unseen.startswith("2 of the test cases (imagesTs) have A+B. No training case has all")
    assert Availability.from_csv(training.csv(), names).codes == training.codes
    assert Availability({"x": (True,) * 4}, names).warnings(None) == []


def test_the_command_reads_the_test_cases_and_tells_of_labels_alone(tiny, capsys):
    image = np.ones((12, 12, 12), dtype=np.float32)
    for channel in (0, 1):
        write(tiny / "imagesTs" / f"x_{channel:04d}.nii.gz", image)
    write(tiny / "imagesTs" / "y_0009.nii.gz", image)
    write(tiny / "imagesTr" / "a_0000.nii", image)
    write(tiny / "labelsTr" / "alone.nii.gz", image.astype(np.uint8))
    extract_fingerprint(911)
    plan_and_preprocess("-d", "Dataset911_Tiny", "--no_pp")
    printed = capsys.readouterr().out
    assert "WARNING: 1 of the test cases (imagesTs) has A+B. No training case has all" in printed
    assert "only trainers of this package can train on them" in printed
    assert (
        "Not used" in printed
        and f"another ending: {tiny / 'imagesTr' / 'a_0000.nii'}, {tiny / 'labelsTr' / 'alone.nii.gz'}\n" in printed
    )
    assert f"WARNING: {tiny / 'imagesTs' / 'y_0009.nii.gz'} names no channel of this dataset" in printed
    assert not (tiny.parents[1] / "preprocessed" / tiny.name / "nnUNetPlans_3d_fullres").exists()


def test_an_old_fingerprint_of_other_files_or_of_nnunet_is_refused(tiny, folders):
    extract_fingerprint(911)
    plan_and_preprocess("-d", 911, "--no_pp")  # of the same files: taken as it is
    (tiny / "imagesTr" / "b_0000.nii.gz").unlink()
    with pytest.raises(SystemExit, match=facts("other files", "--clean")):
        plan_and_preprocess("-d", 911, "--no_pp")
    table = folders / "preprocessed" / tiny.name / "availability.csv"
    table.write_text("case\n")
    with pytest.raises(SystemExit, match=facts("availability.csv", "--clean")):
        plan_and_preprocess("-d", 911, "--no_pp")


def test_a_fingerprint_that_nnunet_made_of_zeros_is_made_anew(tiny, folders):
    for case, channels in {"a": (0, 2, 3), "b": (1, 3), "c": (0, 3)}.items():  # what its users do today
        for channel in channels:
            write(tiny / "imagesTr" / f"{case}_{channel:04d}.nii.gz", np.zeros((12, 12, 12), dtype=np.float32))
    theirs = DatasetFingerprintExtractor(911, num_processes=1)
    theirs.num_foreground_voxels_for_intensitystats = 300
    before = theirs.run()["foreground_intensity_properties_per_channel"]
    assert before[0]["min"] == 0
    ours = IncompleteDatasetFingerprintExtractor(911, num_processes=1)
    ours.num_foreground_voxels_for_intensitystats = 300
    assert ours.run()["foreground_intensity_properties_per_channel"][0]["min"] == 200
    assert ours.availability.csv().splitlines()[1] == "a,B,zeros,available,zeros,zeros"
    assert ours.run()["foreground_intensity_properties_per_channel"]["0"]["min"] == 200  # read this time


def test_names_that_look_like_anything_come_back_from_the_table():
    names = ("case", "a,b", 'say "x"', "modalities")
    availability = Availability({"NA": (1, 0, 1, 0), "1": (1, 1, 1, 1)}, names, {"NA": (1, 0, 0, 0), "1": (1, 0, 0, 0)})
    again = Availability.from_csv(availability.csv(), names)
    assert again.files == availability.files and again.codes == availability.codes


@pytest.mark.usefixtures("few_voxels")
def test_bad_cases_are_all_named_before_anything_is_written(tiny, folders):
    write(tiny / "labelsTr" / "a.nii.gz", np.zeros((12, 12, 11), dtype=np.uint8))
    (tiny / "imagesTr" / "b_0002.nii.gz").write_bytes(b"no image")
    with pytest.raises(SystemExit, match=facts("a.nii.gz", "(11, 12, 12)", "b_0002.nii.gz", "read")):
        plan_and_preprocess("-d", 911)
    (tiny / "imagesTr" / "a_0001.nii.gz").write_bytes(b"no image")  # from which the reader is chosen
    with pytest.raises(SystemExit, match=facts("a_0001.nii.gz", "read")):
        plan_and_preprocess("-d", 911)
    assert not list((folders / "preprocessed").iterdir())


def test_mistakes_in_patients_and_splits_are_named_before_the_fingerprint(tiny, folders, capsys):
    (tiny / "patients.csv").write_text("case,patient\na,1\na,2\n")
    with pytest.raises(SystemExit, match=facts("patients.csv", "line 3")):
        plan_and_preprocess("-d", 911)
    (tiny / "patients.csv").write_text("case,patient\na,1\n")
    splits = folders / "preprocessed" / tiny.name / "splits_final.json"
    splits.parent.mkdir(parents=True)
    splits.write_text('[{"train": ["a"]}]')
    with pytest.raises(SystemExit, match=facts("splits_final.json", "fold 0", "'val'")):
        plan_and_preprocess("-d", 911)
    assert list(splits.parent.iterdir()) == [splits] and "fingerprint" not in capsys.readouterr().out


def test_a_case_that_cannot_be_preprocessed_leaves_no_data_that_look_whole(tiny, folders):
    extract_fingerprint(911)
    (folders / "preprocessed" / tiny.name / "fingerprint_files.json").unlink()  # as earlier versions wrote none
    (tiny / "imagesTr" / "b_0002.nii.gz").write_bytes(b"no image")  # since
    with pytest.raises(SystemExit, match=facts("b_0002.nii.gz", "read")):
        plan_and_preprocess("-d", 911, "-c", "3d_fullres")
    assert not (folders / "preprocessed" / tiny.name / "nnUNetPlans_3d_fullres").exists()


def change(raw: Path, **values):
    """Set keys of dataset.json, or take them out."""
    content = json.loads((raw / "dataset.json").read_text()) | values
    (raw / "dataset.json").write_text(json.dumps({key: v for key, v in content.items() if v is not None}))


def listed(*images: str) -> dict:
    return {"images": [f"imagesTr/{image}.nii.gz" for image in images], "label": "labelsTr/b.nii.gz"}


def test_cases_may_be_listed_in_dataset_json_and_lie_anywhere(tiny, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tiny / "imagesTr" / "a_0001.nii.gz").rename(tmp_path / "elsewhere" / "patient_0001.nii.gz")
    elsewhere = {"images": [str(tmp_path / "elsewhere" / "patient_0001.nii.gz")], "label": "labelsTr/a.nii.gz"}
    change(tiny, dataset={"p": elsewhere, "q": listed("b_0000", "b_0002")}, numTraining=2)
    dataset = read_raw_dataset(tiny.name)
    assert dataset.availability().codes == {"p": (False, True, False, False), "q": (True, False, True, False)}
    verify_integrity(dataset, 1, show_progress=False)
    assert dataset.unused() == [str(tiny / "labelsTr" / "c.nii.gz")]
    assert extract_fingerprint(911).run()["shapes_after_crop"] == [[5, 5, 5], [7, 10, 5]]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda raw: (raw / "imagesTr" / "a_0001.nii.gz").rename(raw / "imagesTr" / "a.nii.gz"), ("CASE_XXXX",)),
        (
            lambda raw: (raw / "imagesTr" / "a_0001.nii.gz").rename(raw / "imagesTr" / "a_0004.nii.gz"),
            ("a: ", "a_0004.nii.gz", "no channel"),
        ),
        (
            lambda raw: (raw / "imagesTr" / "b_0002.nii.gz").rename(raw / "imagesTr" / "b_0002.NII.GZ"),
            ("exactly", ".nii.gz", "b_0002.NII.GZ"),
        ),
        (lambda raw: (raw / "labelsTr" / "a.nii.gz").unlink(), ("a: ", "labelsTr/a.nii.gz", "does not exist")),
        (lambda raw: (raw / "dataset.json").unlink(), ("dataset", "imagesTr")),
        (lambda raw: (raw / "dataset.json").write_text("{"), ("JSONDecodeError",)),
        (lambda raw: (raw / "dataset.json").write_text("[" * 100_000), ("too many brackets",)),
        (
            lambda raw: (raw / "dataset.json").write_text(f"\ufeff{(raw / 'dataset.json').read_text()}"),
            ("dataset.json", "BOM", "Save it as UTF-8 without BOM"),
        ),
        (lambda raw: (raw / "dataset.json").write_text("[]"), ("dataset.json", "an object")),
        (lambda raw: change(raw, labels={"background": 0, "all": [1, 2]}), ("regions_class_order",)),
        (lambda raw: change(raw, channel_names={"0": "\ud800"}), ("dataset.json", "surrogates")),
        (lambda raw: change(raw, file_ending=5), ("dataset.json", "'file_ending'", "5")),
        (
            lambda raw: change(raw, overwrite_image_reader_writer=[]),
            ("dataset.json", "'overwrite_image_reader_writer'"),
        ),
        (lambda raw: change(raw, dataset=["a"]), ("dataset.json", "'dataset'", "['a']")),
        (lambda raw: change(raw, dataset={"x": {"images": ["x"]}}), ("dataset.json", "'dataset'", "for x", "'label'")),
        (lambda raw: change(raw, label_sets={"T1": []}), ("Dataset911_Tiny/dataset.json", "'label_sets'")),
        (lambda raw: change(raw, numTraining=None), ("'numTraining'",)),
        (lambda raw: change(raw, numTraining="three"), ("'numTraining'", "'three'", "number")),
        (lambda raw: change(raw, numTraining=2.5), ("'numTraining'", "2.5", "number")),
        (lambda raw: change(raw, numTraining=True), ("'numTraining'", "True", "number")),
        (lambda raw: (raw / "imagesTr" / "a_0002.nii.gz").mkdir(), ("a_0002.nii.gz", "is a folder")),
        (lambda raw: change(raw, dataset={}), ("no case",)),
        (lambda raw: change(raw, dataset={"x": listed("b_0002", "b_0000")}), ("x: ", "channels", "[2, 0]")),
        (lambda raw: shutil.rmtree(raw / "imagesTr"), ("imagesTr", "no folder")),
    ],
)
def test_files_that_make_no_dataset_are_refused(tiny, spoil, said):
    spoil(tiny)
    with pytest.raises(ModalityError, match=facts(*said)):
        read_raw_dataset(tiny.name)


@pytest.mark.parametrize("number", ["3", 3.0, " 3"])
def test_a_number_of_cases_may_be_written_otherwise(tiny, number):
    change(tiny, numTraining=number)
    assert verify_integrity(read_raw_dataset(tiny.name), 1, show_progress=False) is None


def test_a_corrected_segmentation_is_copied_even_if_it_is_older(tiny, folders):
    copy_references(read_raw_dataset(tiny.name), folders / "preprocessed" / tiny.name, 1)
    label = np.zeros((12, 12, 12), dtype=np.uint8)
    label[4, 4, 4] = 1
    write(tiny / "labelsTr" / "a.nii.gz", label)
    os.utime(tiny / "labelsTr" / "a.nii.gz", (10**9, 10**9))
    copy_references(read_raw_dataset(tiny.name), folders / "preprocessed" / tiny.name, 1)
    copy = folders / "preprocessed" / tiny.name / "gt_segmentations" / "a.nii.gz"
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(copy))), label)


def test_integrity_is_verified_with_files_missing(tiny):
    dataset = read_raw_dataset(tiny.name)
    verify_integrity(dataset, 1, show_progress=False)
    label = np.zeros((12, 12, 12), dtype=np.uint8)
    label[0, 0, 0] = 7
    write(tiny / "labelsTr" / "a.nii.gz", label)
    moved = sitk.ReadImage(str(tiny / "labelsTr" / "b.nii.gz"))
    moved.SetOrigin((5, 0, 0))
    sitk.WriteImage(moved, str(tiny / "labelsTr" / "b.nii.gz"))
    dataset.dataset_json["numTraining"] = 4
    dataset.dataset_json["labels"] = {"background": 0, "lesion": 1, "other": 3}
    said = ("4 training cases", "a.nii.gz", "7", "0, 1, 3", "b.nii.gz and", "[0, 1, 3]")
    with pytest.raises(ModalityError, match=facts(*said)):
        verify_integrity(dataset, 2, show_progress=False)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("-pl", "NoPlanner"), ("planner", "'NoPlanner'")),
        (("-overwrite_target_spacing", 1, 1), ("-overwrite_target_spacing", "1.0 1.0", "three", 0)),
        (("-overwrite_target_spacing", 1, 0, 1), ("-overwrite_target_spacing", "1.0 0.0 1.0", "three", 0)),
        (("-gpu_memory_target", -1), ("-gpu_memory_target", "-1.0", "GB", 0)),
        (("-c", "nope"), ("-c nope", "nnUNetPlans", "2d, 3d_fullres")),
        (("-d", 999), ("-d 999", "dataset")),
        (("-d", "Dataset911_Tiny"), ("More than one", 911)),
    ],
)
def test_options_that_cannot_be_met_are_refused(tiny, folders, options, said):
    extract_fingerprint(911)
    if "Dataset911_Tiny" in options:
        (folders / "results" / "Dataset911_Other").mkdir()
    with pytest.raises(SystemExit, match=facts(*said)):
        plan_and_preprocess(*(() if "-d" in options else ("-d", 911)), *options)


@pytest.mark.parametrize(
    ("more", "said"),
    [({"num_processes": (1, 2)}, ("2 numbers", "for 3")), ({"fingerprint_processes": 0}, ("start at 1",))],
)
def test_numbers_of_processes_are_checked(more, said):
    with pytest.raises(SettingsError, match=facts(*said)):
        Request(datasets=("911",), **more)
    assert Request(datasets=("911",)).processes() == [8, 4, 8]
    assert Request(datasets=("911",), configurations=("2d", "own"), num_processes=(3,)).processes() == [3, 3]


@pytest.mark.slow
def test_a_dedicated_model_leaves_out_cases_that_lack_its_code(folders):
    raw = folders / "raw" / "Dataset912_Dedicated"
    lacking = write_cases_without_each_file(raw, 2)
    extract_fingerprint(912)
    plan_and_preprocess("-d", 912, "-c", "3d_fullres", "-gpu_memory_target", 0.02)
    plans_file = folders / "preprocessed" / raw.name / "nnUNetPlans.json"
    shorten(plans_file, {})
    plans = json.loads(plans_file.read_text())
    length = {"num_epochs": 1, "num_iterations_per_epoch": 1, "num_val_iterations_per_epoch": 1}
    plans["configurations"]["second"] = {
        "inherits_from": "3d_fullres",
        "nnunet_moe": {"modality_code": [0, 1], **length},
    }
    plans_file.write_text(json.dumps(plans))
    without_first = [case for case, absent in lacking.items() if absent == 0]
    without_second = [case for case, absent in lacking.items() if absent == 1]
    splits = [{"train": [*lacking], "val": [*lacking]}, {"train": without_second, "val": without_first}]
    plans_file.with_name("splits_final.json").write_text(json.dumps(splits))

    trainer = train(912, "second", "nnUNetTrainerDedicated")
    expected = [case for case, absent in lacking.items() if absent != 1]
    assert [sorted(part.identifiers) for part in trainer.get_tr_and_val_datasets()] == [sorted(expected)] * 2
    log = Path(trainer.log_file).read_text()
    assert f"Skipped training cases that do not have all of M1: {', '.join(sorted(without_second))}" in log
    with pytest.raises(ModalityError, match=facts("Fold 1", "M1", "dedicated")):
        make_trainer(912, "second", "nnUNetTrainerDedicated", fold=1).do_split()
    trainer = make_trainer(912, "3d_fullres", "nnUNetTrainerMoESD", fold=1)
    trainer.get_tr_and_val_datasets()
    assert "WARNING: no training case of this fold has M1." in Path(trainer.log_file).read_text()
    with pytest.raises(SystemExit, match=facts("second", "dedicated")):
        plan_and_preprocess("-d", 912, "-c", "second")


@pytest.fixture
def few_voxels(monkeypatch):
    """Let the command itself make the fingerprint of few voxels, which else is most of its time."""
    initialise = DatasetFingerprintExtractor.__init__

    def initialise_with_few(self, *arguments, **options):
        initialise(self, *arguments, **options)
        self.num_foreground_voxels_for_intensitystats = 1e4

    monkeypatch.setattr(DatasetFingerprintExtractor, "__init__", initialise_with_few)


@pytest.mark.usefixtures("few_voxels")
def test_planning_warns_of_copies_and_shifted_segmentations_and_stores_the_axes(tiny, folders, capsys):
    images, affine = tiny / "imagesTr", np.diag([-1.0, -1.0, 1.0, 1.0])
    shutil.copy(images / "a_0001.nii.gz", images / "a_0002.nii.gz")
    for case, shift in (("a", 0.3), ("b", 2.0)):
        moved = affine.copy()
        moved[2, 3] = shift
        label = nibabel.load(tiny / "labelsTr" / f"{case}.nii.gz")
        nibabel.save(nibabel.Nifti1Image(np.asanyarray(label.dataobj), moved), tiny / "labelsTr" / f"{case}.nii.gz")
    plan_and_preprocess("-d", 911, "-c", "3d_fullres", "--no_pp")
    warnings = [line for line in capsys.readouterr().out.splitlines() if line.startswith("WARNING: ")]
    for facts_of_one in (("a_0002.nii.gz", "equal"), ("a.nii.gz", "0.3 voxels"), ("b.nii.gz", "2 voxels", "copy")):
        assert any(re.search(facts(*facts_of_one), line) for line in warnings), "\n".join((*facts_of_one, *warnings))
    plans = json.loads((folders / "preprocessed" / tiny.name / "nnUNetPlans.json").read_text())
    assert plans["axis_codes"] == {"LPS": 3}
    with pytest.raises(SystemExit, match=facts("a_0002.nii.gz", "--refuse_copies")):
        plan_and_preprocess("-d", 911, "-c", "3d_fullres", "--no_pp", "--refuse_copies")
    with pytest.raises(SystemExit, match=facts("b.nii.gz", "2 voxels")):
        plan_and_preprocess("-d", 911, "-c", "3d_fullres", "--no_pp", "--verify_dataset_integrity")
