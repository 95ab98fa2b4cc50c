"""Write the folds of a dataset whose patients are known, so that no patient is in both parts of a fold."""

from collections.abc import Sequence
from pathlib import Path

from nnunetv2.paths import nnUNet_preprocessed

from nnunet_moe.commands.plan_and_preprocess.raw_dataset import some
from nnunet_moe.patients import (
    TABLE,
    crossval_split,
    in_both_parts,
    patients_of,
    read_splits,
    without_patient,
    write_splits,
)
from nnunet_moe.runtime.files import nnunet_folder


def read_patients_and_splits(dataset: str) -> tuple[dict[str, str], Path, list[dict[str, list[str]]] | None]:
    """Read the table of the patients, and the existing folds if there is such a table.

    Args:
        dataset: its full name.

    Returns:
        Case -> patient, the path of `splits_final.json`, and its folds; None if the file was not read.

    Raises:
        FileError: one of the files cannot be read.
    """
    patients, file = patients_of(dataset), nnunet_folder(nnUNet_preprocessed) / dataset / "splits_final.json"
    return patients, file, read_splits(file) if patients and file.exists() else None


def split_by_patient(dataset: str, cases: Sequence[str]) -> list[str]:
    """Write `splits_final.json` if the patients are known and it does not exist. An existing one is never changed.

    Args:
        dataset: its full name.
        cases: the training cases.

    Returns:
        Lines for the user: what was written, and warnings.

    Raises:
        FileError: the table of the patients or the existing splits cannot be read.
    """
    patients, file, splits = read_patients_and_splits(dataset)
    if not patients:
        return []
    lines = [f"WARNING: {note}" for note in without_patient(cases, patients, TABLE)]
    if splits is not None:
        if both := in_both_parts(splits, patients):
            lines.append(
                f"WARNING: {file} has cases of {some(both)} for training and for validation, or one of them and a "
                "test, in the same fold, so the scores will be too good. Remove the file before you train, and rerun "
                "this command."
            )
        return lines
    if not (splits := crossval_split(cases, patients)):
        return [*lines, "WARNING: all cases belong to one patient, so no folds were written. Train with the fold all."]
    write_splits(file, splits)
    return [*lines, f"Wrote {file}: {len(splits)} folds that keep the cases of a patient together."]
