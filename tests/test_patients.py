"""The cases of a patient stay in one part of each fold."""

import json

import numpy as np
import pytest
from nnunetv2.utilities.crossval_split import generate_crossval_split

from facts import facts
from nnunet_moe.errors import FileError
from nnunet_moe.patients import (
    crossval_split,
    groups_of,
    in_both_parts,
    patients_of,
    read_patients,
    read_splits,
    write_patients,
)

CASES = [f"P{patient}_v{visit}" for patient in range(7) for visit in range(1 + patient % 3)]
PATIENTS = {case: case.split("_")[0] for case in CASES}


def test_the_cases_of_a_patient_are_never_in_both_parts_and_each_case_is_validated_once():
    splits = crossval_split(CASES, PATIENTS)
    assert len(splits) == 5
    for fold in splits:
        assert sorted(fold["train"] + fold["val"]) == sorted(CASES)
        assert not {case[:2] for case in fold["train"]} & {case[:2] for case in fold["val"]}
    assert sorted(case for fold in splits for case in fold["val"]) == sorted(CASES)
    assert in_both_parts(splits, PATIENTS) == []


@pytest.mark.parametrize("number", [5, 12, 13])
@pytest.mark.parametrize("known", [True, False])
def test_with_one_case_for_each_patient_the_folds_are_those_of_nnunet(number, known):
    cases = [f"case{index:02d}" for index in range(number)]
    theirs = generate_crossval_split(cases, seed=12345, n_splits=5)
    ours = crossval_split(reversed(cases), {case: f"patient of {case}" for case in cases} if known else {})
    assert ours == [{part: list(map(str, fold[part])) for part in ("train", "val")} for fold in theirs]


def test_a_case_without_a_patient_is_a_patient_by_itself():
    splits = crossval_split(["a", "b", "c"], {"a": "c", "b": "c"})  # the patient c has not the case c
    assert sorted(tuple(fold["val"]) for fold in splits) == [("a", "b"), ("c",)]
    assert groups_of(["a", "c", "b"], {"a": "c", "b": "c"}).tolist() == [0, 1, 0]


def test_a_single_patient_has_no_folds():
    assert crossval_split(["a", "b"], {"a": "p", "b": "p"}) == [] == crossval_split([], {})


def test_patients_in_both_parts_are_found():
    splits = [{"train": ["P1_v0", "P2_v0"], "val": ["P1_v1", "x"]}, {"train": ["x"], "val": ["y"]}]
    assert in_both_parts(splits, PATIENTS) == ["P1"]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_tables_of_several_kinds_are_read(tmp_path, separator):
    file = tmp_path / "table.txt"
    rows = (("age", "case", "who"), ("61", "a b", " 007 "), ("61", "c", "NA"))
    file.write_text("\ufeff" + "\r\n".join(separator.join(row) for row in rows), encoding="utf-8")
    assert read_patients(file, "who") == {"a b": "007", "c": "NA"}


def test_a_table_survives_writing(tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_raw", str(tmp_path))
    (tmp_path / "Dataset001_A").mkdir()
    patients = {'b,"1"': "Müller", "a": "P;1", "c\u2028d": "2\x0b4", "e\nf": "3"}
    write_patients(tmp_path / "Dataset001_A" / "patients.csv", patients)
    assert patients_of("Dataset001_A") == patients and patients_of("Dataset002_B") == {}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", ("'case' or 'patient'", "first line")),
        (b"case,subject\na,1\n", ("'patient'", "'case,subject'")),
        (b"case,patient\na,1\nb,\n", ("line 3", "empty")),
        (b"case,patient\na\n", ("line 2", "empty")),
        (b"case,patient\na,1\na,2\n", ("line 3", "a belongs to 1 and to 2")),
        (b"case,patient\n\n\na,1\nb,\n", ("line 5", "empty")),
        (b"case,patient\n" + b"a" * 200_000 + b",1\n", ("patients.csv", "field", "131072")),
        (b"case,patient\n\xe4,1\n", ("UTF-8",)),
    ],
)
def test_tables_that_do_not_say_it_are_refused(tmp_path, content, said):
    file = tmp_path / "patients.csv"
    file.write_bytes(content)
    with pytest.raises(FileError, match=facts("patients.csv", *said)):
        read_patients(file)


@pytest.mark.parametrize(
    "fold", [None, [], {}, {"train": ["a"]}, {"train": ["a"], "val": "b"}, {"train": [1], "val": []}]
)
def test_folds_without_lists_of_cases_are_refused(tmp_path, fold):
    file = tmp_path / "splits_final.json"
    file.write_text(json.dumps([{"train": ["a"], "val": []}, fold]))
    with pytest.raises(FileError, match=facts(file, "'train'", "'val'", "fold 1")):
        read_splits(file)


def test_groups_are_numbers_in_the_order_of_the_cases():
    assert np.array_equal(groups_of(["P2_v1", "P1_v0", "P2_v0"], PATIENTS), [0, 1, 0])
