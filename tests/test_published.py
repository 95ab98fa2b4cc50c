"""The recipes for public data run on phantoms with the same names, and their lists and figures are consistent."""

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from facts import facts
from nnunet_in_process import command
from nnunet_moe.cli import main
from nnunet_moe.commands.demo.small_configuration import add_small_configuration
from nnunet_moe.commands.study.definition import read_study
from nnunet_moe.commands.study.plan import make_plan
from nnunet_moe.commands.study.published import MEAN
from nnunet_moe.commands.study.report import write_report
from nnunet_moe.commands.study.splits import write_splits_and_patients

PUBLISHED = Path(__file__).parents[1] / "benchmarks" / "published"
YAML = sorted(PUBLISHED.glob("*/*.yaml"))
STUDIES = [file.relative_to(PUBLISHED).as_posix() for file in YAML if "\ndataset:" in file.read_text()]
PARTS = ("train", "val", "test")
SIZES = {"brats2018": (199, 29, 57), "brats2020": (219, 50, 100), "brats2023": (875, 125, 251)}


@pytest.fixture
def recipes(monkeypatch):
    monkeypatch.syspath_prepend(str(PUBLISHED))


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    for name in ("raw", "preprocessed", "results"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    return tmp_path


def planned_study(name: str, workspace: Path, **change) -> Path:
    """Copy a recipe next to the raw dataset of the workspace, with other settings."""
    import dry_run

    (raw,) = (workspace / "raw").iterdir()
    return dry_run.small_study(name, raw, workspace / "study", **change)


def voxels(file: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(file)))


@pytest.mark.usefixtures("recipes")
def test_the_lists_have_the_published_sizes_and_no_case_twice():
    from dry_run import cases_in

    for name, sizes in SIZES.items():
        for end in ("1", "2", "3") if name == "brats2018" else ("",):
            files = [PUBLISHED / name / f"{part}{end}.txt" for part in PARTS]
            assert tuple(len(cases_in(file)) for file in files) == sizes
            assert len({case for file in files for case in cases_in(file)}) == sum(sizes)
            assert all(re.search(r"^# .*github\.com/", file.read_text(), re.MULTILINE) for file in files)
    visits = {part: {case[:15] for case in cases_in(PUBLISHED / f"brats2023/{part}.txt")} for part in PARTS}
    assert not visits["train"] & (visits["val"] | visits["test"]), "no patient is in two parts"


def test_every_study_can_be_read_and_printed_means_are_those_of_the_printed_rows(tmp_path):
    assert len(STUDIES) == 8
    compared = 0
    for file in STUDIES:
        folder = shutil.copytree(PUBLISHED / Path(file).parent, tmp_path / file)
        (folder / "folds.json").write_text(json.dumps([{"train": ["a"], "val": ["b"]}] * 3))
        for table in read_study(folder / Path(file).name).published:
            assert table.citation and table.split
            for by_label in table.methods.values():
                for rows in by_label.values():
                    single = [figure.value for row, figure in rows.items() if row != MEAN]
                    if MEAN in rows and single:
                        assert len(single) == 15 and np.mean(single) == pytest.approx(rows[MEAN].value, abs=0.25)
                        compared += 1
    assert compared == 4 * 5 * 3  # BraTS 2018 in three studies, BraTS 2020 in one; five methods, three regions


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.usefixtures("recipes")
def test_brats_is_imported_with_regions_and_its_study_planned(name, workspace):
    import dry_run

    cases = dry_run.first_cases(name)
    dry_run.write_phantoms(name, workspace / "data")
    dataset_json = dry_run.imported(name, workspace / "data", workspace / "raw")
    assert dataset_json["channel_names"] == {"0": "T1w", "1": "T1c", "2": "T2w", "3": "FLAIR"}
    regions = {"whole tumor": [1, 2, 3], "tumor core": [1, 3], "enhancing tumor": 3}
    assert dataset_json["labels"] == {"background": 0, **regions}
    assert dataset_json["regions_class_order"] == [2, 1, 3]
    raw = next((workspace / "raw").iterdir())
    given = next((workspace / "data").rglob(f"{cases[0]}*seg.nii.gz"))
    before, after = voxels(given), voxels(raw / f"labelsTr/{cases[0]}.nii.gz")
    enhancing = 3 if name == "brats2023" else 4
    assert set(np.unique(before)) == {0, 1, 2, enhancing}
    assert np.array_equal(after, np.where(before == enhancing, 3, before))
    plan = make_plan(planned_study(name, workspace), workspace / "out", "cpu")
    assert len(plan.codes) == 15 and "preprocess/preprocess" in plan.jobs
    evaluations = [job for job in plan.jobs if job.startswith("evaluate/")]
    assert len(evaluations) == 3 and all(job.endswith("__test_cases") for job in evaluations)


