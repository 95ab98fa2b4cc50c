"""The folds and the patients that a study's file gives."""

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from nnunetv2.paths import nnUNet_preprocessed, nnUNet_raw

from nnunet_moe.commands.study.patients import (
    require_separate,
    require_several_patients,
    source_of,
    study_patients,
)
from nnunet_moe.commands.study.values import checked, filled_list, path_in, text, unset_variable
from nnunet_moe.errors import SettingsError
from nnunet_moe.patients import CASE, PATIENT, TABLE, read_splits, some, write_patients, write_splits
from nnunet_moe.runtime.files import nnunet_folder

Split = dict[str, list[str]]
"""The cases of one fold: `train`, `val` and perhaps `test`."""
PARTS = ("train", "val", "test")
SPLITS = "splits_final.json"


def read_split(value: Any, key: str, folder: Path) -> tuple[Split, ...]:
    """Read the folds of a study: a JSON file as nnU-Net writes it, or a list of folds.

    Each part of a fold is a list of cases, or a text file with a case in each line.

    Args:
        value: what the study's file has for the key.
        key: the key, for errors.
        folder: the folder at which relative paths start.

    Raises:
        SettingsError: a file is missing, a part is empty or has a case twice, or two parts share a case.
        FileError: the JSON file cannot be used.
    """
    if isinstance(value, str):
        file = path_in(folder, value)
        if not file.is_file():
            raise SettingsError(
                f"{key}: {file} does not exist.{unset_variable(file)} Give a JSON file such as {SPLITS}, or a list of "
                "folds."
            )
        value = read_splits(file)
    parts = {part: lambda cases, part: _cases(cases, part, folder) for part in PARTS}
    folds = []
    for number, given in enumerate(filled_list(value, key)):
        where = f"{key}, fold {number}"
        fold = checked(given, where, parts, required=("train", "val"))
        named = [case for cases in fold.values() for case in cases]
        if twice := sorted({case for case in named if named.count(case) > 1}):
            raise SettingsError(f"{where} has {some(twice)} more than once. Each case may be in one part of a fold.")
        folds.append(fold)
    return tuple(folds)


def require_usable(
    dataset: str,
    splits: Sequence[Split],
    groups: str | None,
    folds: Collection[Any],
    cases: Sequence[str],
) -> dict[str, str]:
    """Make sure that the folds and patients of a study fit the dataset and its files, without writing anything.

    Args:
        dataset: its full name.
        splits: the folds in the study's file; may be empty.
        groups: the pattern in the study's file.
        folds: the numbers of the folds to train.
        cases: the names of the cases of the raw dataset.

    Returns:
        Case -> patient; empty if the patients are not known.

    Raises:
        SettingsError: they do not fit; the message names the file and the first cases.
        FileError: an existing file cannot be read.
    """
    patients, source = study_patients(dataset, groups, cases), source_of(groups)
    numbers = [fold for fold in folds if isinstance(fold, int)]
    if numbers:
        require_several_patients(cases, patients, source)
    file = _splits_file(dataset)
    existing = read_splits(file) if file.exists() else []
    used = splits or [existing[number] for number in numbers if number < len(existing)]
    require_separate(used, patients, source, None if splits else file)
    if splits:
        _require_known(dataset, splits, numbers, cases)
        if file.exists() and _sorted(existing) != _sorted(splits):
            raise SettingsError(
                f"{file} has other folds than 'splits'. An existing file is never changed. If no model was trained "
                "with it, remove it. Otherwise remove 'splits'."
            )
    return patients


def _require_known(dataset: str, splits: Sequence[Split], numbers: Sequence[int], cases: Sequence[str]) -> None:
    if unknown := sorted({case for fold in splits for part in fold.values() for case in part} - set(cases)):
        files = [name for name in unknown if any(name.startswith(f"{case}.") for case in cases)]
        advice = "Import these cases, or remove them from the lists."
        if files:
            advice = f"{files[0]} looks like a file name. Give the names of the cases, without the ending of the files."
        raise SettingsError(f"splits names {some(unknown)}, which {dataset} does not have. {advice}")
    tested = [case for number in numbers for case in _of(splits, number).get("test", ())]
    if twice := sorted({case for case in tested if tested.count(case) > 1}):
        raise SettingsError(
            f"Several folds test the same cases: {some(twice)}. Each case may count only once. Write a study for each "
            "of these folds, with the same 'splits'."
        )


def write_splits_and_patients(
    dataset: str, splits: Sequence[Split], groups: str | None, cases: Sequence[str]
) -> list[str]:
    """Write the folds and patients of a study to the places where trainings look for them, if they do not exist.

    Args:
        dataset: its full name.
        splits: the folds; may be empty.
        groups: the pattern that gives the patient of a case.
        cases: the names of the cases of the raw dataset.

    Returns:
        Lines for the user.
    """
    lines = []
    table = nnunet_folder(nnUNet_raw) / dataset / TABLE
    if groups is not None and not table.exists():
        write_patients(table, study_patients(dataset, groups, cases))
        lines.append(f"Wrote {table}: the {PATIENT} of each {CASE}, by {groups!r}")
    if splits and not _splits_file(dataset).exists():
        _splits_file(dataset).parent.mkdir(parents=True, exist_ok=True)
        write_splits(_splits_file(dataset), splits)
        lines.append(f"Wrote {_splits_file(dataset)}: {len(splits)} folds of the study")
    return lines


def _of(splits: Sequence[Split], number: int) -> Split:
    return splits[number] if number < len(splits) else {}


def _splits_file(dataset: str) -> Path:
    return nnunet_folder(nnUNet_preprocessed) / dataset / SPLITS


def _sorted(splits: Sequence[Mapping[str, Sequence[str]]]) -> str:
    return json.dumps([{part: sorted(fold[part]) for part in PARTS if part in fold} for fold in splits])


def _cases(value: Any, part: str, folder: Path) -> list[str]:
    if isinstance(value, str):
        file = path_in(folder, value)
        try:
            lines = file.read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise SettingsError(f"{part}: {file} is no text in UTF-8: {error}. Save it as UTF-8.") from error
        except OSError as error:
            raise SettingsError(
                f"{part}: {file} cannot be read: {error.strerror}.{unset_variable(file)} Give a text file with a case "
                "in each line, or a list."
            ) from error
        value = [line.strip() for line in lines]
        value = [line for line in value if line and not line.startswith("#")]
    return [text(case, f"a case of {part}") for case in filled_list(value, part)]
