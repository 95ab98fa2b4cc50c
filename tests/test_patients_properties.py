"""Folds are partitions that keep patients together, and any table is read or refused."""

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from made_json import JSON, changed
from nnunet_moe.commands.plan_and_preprocess.splits import split_by_patient
from nnunet_moe.errors import FileError
from nnunet_moe.patients import NUM_FOLDS, crossval_split, groups_of, in_both_parts, read_patients, write_patients

NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0"), min_size=1, max_size=5).filter(
    lambda name: name == name.strip()
)
PATIENTS = st.dictionaries(st.text("abc", min_size=1, max_size=3), st.sampled_from("abcdefgh"), max_size=20)


@given(PATIENTS, st.sets(st.text("abcd", min_size=1, max_size=3), max_size=6))
def test_folds_validate_each_case_once_and_never_share_a_patient(patients, others):
    cases = sorted(patients.keys() | others)
    groups = dict(zip(cases, groups_of(cases, patients).tolist(), strict=True))
    for case in cases:
        same = {other for other in cases if groups[other] == groups[case]}
        expected = {other for other in cases if other in patients and patients[other] == patients.get(case)}
        assert same == (expected if case in patients else {case})
    folds = crossval_split(others | patients.keys(), patients)
    number = len(set(groups.values()))
    assert len(folds) == (min(number, NUM_FOLDS) if number > 1 else 0)
    for fold in folds:
        assert sorted(fold["train"] + fold["val"]) == cases and fold["train"] and fold["val"]
        assert not {groups[case] for case in fold["train"]} & {groups[case] for case in fold["val"]}
    assert not folds or sorted(case for fold in folds for case in fold["val"]) == cases
    assert in_both_parts(folds, patients) == []


@given(st.dictionaries(NAMES, NAMES, max_size=5))
def test_any_names_survive_the_table(patients):
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "patients.csv"
        write_patients(file, patients)
        assert read_patients(file) == patients


@given(
    st.one_of(st.binary(), st.text('case,patient;\t\n\r"a\0 \u2028').map(lambda text: f"case,patient\n{text}".encode()))
)
def test_any_table_is_read_or_refused(content):
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "patients.csv"
        file.write_bytes(content)
        try:
            read_patients(file)
        except FileError as error:
            assert str(file) in str(error)


FOLDS = [{"train": ["a", "b"], "val": ["c"]}, {"train": ["c"], "val": ["a", "b"]}]


@given(st.one_of(JSON, changed(FOLDS)))
def test_any_folds_that_exist_are_compared_with_the_patients_or_refused(written):
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        for kind in ("raw", "preprocessed"):
            patch.setenv(f"nnUNet_{kind}", folder)
        (Path(folder) / "D").mkdir()
        write_patients(Path(folder) / "D" / "patients.csv", {"a": "p", "b": "p", "c": "p"})
        file = Path(folder) / "D" / "splits_final.json"
        file.write_text(json.dumps(written))
        try:
            lines = split_by_patient("D", ["a", "b", "c"])
        except FileError as error:
            assert str(file) in str(error)
        else:
            assert isinstance(written, list) and len(lines) == any(
                {*fold["train"]} & {*"abc"} and {*fold["val"]} & {*"abc"} for fold in written
            )
