"""Which patient each case belongs to, and folds that keep the cases of a patient together.

Two visits of a patient look alike. If one is for training and the other for validation, the scores are too good. The
patients stand in `patients.csv` in the raw dataset, with the columns `case` and `patient`.
"""

import csv
import io
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.paths import nnUNet_raw
from nnunetv2.utilities.crossval_split import generate_crossval_split

from nnunet_moe.errors import FileError, SettingsError
from nnunet_moe.runtime.files import atomic_write, nnunet_folder
from nnunet_moe.runtime.json_files import read_json

TABLE = "patients.csv"
CASE, PATIENT, SESSION = "case", "patient", "session"
NUM_FOLDS = 5
SEED = 12345
"""nnU-Net's number of folds, and its seed for the order of the cases."""
MOST_NAMED = 5
"""At most so many cases are named in a message."""


def patients_of(dataset: str) -> dict[str, str]:
    """Return case -> patient from the table of a raw dataset; empty without a table or without `nnUNet_raw`.

    Raises:
        FileError: the table cannot be read.
    """
    raw: Any = nnUNet_raw
    if not raw.is_set():
        return {}
    file = nnunet_folder(nnUNet_raw) / dataset / TABLE
    return read_patients(file) if file.exists() else {}


def read_patients(file: Path, column: str = PATIENT) -> dict[str, str]:
    """Return case -> patient from a table with comma, semicolon or tab between its columns.

    Args:
        file: the table; its first line names the columns. One is `case`.
        column: the name of the column of the patients.

    Raises:
        FileError: the file cannot be read, a column is missing, a field is empty, or a case has two patients.
    """
    try:
        lines = io.StringIO(file.read_text(encoding="utf-8-sig")).readlines()
    except UnicodeDecodeError as error:
        raise FileError(
            f"{file} is no text in UTF-8: {error}. It must be a table with the columns {CASE} and {column}. Save it as "
            "CSV in UTF-8."
        ) from error
    except OSError as error:
        raise FileError(f"{file} cannot be read: {error}. Check the path of the table.") from error
    header = lines[0].rstrip("\n") if lines else ""
    separator = max(",;\t", key=header.count)
    rows = csv.DictReader(lines, delimiter=separator)
    try:
        columns, numbered = rows.fieldnames or (), [(rows.line_num, row) for row in rows]
    except csv.Error as error:
        raise FileError(f"{file} cannot be read as a table: {error}. Correct it.") from error
    if missing := [name for name in (CASE, column) if name not in columns]:
        raise FileError(
            f"{file} has no {' or '.join(map(repr, missing))}. The first line is {header!r}. Name the columns there."
        )
    found: dict[str, str] = {}
    for number, row in numbered:
        case, patient = (row[CASE] or "").strip(), (row[column] or "").strip()
        if not case or not patient:
            raise FileError(f"{file}, line {number}: the case or its patient is empty. Fill in both.")
        if found.setdefault(case, patient) != patient:
            raise FileError(f"{file}, line {number}: {case} belongs to {found[case]} and to {patient}. Keep one line.")
    return found


def without_patient(cases: Collection[str], patients: Mapping[str, str], table: str) -> list[str]:
    """Return a message on the cases for which a table of the patients has no row; an empty list if it has all."""
    missing = sorted(set(cases) - patients.keys())
    if not missing:
        return []
    return [f"{table} has no row for {some(missing)}. Each of them counts as a separate patient."]


def require_a_row(cases: Collection[str], patients: Mapping[str, str], table: str) -> None:
    """Refuse a table of the patients that names none of the cases.

    Args:
        cases: the names of the cases.
        patients: case -> patient, the content of the table.
        table: how the error calls the table.

    Raises:
        SettingsError: no case has a row.
    """
    if not patients.keys() & set(cases):
        raise SettingsError(
            f"{table} has no row for any of the {len(cases)} cases. Its column {CASE!r} names "
            f"{some(sorted(patients)) or 'nothing'}; the cases are {some(sorted(cases))}. Use the names of the cases "
            "in the table."
        )