def run(file: Path, out: Path, monkeypatch) -> str:
    """Run the jobs of a study in this process, and return the page of its report."""
    out.mkdir()
    monkeypatch.chdir(out)
    plan = make_plan(file, out, "cpu")
    for name, job in plan.jobs.items():
        program, *arguments = job.command
        main(arguments) if program == "nnunet_moe" else command(program, *arguments)
        plan.marker(name).parent.mkdir(parents=True, exist_ok=True)
        plan.marker(name).touch()
    return write_report(plan).read_text()


LENGTH = {"num_epochs": 1, "num_iterations_per_epoch": 2, "num_val_iterations_per_epoch": 1}


@pytest.mark.usefixtures("recipes", "preloaded_python")
def test_brats_2020_from_the_import_to_the_report_with_published_rows(workspace, monkeypatch):
    import dry_run

    cases = dry_run.first_cases("brats2020")
    dry_run.write_phantoms("brats2020", workspace / "data")
    dry_run.imported("brats2020", workspace / "data", workspace / "raw")
    (raw,) = (workspace / "raw").iterdir()
    main(["plan_and_preprocess", "-d", raw.name, "-c", "3d_fullres", "-np", "1", "-npfp", "1", "--no_pbar"])
    plans = workspace / "preprocessed" / raw.name / "nnUNetPlans.json"
    add_small_configuration(plans, "3d_tiny", patch_size=[16] * 3, features_per_stage=[4, 6], settings=LENGTH)
    change = {"configuration": "3d_tiny", "trainers": ["nnUNetTrainerModalityDropout"]}
    change["evaluation"] = {"codes": ["T2w", "FLAIR", "T1w+T1c+T2w+FLAIR"], "disable_tta": True, "step_size": 1}
    file = planned_study("brats2020", workspace, **change)
    study = make_plan(file, workspace / "out", "cpu").study
    write_splits_and_patients(study.dataset, study.splits, study.groups, cases)
    page = run(file, workspace / "out", monkeypatch)
    assert "next to published figures" in page and "RFNet †" in page and "1 to 3 points" in page
    tables = workspace / "out" / "report" / "test_cases"
    rows = list(csv.reader((tables / "published_1.csv").read_text().splitlines()))
    names = ("RFNet †", "mmFormer †", "MAVP †", "GSS †", "DeMoSeg †", "ModalityDropout")
    assert rows[0][4:10] == [f"whole tumor {name}" for name in names]
    assert len(rows) == 17, "15 rows in the order of the papers, and the mean"
    assert rows[1][:5] == ["○", "○", "●", "○", "86.05"] and rows[2][:5] == ["○", "●", "○", "○", "76.77"]
    assert rows[1][9] != "-" and rows[2][9] == "-", "T1c by itself was not scored here"
    folder = workspace / "out" / "evaluations" / "test_cases" / "nnUNetTrainerModalityDropout_seed0"
    scored = json.loads((folder / "summary.json").read_text())
    assert {row["case"] for row in scored["metric_per_case"]} == {cases[2]}, "only the test part"


@pytest.mark.parametrize("name", ["msseg2016", "isles2022"])
@pytest.mark.usefixtures("recipes")
def test_the_other_brains_are_imported_and_their_studies_planned(name, workspace):
    import draw_folds
    import dry_run

    dry_run.write_phantoms(name, workspace / "data")
    dataset_json = dry_run.imported(name, workspace / "data", workspace / "raw")
    (raw,) = (workspace / "raw").iterdir()
    assert dataset_json["numTraining"] == 3 and len(list((raw / "imagesTr").iterdir())) == 9
    sizes = {sitk.ReadImage(str(image)).GetSize() for image in (raw / "imagesTr").iterdir()}
    assert sizes == {(24, 24, 20)}, "all files are on one grid"
    folds = draw_folds.draw_folds(raw, 3)
    assert sorted(case for fold in folds for case in fold["val"]) == sorted(folds[0]["train"] + folds[0]["val"])
    file = planned_study(name, workspace)
    if name == "msseg2016":
        assert json.loads((file.parent / "folds.json").read_text()) == folds
    if name == "isles2022":
        file.write_text(re.sub(r"- [34]\n", "", file.read_text()))  # three patients have three folds at most
    plan = make_plan(file, workspace / "out", "cpu")
    assert len(plan.codes) == 7 and len([job for job in plan.jobs if job.startswith("train/")]) >= 6


