"""Trainers keep the cases of a patient together, also if nnU-Net's own command planned the dataset."""

import json
from pathlib import Path

import pytest
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from facts import facts
from made_plans import DATASET
from made_trainers import made_trainer
from nnunet_moe.errors import FileError, ModalityError
from nnunet_moe.patients import crossval_split, in_both_parts

CASES = sorted(f"P{patient}_v{visit}" for patient in range(6) for visit in range(2))
PATIENTS = {case: case[:2] for case in CASES}


@pytest.fixture
def trainer(tmp_path, monkeypatch):
    """Of a preprocessed dataset of two visits for each of six patients; only the names of the files are needed."""
    trainer = made_trainer("nnUNetTrainerMoESD", tmp_path, monkeypatch, patch_size=[16, 16])
    folder = Path(trainer.preprocessed_dataset_folder)
    (folder / "case.b2nd").unlink()
    for case in CASES:
        (folder / f"{case}.b2nd").touch()
    (tmp_path / "raw" / DATASET).mkdir(parents=True)
    return trainer


def splits_file(trainer) -> Path:
    return Path(trainer.preprocessed_dataset_folder_base, "splits_final.json")


def tell_patients(tmp_path, patients: dict[str, str]) -> None:
    rows = "".join(f"{case},{patient}\n" for case, patient in patients.items())
    (tmp_path / "raw" / DATASET / "patients.csv").write_text(f"case,patient\n{rows}")


def test_a_trainer_that_finds_no_folds_draws_them_over_the_patients(trainer, tmp_path):
    tell_patients(tmp_path, PATIENTS)
    training, validation = trainer.do_split()
    splits = json.loads(splits_file(trainer).read_text())
    assert splits == crossval_split(CASES, PATIENTS) and in_both_parts(splits, PATIENTS) == []
    assert (training, validation) == (splits[0]["train"], splits[0]["val"]) and len(splits) == 5
    assert not {case[:2] for case in training} & {case[:2] for case in validation}
    before = splits_file(trainer).read_bytes()
    assert nnUNetTrainer.do_split(trainer) == trainer.do_split() == (training, validation)
    assert splits_file(trainer).read_bytes() == before


def test_without_patients_the_folds_are_those_of_nnunet(trainer):
    theirs = nnUNetTrainer.do_split(trainer)
    written = splits_file(trainer).read_bytes()
    splits_file(trainer).unlink()
    assert trainer.do_split() == theirs and splits_file(trainer).read_bytes() == written
    assert in_both_parts(json.loads(written), PATIENTS) != []  # which is why patients matter


def test_folds_that_mix_patients_are_warned_of_and_never_changed(trainer, tmp_path):
    nnUNetTrainer.do_split(trainer)
    before = splits_file(trainer).read_bytes()
    tell_patients(tmp_path, PATIENTS)
    trainer.do_split()
    log = Path(str(trainer.log_file)).read_text()
    both = in_both_parts(json.loads(before)[:1], PATIENTS)
    assert f"WARNING: {splits_file(trainer)} has cases of {len(both)} patients ({both[0]}, ...)" in log
    assert splits_file(trainer).read_bytes() == before


def test_a_fold_that_nnunet_would_draw_over_cases_is_refused_and_so_is_a_single_patient(trainer, tmp_path):
    tell_patients(tmp_path, PATIENTS)
    trainer.do_split()
    trainer.fold = 5
    with pytest.raises(ModalityError, match=facts(splits_file(trainer), "5 folds", "fold 5", "below 5")):
        trainer.do_split()
    trainer.fold = "all"
    assert sorted(trainer.do_split()[0]) == CASES
    splits_file(trainer).unlink()
    tell_patients(tmp_path, dict.fromkeys(CASES, "P"))
    assert sorted(trainer.do_split()[0]) == CASES and not splits_file(trainer).exists()
    trainer.fold = 0
    with pytest.raises(ModalityError, match=facts("patients.csv", DATASET, "one patient", "fold all")):
        trainer.do_split()
    (tmp_path / "raw" / DATASET / "patients.csv").write_text("case\n")
    with pytest.raises(FileError, match=facts("patients.csv", "'patient'")):
        trainer.do_split()