def write_patients(file: Path, patients: Mapping[str, str], sessions: Mapping[str, str] | None = None) -> None:
    """Write the table of the patients.

    Args:
        file: the table.
        patients: case -> patient.
        sessions: case -> session. If there are any, the table has a third column, which nothing here reads.
    """
    columns = [CASE, PATIENT, SESSION] if sessions else [CASE, PATIENT]
    with file.open("w", newline="", encoding="utf-8") as opened:
        table = csv.writer(opened, lineterminator="\n")
        table.writerow(columns)
        for case, patient in sorted(patients.items()):
            table.writerow([case, patient, (sessions or {}).get(case, "")][: len(columns)])


def crossval_split(cases: Collection[str], patients: Mapping[str, str]) -> list[dict[str, list[str]]]:
    """Return the folds of nnU-Net's cross-validation, drawn over patients instead of cases.

    If each case has its own patient, these are nnU-Net's folds of the patients. There are five folds, or as many as
    there are patients if these are fewer.

    Args:
        cases: the training cases.
        patients: case -> patient. A case that it does not contain is a separate patient.

    Returns:
        `train` and `val` of each fold, in alphabetical order, as in `splits_final.json`; empty for a single patient.
    """
    by_patient: dict[tuple[bool, str], list[str]] = {}
    for case in sorted(cases):
        by_patient.setdefault(_key(case, patients), []).append(case)
    if len(by_patient) < 2:
        return []
    members: Any = [by_patient[patient] for patient in sorted(by_patient)]
    places: Any = list(range(len(members)))  # nnU-Net shuffles places, whatever stands there
    folds = generate_crossval_split(places, seed=SEED, n_splits=min(NUM_FOLDS, len(members)))
    return [
        {part: sorted(case for place in fold[part] for case in members[int(place)]) for part in ("train", "val")}
        for fold in folds
    ]


def read_splits(file: Path) -> list[dict[str, list[str]]]:
    """Return the folds in a `splits_final.json`, which users may write themselves.

    Raises:
        FileError: the file cannot be read, or a fold has no lists of cases under `train` and `val`, and under `test` if
            it has this part, which nnU-Net does not read.
    """
    splits = read_json(file, list)
    for number, fold in enumerate(splits):
        parts = [fold.get(part) for part in ("train", "val")] if isinstance(fold, dict) else [None]
        parts += [fold["test"]] if isinstance(fold, dict) and "test" in fold else []
        if not all(isinstance(part, list) and all(isinstance(case, str) for case in part) for part in parts):
            raise FileError(
                f"{file} has no lists of cases under 'train' and 'val' for fold {number}. nnU-Net needs them. Correct "
                "the file, or remove it, so that new folds are drawn."
            )
    return splits


def write_splits(file: Path, splits: Sequence[Mapping[str, Sequence[str]]]) -> None:
    """Write a `splits_final.json`."""
    with atomic_write(file) as unfinished:
        unfinished.write_text(json.dumps(splits, indent=4), encoding="utf-8")


def in_both_parts(splits: Sequence[Mapping[str, Sequence[str]]], patients: Mapping[str, str]) -> list[str]:
    """Return the patients who have cases in several parts of a fold: for training, for validation, for a test."""
    found: set[str] = set()
    for fold in splits:
        train, val, test = (
            {patients[case] for case in fold.get(part, ()) if case in patients} for part in ("train", "val", "test")
        )
        found |= train & (val | test) | val & test
    return sorted(found)


def groups_of(cases: Sequence[str], patients: Mapping[str, str]) -> np.ndarray:
    """Return the number of the patient of each case, `(N,)` from 0."""
    keys = [_key(case, patients) for case in cases]
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return np.array([numbers[key] for key in keys], dtype=int)


def _key(case: str, patients: Mapping[str, str]) -> tuple[bool, str]:
    """Return what identifies the patient of a case. A case without a patient never has that of another case."""
    return (case not in patients, patients.get(case, case))


def some(names: Sequence[str]) -> str:
    """Return the first names, and how many more there are."""
    return ", ".join(names[:MOST_NAMED]) + (f" and {len(names) - MOST_NAMED} more" * (len(names) > MOST_NAMED))
