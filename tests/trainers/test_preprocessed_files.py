"""Trainers say before the first epoch which preprocessed files they lack, and which command writes them."""

from pathlib import Path

import numpy as np
import pytest
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

from facts import facts
from made_plans import DATASET, NAMES
from made_trainers import made_trainer
from nnunet_moe.errors import ModalityError, ModelError

CASES = ("a", "b", "c", "d", "e", "f")


def made(tmp_path, monkeypatch, num_channels, **options):
    """A trainer of the cases, all with all channels except for case e."""
    trainer = made_trainer(options.pop("name", "nnUNetTrainerMoESD"), tmp_path, monkeypatch, **options)
    folder = Path(trainer.preprocessed_dataset_folder)
    (folder / "case.b2nd").unlink()
    for case in CASES:
        image = np.zeros((num_channels if case == "e" else len(NAMES), 1, 16, 16), dtype=np.float32)
        properties = {"class_locations": {1: np.zeros((0, 4), dtype=int)}}
        nnUNetDatasetBlosc2.save_case(image, image[:1].astype(np.int8), properties, str(folder / case))
    return trainer


@pytest.mark.parametrize("name", ["nnUNetTrainerMoESD", "nnUNetTrainerDedicated"])
def test_a_case_that_nnunet_preprocessed_without_its_missing_files_is_named(name, tmp_path, monkeypatch):
    trainer = made(tmp_path, monkeypatch, 2, name=name, patch_size=[16, 16])
    command = f"nnunet_moe plan_and_preprocess -d {DATASET} -c small"
    with pytest.raises(ModalityError, match=facts("e was preprocessed with 2 of 3 channels", command)):
        trainer.get_tr_and_val_datasets()


def test_a_second_stage_names_the_cases_that_the_first_has_not_segmented(tmp_path, monkeypatch):
    trainer = made(tmp_path, monkeypatch, 3, patch_size=[16, 16], previous_stage="first")
    folder = Path(trainer.folder_with_segs_from_previous_stage)
    with pytest.raises(ModelError, match=facts("6 of 6 cases, such as a,", "configuration first in", str(folder))):
        trainer.get_tr_and_val_datasets()
    folder.mkdir(parents=True)
    for case in CASES[:-1]:
        (folder / f"{case}.b2nd").touch()
    with pytest.raises(ModelError, match=facts("1 of 6 cases, such as f,", "Train all folds of first")):
        trainer.get_tr_and_val_datasets()
    (folder / "f.b2nd").touch()
    training, validation = trainer.get_tr_and_val_datasets()
    assert sorted({*training.identifiers, *validation.identifiers}) == list(CASES)
