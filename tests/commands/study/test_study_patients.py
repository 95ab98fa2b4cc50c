"""A study never lets the cases of a patient fall into several parts of a fold, from whatever source they come."""

import json
from pathlib import Path

import pytest
import yaml

from facts import facts
from made_plans import DATASET, DATASET_JSON, made_plans
from nnunet_moe.cli import main
from nnunet_moe.commands.study.plan import make_plan
from nnunet_moe.commands.study.splits import require_usable
from nnunet_moe.errors import FileError, SettingsError
from nnunet_moe.patients import crossval_split, read_patients

CASES = ("a_1", "a_2", "b_1", "c_1", "d_1")
BY_NAME = {case: case[0] for case in CASES}
GROUPS = "{patient}_*"
MIXED = {"train": ["a_1", "b_1"], "val": ["a_2", "c_1"]}
CLEAN = {"train": ["a_1", "a_2"], "val": ["b_1", "c_1"]}
ELECTED = {"train": ["b_1"], "val": ["a_1"], "test": ["a_2", "c_1"]}
"""The patient a has a case that elects teachers and one that is tested."""


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A raw dataset with its preprocessed files, of which only the names are there."""
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    raw, preprocessed = (tmp_path / name / DATASET for name in ("raw", "preprocessed"))
    made_plans(tmp_path / "preprocessed", [16] * 3, {})
    (preprocessed / "made" / "case.b2nd").unlink()
    for folder in ("imagesTr", "labelsTr"):
        (raw / folder).mkdir(parents=True)
    for case in CASES:
        for file in (*(f"imagesTr/{case}_000{channel}" for channel in range(3)), f"labelsTr/{case}"):
            (raw / f"{file}.nii.gz").touch()
        for ending in ("b2nd", "pkl"):
            (preprocessed / "made" / f"{case}.{ending}").touch()
    for folder in (raw, preprocessed):
        (folder / "dataset.json").write_text(json.dumps(DATASET_JSON))
    return tmp_path


def written(folder: Path, **content) -> Path:
    smallest = {"dataset": DATASET, "configuration": "small", "trainers": ["nnUNetTrainerMoESD"]}
    file = folder / "visits.yaml"
    file.write_text(yaml.safe_dump({**smallest, **content}))
    return file


def tell(folder: Path, *, patients: bool = False, splits: object = None) -> None:
    """Write the table of the patients and the folds of the dataset."""
    if patients:
        rows = "".join(f"{case},{patient}\n" for case, patient in BY_NAME.items())
        (folder / "raw" / DATASET / "patients.csv").write_text(f"case,patient\n{rows}")
    if splits is not None:
        (folder / "preprocessed" / DATASET / "splits_final.json").write_text(json.dumps(splits))


@pytest.mark.parametrize("fold", [MIXED, ELECTED, {**CLEAN, "val": ["b_1"], "test": ["c_1"]}])
@pytest.mark.parametrize("known_by", ["groups", "patients.csv"])
@pytest.mark.parametrize("where", ["splits", "splits_final.json"])
def test_a_patient_in_several_parts_is_refused_from_any_source(made, fold, known_by, where):
    tell(made, patients=known_by == "patients.csv", splits=[fold] if where == "splits_final.json" else None)
    change = {"groups": GROUPS} if known_by == "groups" else {}
    file = written(made, **change, **({"splits": [fold]} if where == "splits" else {}))
    if "a_2" in fold["train"]:
        assert make_plan(file, made / "out", "cpu").patients == BY_NAME
        return
    with pytest.raises(SettingsError, match=facts(where, "a", known_by, "same fold")):
        make_plan(file, made / "out", "cpu")


def test_only_the_folds_of_the_study_and_readable_files_count(made):
    tell(made, patients=True, splits=[CLEAN, MIXED])
    make_plan(written(made, folds=[0]), made / "out", "cpu")
    with pytest.raises(SettingsError, match=facts("splits_final.json", "Remove")):
        make_plan(written(made, folds=[0, 1]), made / "out", "cpu")
    tell(made, splits=[1, 2])
    with pytest.raises(FileError, match=facts("splits_final.json", "fold 0")):
        make_plan(written(made, groups=GROUPS), made / "out", "cpu")


def test_writing_only_the_plans_draws_the_folds_over_the_patients_of_the_pattern(made):
    file = written(made, groups=GROUPS)
    main(["study", str(file), "-o", str(made / "out"), "--only", "plans"])
    folds = json.loads((made / "preprocessed" / DATASET / "splits_final.json").read_text())
    assert folds == crossval_split(CASES, BY_NAME) != crossval_split(CASES, {}) and len(folds) == 4
    assert read_patients(made / "raw" / DATASET / "patients.csv") == BY_NAME
    assert "4 patients in 5 cases, by groups '{patient}_*'" in make_plan(file, made / "out", "cpu").describe(1)


@pytest.mark.parametrize("pattern", ["{patient}_1", "{patient}*_?"])
def test_a_pattern_that_fits_no_case_or_gives_one_patient_is_refused(made, pattern):
    for case in CASES:
        for file in (made / "raw" / DATASET).rglob(f"{case}*"):
            file.rename(file.with_name(f"p{file.name}"))
        (made / "preprocessed" / DATASET / "made" / f"p{case}.pkl").touch()
    said = ("pa_2", "every training case") if pattern == "{patient}_1" else ("all 5 cases", "'p'", "folds: [all]")
    with pytest.raises(SettingsError, match=facts("groups", *said)):
        make_plan(written(made, groups=pattern), made / "out", "cpu")
    if pattern != "{patient}_1":
        names = tuple(f"p{case}" for case in CASES)
        assert require_usable(DATASET, (), pattern, ("all",), names) == dict.fromkeys(names, "p")
