"""A study's own folds and patients, and published figures next to its own."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import yaml

from facts import facts
from nnunet_moe.commands.evaluate.metrics import METRICS
from nnunet_moe.commands.evaluate.models import cases_of_fold
from nnunet_moe.commands.study.definition import read_study
from nnunet_moe.commands.study.plan import make_plan
from nnunet_moe.commands.study.published import Figure
from nnunet_moe.commands.study.published_tables import COPIED, published_tables
from nnunet_moe.commands.study.results import StudyResults
from nnunet_moe.commands.study.splits import write_splits_and_patients
from nnunet_moe.errors import ModelError, SettingsError
from nnunet_moe.modalities.codes import all_codes
from nnunet_moe.patients import read_patients

DATASET = "Dataset932_Visits"
CASES = ("a_1", "a_2", "b_1", "c_1", "d_1")
SMALLEST = {"dataset": 932, "configuration": "3d_fullres", "trainers": ["nnUNetTrainerMoESD"]}
FOLD = {"train": ["a_1", "a_2"], "val": ["b_1"], "test": ["c_1", "d_1"]}


@pytest.fixture
def visits(dataset):
    """A raw dataset that is not planned: the folder of its preprocessed files."""
    raw = dataset.workspace.raw / DATASET
    for folder in ("imagesTr", "labelsTr"):
        (raw / folder).mkdir(parents=True)
    for case in CASES:
        for file in (*(f"imagesTr/{case}_000{channel}" for channel in range(3)), f"labelsTr/{case}"):
            (raw / f"{file}.nii.gz").touch()
    shutil.copy(dataset.dataset_json_file, raw)
    preprocessed = dataset.plans_file.parents[1] / DATASET
    yield raw, preprocessed
    for folder in (raw, preprocessed):
        shutil.rmtree(folder, ignore_errors=True)


def written(folder: Path, **content) -> Path:
    file = folder / "visits.yaml"
    file.write_text(yaml.safe_dump({**SMALLEST, **content}))
    return file


def test_folds_come_from_lists_text_files_or_a_json_file_alike(tmp_path):
    for part, cases in FOLD.items():
        (tmp_path / f"{part}.txt").write_text("# the published list\n" + "\n".join(cases) + "\n\n")
    (tmp_path / "all.json").write_text(json.dumps([FOLD]))
    for given in ([FOLD], [{part: f"{part}.txt" for part in FOLD}], "all.json"):
        study = read_study(written(tmp_path, splits=given))
        assert study.splits == (FOLD,) and study.scored_part == "test" and study.of_folds == "test cases"
    without_test = [{part: FOLD[part] for part in ("train", "val")}]
    for splits, folds, part in (
        (without_test, [0], "val"),
        ([FOLD, *without_test], [0], "test"),
        ([FOLD], [3], "val"),
    ):
        assert read_study(written(tmp_path, splits=splits, folds=folds)).scored_part == part
    with pytest.raises(SettingsError, match=facts("splits", "the part test", "not for 1", "'folds'")):
        read_study(written(tmp_path, splits=[FOLD, *without_test], folds=[0, 1]))


def test_every_path_in_the_file_may_have_variables_and_lists_come_from_any_editor(tmp_path, monkeypatch):
    lists = tmp_path / "lists"
    lists.mkdir()
    monkeypatch.setenv("LISTS", str(lists))
    monkeypatch.setenv("HOME", str(lists))
    monkeypatch.delenv("NOWHERE", raising=False)
    (lists / "folds.json").write_text(json.dumps([FOLD]))
    (lists / "rows.yaml").write_text(yaml.safe_dump([{"citation": "c", "methods": {"X": {"lesion": {"T1w": 3}}}}]))
    (lists / "train.txt").write_bytes("\ufeffa_1\r\na_2\r\n".encode())
    for start in ("$LISTS", "~", "lists"):
        study = read_study(written(tmp_path, splits=f"{start}/folds.json", published=[f"{start}/rows.yaml"]))
        assert study.splits == (FOLD,) and study.published[0].citation == "c"
        assert read_study(written(tmp_path, splits=[{**FOLD, "train": f"{start}/train.txt"}])).splits == (FOLD,)
    for change in (
        {"splits": "$NOWHERE/folds.json"},
        {"splits": [{**FOLD, "train": "$NOWHERE/train.txt"}]},
        {"published": ["$NOWHERE/rows.yaml"]},
    ):
        with pytest.raises(SettingsError, match=facts("$NOWHERE", "not set")):
            read_study(written(tmp_path, **change))
    (lists / "train.txt").write_bytes("# Müller\na_1".encode("latin-1"))
    with pytest.raises(SettingsError, match=facts("train", "train.txt", "UTF-8")):
        read_study(written(tmp_path, splits=[{**FOLD, "train": "lists/train.txt"}]))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"splits": []}, ("splits", "at least one")),
        ({"splits": "none.json"}, ("splits", "none.json", "does not exist", "splits_final.json")),
        ({"splits": [{"train": ["a"]}]}, ("splits, fold 0", "lacks val")),
        ({"splits": [FOLD, {**FOLD, "test": ["b_1"]}]}, ("splits, fold 1", "b_1", "more than once")),
        ({"splits": [{**FOLD, "val": "none.txt"}]}, ("val", "none.txt", "cannot be read", "No such file")),
        ({"splits": [{**FOLD, "holdout": ["x"]}]}, ("fold 0", "unknown key holdout", "train, val, test")),
        ({"groups": "{case}_*"}, ("groups", "'{case}_*'", "{patient}")),
        ({"groups": 3}, ("groups", "'3'", "{patient}")),
        (
            {"splits": [FOLD], "cases": {"test cases": {"images": ".", "labels": "."}}},
            ("'test cases'", "test part"),
        ),
        ({"published": [{"citation": "c", "methods": {}}]}, ("an entry of published", "methods", "METHOD")),
        ({"published": [{"methods": {"X": {"lesion": {"T1w": 3}}}}]}, ("published", "lacks citation")),
        (
            {"published": [{"citation": "c", "methods": {"X": {"lesion": {"T1w": "3 ± 1"}}}}]},
            ("'lesion', T1w", "'3 ± 1'", "standard error"),
        ),
        (
            {"published": [{"citation": "c", "metric": "dice", "methods": {"X": {"lesion": {"T1w": 3}}}}]},
            ("metric", "'dice'", "dsc", "cscore"),
        ),
        (
            {"published": [{"citation": "c", "cases": "real", "methods": {"X": {"lesion": {"T1w": 3}}}}]},
            ("published", "'real'", "validation cases"),
        ),
        ({"published": ["none.yaml"]}, ("none.yaml", "does not exist", "published tables")),
    ],
)
def test_what_these_keys_may_not_say(tmp_path, change, said):
    with pytest.raises(SettingsError, match=facts("visits.yaml", *said)):
        read_study(written(tmp_path, **change))


def test_a_study_writes_its_folds_and_patients_once_and_scores_the_test_part(visits, tmp_path):
    raw, preprocessed = visits
    file = written(tmp_path, splits=[FOLD], groups="{patient}_*")
    plan = make_plan(file, tmp_path / "out", "cpu")
    assert not preprocessed.exists() and not (raw / "patients.csv").exists(), "planning writes nothing"
    assert plan.jobs["evaluate/nnUNetTrainerMoESD_seed0__test_cases"].command[-2:] == ("-part", "test")
    study = plan.study
    lines = write_splits_and_patients(study.dataset, study.splits, study.groups, plan.training_cases)
    assert [Path(line.split()[1].rstrip(":")).name for line in lines] == ["patients.csv", "splits_final.json"]
    assert json.loads((preprocessed / "splits_final.json").read_text()) == [FOLD]
    assert read_patients(raw / "patients.csv") == {case: case[0] for case in CASES}
    assert [case.name for case in cases_of_fold(DATASET, 0, "test")] == ["c_1", "d_1"]
    assert [case.name for case in cases_of_fold(DATASET, 0, "val")] == ["b_1"]
    assert write_splits_and_patients(study.dataset, study.splits, study.groups, plan.training_cases) == []
    make_plan(file, tmp_path / "out", "cpu")  # what it wrote itself is no other split
    make_plan(written(tmp_path, splits=[{**FOLD, "train": ["a_2", "a_1"]}]), tmp_path / "out", "cpu")

    with pytest.raises(SettingsError, match=facts("splits_final.json", "other folds", "never changed")):
        make_plan(written(tmp_path, splits=[{**FOLD, "test": ["c_1"]}]), tmp_path / "out", "cpu")
    with pytest.raises(SettingsError, match=facts("patients.csv", "other patients")):
        make_plan(written(tmp_path, groups="{patient}"), tmp_path / "out", "cpu")
    (preprocessed / "splits_final.json").write_text(json.dumps([{part: FOLD[part] for part in ("train", "val")}]))
    with pytest.raises(ModelError, match=facts("Fold 0", "no test cases", "splits_final.json")):
        cases_of_fold(DATASET, 0, "test")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"splits": [{**FOLD, "val": ["z_1"]}]}, ("z_1", DATASET, "does not have")),
        ({"splits": [{**FOLD, "val": ["b_1.nii.gz"]}]}, ("b_1.nii.gz", "file name", "without the ending")),
        ({"splits": [FOLD, FOLD], "folds": [0, 1]}, ("Several folds test", "c_1, d_1", "only once")),
        ({"splits": [{**FOLD, "val": ["a_2"], "train": ["a_1"]}], "groups": "{patient}_*"}, ("a for", "same fold")),
        ({"splits": [{**FOLD, "test": ["a_2"], "train": ["a_1"]}], "groups": "{patient}_*"}, ("a for", "test")),
        ({"splits": [FOLD], "folds": [1]}, ("no fold 1", "0 to 0")),
        ({"groups": "{patient}-*"}, ("groups", "does not match", "a_1")),
        (
            {"published": [{"citation": "X 2020", "methods": {"X": {"liver": {"T1w": 3}}}}]},
            ("published", "'liver'", "X 2020", "lesion"),
        ),
        (
            {"published": [{"citation": "X 2020", "methods": {"X": {"lesion": {"PD": 3}}}}]},
            ("published", "X 2020", "PD"),
        ),
    ],
)
def test_what_does_not_fit_the_dataset(visits, tmp_path, change, said):
    with pytest.raises((SettingsError, ModelError), match=facts(*said)):
        make_plan(written(tmp_path, **change), tmp_path / "out", "cpu")


NAMES = ("T1w", "FLAIR")
ORDER = ("FLAIR", "T1w", "T1w+FLAIR")


def results() -> StudyResults:
    """Two cases with all three subsets; the DSC of case a is 0.2, 0.4, 0.6, that of b 0.1 more; core is half of it."""
    rows = [
        {
            **dict.fromkeys(METRICS, 0.5),
            "trainer": "ours_seed0",
            "fold": "0",
            "case": case,
            "code": code,
            "label": label,
            "dsc": scale * (place * 0.2 + more),
            "configuration": "c",
            "failure": "",
        }
        for place, code in enumerate(("T1w", "FLAIR", "T1w+FLAIR"), 1)
        for label, scale in (("whole", 1), ("core", 0.5))
        for case, more in (("a", 0), ("b", 0.1))
    ]
    seeds = {"nnUNetTrainerOurs": ["ours_seed0"]}
    return StudyResults(rows, seeds=seeds, modalities=NAMES, codes=all_codes(2), dedicated=(), labels=("whole", "core"))


def test_published_rows_stand_next_to_ours_in_the_order_of_the_publication_and_are_marked(tmp_path):
    methods = {
        "X": {"whole": {"T1w": 31, "FLAIR": 32.5, "mean": 40.25}, "core": {"mean": 20}},
        "Y": {"whole": {"T1w": [33.0, 1.5], "T1w+FLAIR": 60}},
    }
    (tmp_path / "rows.yaml").write_text(
        yaml.safe_dump(
            [{"citation": "X et al. 2020.", "split": "3 to 1", "order": list(ORDER), "methods": methods}],
            sort_keys=False,
        )
    )
    (table,) = read_study(written(tmp_path, published=["rows.yaml"])).published
    assert table.methods["Y"]["whole"]["T1w"] == Figure(33.0, 1.5) and table.rows() == [*ORDER, "mean"]
    means, beside = published_tables(results(), [table])
    rows = list(csv.reader(beside.csv().splitlines()))
    assert rows[0] == [*NAMES, *(f"{label} {name}" for label in ("whole", "core") for name in ("X †", "Y †", "Ours"))]
    figures = [[cell.split(" ±")[0] for cell in row[2:]] for row in rows[1:]]
    assert [row[:2] for row in rows[1:]] == [["○", "●"], ["●", "○"], ["●", "●"], ["mean over codes", ""]]
    assert figures == [
        ["32.50", "-", "45.00", "-", "-", "22.50"],
        ["31.00", "33.00", "25.00", "-", "-", "12.50"],
        ["-", "60.00", "65.00", "-", "-", "32.50"],
        ["40.25", "-", "45.00", "20.00", "-", "22.50"],
    ]
    assert rows[2][3] == "33.00 ± 1.50"
    assert [[cell.split(" ±")[0] for cell in row] for row in csv.reader(means.csv().splitlines())] == [
        ["Method", "whole", "core", "Source"],
        ["X †", "40.25", "20.00", "X et al. 2020."],
        ["Ours", "45.00", "22.50", "this study"],
    ]
    for each in (means, beside):
        assert any(COPIED in note and "No test" in note and "1 to 3 points" in note for note in each.notes)
        assert any("X et al. 2020. Split: 3 to 1." in note for note in each.notes)
        assert not any(cell.emphasis for row in each.rows for cell in row), "nothing is best next to copied figures"


def test_one_image_per_case_is_compared_as_it_is_and_a_table_belongs_to_its_set_of_cases(tmp_path):
    given = {"citation": "c", "methods": {"X": {"whole": {"own": 50}}}, "cases": "validation cases"}
    study = read_study(written(tmp_path, published=[given, {**given, "metric": "hd95_mm"}]))
    assert [table.cases for table in study.published] == ["validation cases"] * 2
    tables = published_tables(results(), study.published)
    assert [table.title.split(" next")[0] for table in tables] == ["DSC", "HD95 (mm)"], "no means, no table of means"
    assert list(csv.reader(tables[0].csv().splitlines()))[1][:3] == ["all that each case has", "", "50.00"]