@pytest.mark.usefixtures("recipes")
def test_a_wrong_folder_or_a_missing_label_of_the_abdomens_is_named_before_anything_is_written(tmp_path):
    import collect_abdomen
    import phantoms

    raw = tmp_path / "Dataset540_M4oEAbdomen"
    phantoms.m4oe_abdomen(tmp_path, phantoms.SMALL)
    right = tmp_path / "FLARE22Train", tmp_path / "amos22", tmp_path / "atlas-train-dataset-1.0.1/train"
    label = right[2] / "labelsTr/lb1.nii.gz"
    with pytest.raises(SystemExit, match=facts(right[2].parent / "imagesTr", "ATLAS23", "Nothing was written")):
        collect_abdomen.collect(*right[:2], right[2].parent, raw)
    moved = label.rename(tmp_path / "moved.nii.gz")
    with pytest.raises(SystemExit, match=facts(label, "1 cases have no segmentation", "Nothing was written")):
        collect_abdomen.collect(*right, raw)
    assert not list(tmp_path.glob("Dataset540*"))
    moved.rename(label)
    collect_abdomen.collect(*right, raw)
    with pytest.raises(SystemExit, match=facts(raw, "exists", "-o")):
        collect_abdomen.collect(*right, raw)


@pytest.mark.usefixtures("recipes", "preloaded_python")
def test_the_abdomens_from_the_three_folders_to_the_report_with_published_rows(workspace, monkeypatch):
    import collect_abdomen
    import phantoms

    data, raw = workspace / "data", workspace / "raw" / "Dataset540_M4oEAbdomen"
    phantoms.m4oe_abdomen(data, phantoms.SMALL)
    atlas = data / "atlas-train-dataset-1.0.1/train"
    counts = collect_abdomen.collect(data / "FLARE22Train", data / "amos22", atlas, raw)
    assert list(counts.values()) == [2, 3, 1, 2], "FLARE22, both parts of AMOS22, ATLAS23"
    assert sorted(image.name[-8] for image in (raw / "imagesTr").iterdir()) == list("00001122")
    for source, name, number, given in (
        ("FLARE22Train/labels/FLARE22_Tr_0001", "FLARE22_Tr_0001", 6, 11),
        ("amos22/labelsTr/amos_0507", "amos_0507", 1, 6),
        ("atlas-train-dataset-1.0.1/train/labelsTr/lb0", "atlas_0000", 8, 2),
    ):
        theirs, ours = voxels(data / f"{source}.nii.gz"), voxels(raw / "labelsTr" / f"{name}.nii.gz")
        assert (theirs == given).any() and np.array_equal(ours == number, theirs == given)
    main(["plan_and_preprocess", "-d", raw.name, "-c", "2d", "-np", "1", "-npfp", "1", "--no_pbar"])
    plans = workspace / "preprocessed" / raw.name / "nnUNetPlans.json"
    add_small_configuration(
        plans, "2d_tiny", patch_size=[16] * 2, features_per_stage=[4, 6], settings=LENGTH, batch_size=2
    )
    change = {"configuration": "2d_tiny", "trainers": ["nnUNetTrainerModalityDropout"]}
    change["evaluation"] = {"disable_tta": True, "step_size": 1}
    page = run(planned_study("m4oe_abdomen", workspace, **change), workspace / "out", monkeypatch)
    assert "M4oE †" in page and "table 3, ATLAS23" in page and "No test compares" in page


@pytest.mark.usefixtures("recipes")
def test_phantoms_have_the_size_of_the_real_images_by_default(tmp_path):
    import phantoms

    phantoms.isles2022(tmp_path)
    sizes = {file.name.split("_")[-1]: sitk.ReadImage(str(file)).GetSize() for file in tmp_path.rglob("*1_ses*")}
    assert sizes == {
        **dict.fromkeys(("dwi.nii.gz", "adc.nii.gz", "msk.nii.gz"), (112, 112, 73)),
        "FLAIR.nii.gz": (224, 224, 73),
    }
