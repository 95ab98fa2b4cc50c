"""The patients of a study's cases, and the refusal of folds that mix them."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from nnunetv2.paths import nnUNet_raw

from nnunet_moe.commands.study.values import text
from nnunet_moe.errors import SettingsError
from nnunet_moe.patients import PATIENT, TABLE, groups_of, in_both_parts, patients_of, some
from nnunet_moe.runtime.files import nnunet_folder
from nnunet_moe.runtime.patterns import Pattern


def read_groups(value: Any, key: str) -> str:
    """Return the pattern that gives the patient of a case.

    Raises:
        SettingsError: it is no pattern, or has no `{patient}`.
    """
    pattern = text(value, key)
    if f"{{{PATIENT}}}" not in pattern:
        raise SettingsError(
            f"{key} is {pattern!r}. It must have {{{PATIENT}}} in the place of the patient, e.g. '{{{PATIENT}}}_*'."
        )
    try:
        Pattern(pattern)
    except SettingsError as error:
        raise SettingsError(f"{key}: {error}") from error
    return pattern


def study_patients(dataset: str, groups: str | None, cases: Collection[str]) -> dict[str, str]:
    """Return case -> patient, by the study's pattern, or else by the table of the raw dataset; empty without both.

    Args:
        dataset: its full name.
        groups: the pattern in the study's file.
        cases: the names of the training cases.

    Raises:
        SettingsError: a case does not match the pattern, or the table names other patients.
        FileError: the table cannot be read.
    """
    table = patients_of(dataset)
    known = {case: table[case] for case in cases if case in table}
    if groups is None:
        return known
    pattern = Pattern(groups)
    found = {case: fields[PATIENT] for case in cases if (fields := pattern.match(case)) is not None}
    if missing := sorted(set(cases) - found.keys()):
        raise SettingsError(
            f"groups is {groups!r}, which does not match {some(missing)}. It must match the name of every training "
            "case. Correct it."
        )
    if table and known != found:
        raise SettingsError(
            f"{nnunet_folder(nnUNet_raw) / dataset / TABLE} names other patients than groups {groups!r}. Remove "
            f"one of them; '{TABLE}' is used without 'groups', too."
        )
    return found


def count_patients(cases: Sequence[str], patients: Mapping[str, str]) -> int:
    """Return the number of patients. A case without a patient counts as a separate one."""
    return len(set(groups_of(cases, patients).tolist()))


def source_of(groups: str | None) -> str:
    """Return where the patients come from, for messages."""
    return TABLE if groups is None else f"groups {groups!r}"


def require_several_patients(cases: Sequence[str], patients: Mapping[str, str], source: str) -> None:
    """Make sure that folds can be drawn or given: not all cases may belong to one patient.

    Raises:
        SettingsError: they do.
    """
    if patients and len(cases) > 1 and count_patients(cases, patients) == 1:
        raise SettingsError(
            f"By {source}, all {len(cases)} cases belong to the patient {patients[cases[0]]!r}. Folds need at least "
            "two patients. Correct it, or use folds: [all]."
        )


def require_separate(
    splits: Sequence[Mapping[str, Sequence[str]]], patients: Mapping[str, str], source: str, file: Path | None
) -> None:
    """Make sure that each patient is in one part of each fold.

    This holds for validation and test, too: the cases of the validation elect teachers.

    Args:
        splits: the folds.
        patients: case -> patient.
        source: where the patients come from, for messages.
        file: the file of the folds. None: the study's file has them.

    Raises:
        SettingsError: a patient is in several parts.
    """
    both = in_both_parts(splits, patients)
    if not both:
        return
    said = (
        f"has cases of {some(both)} for training and for validation or test, or for validation and for test, in the "
        f"same fold. The patients come from {source}. Scores would be too good."
    )
    if file is None:
        raise SettingsError(f"splits {said} Correct 'splits' or the patients.")
    raise SettingsError(
        f"{file} {said} Remove this file and the models that were trained with it; new folds keep patients together. "
        "Or correct the patients."
    )
