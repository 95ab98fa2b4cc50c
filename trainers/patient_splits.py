"""Folds that keep the cases of a patient together, also if nnU-Net's own command planned the dataset."""

from collections.abc import Sequence
from pathlib import Path

from nnunet_moe.errors import ModalityError
from nnunet_moe.patients import TABLE, crossval_split, in_both_parts, patients_of, read_splits, write_splits


def keep_patients_together(dataset: str, file: Path, cases: Sequence[str], fold: int) -> list[str]:
    """Write `splits_final.json` if it does not exist and the raw dataset has a table of the patients.

    nnU-Net's trainer would draw folds over cases, and put visits of one patient into both parts.

    Args:
        dataset: its full name.
        file: the path of `splits_final.json`. An existing file is never changed.
        cases: the preprocessed cases.
        fold: number of the fold to train.

    Returns:
        Lines for the log: what was written, or a warning that the fold mixes the cases of a patient.

    Raises:
        FileError: the table or the existing splits cannot be read.
        ModalityError: all cases belong to one patient, or nnU-Net would draw a fold that mixes patients.
    """
    patients = patients_of(dataset)
    if not patients:
        return []
    if not file.exists():
        if not (splits := crossval_split(cases, patients)):
            raise ModalityError(
                f"{TABLE} of {dataset} says that all cases belong to one patient, so there are no folds. Train with "
                "the fold all."
            )
        write_splits(file, splits)
        return [f"Wrote {file}: {len(splits)} folds that keep the cases of a patient together, as {TABLE} says"]
    splits = read_splits(file)
    own = [patients[case] for case in cases if case in patients]
    if fold >= len(splits) and len(set(own)) < len(own):
        raise ModalityError(
            f"{file} has {len(splits)} folds, so nnU-Net would draw cases at random for fold {fold}, and mix the cases "
            f"of a patient. Choose a fold below {len(splits)}, or add this fold to the file."
        )
    if both := in_both_parts(splits[fold : fold + 1], patients):
        return [
            f"WARNING: {file} has cases of {len(both)} patients ({both[0]}, ...) for training and for validation, "
            f"or one of them and a test, in fold {fold}, so the scores will be too good. {TABLE} lists the patients. "
            f"Remove {file.name} and train all folds again, or change it."
        ]
    return []
