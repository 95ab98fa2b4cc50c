"""The patient of each imported case, and the folds that planning makes of it."""

import json
from pathlib import Path

import numpy as np
import pytest

from facts import facts
from incomplete import extract_fingerprint, plan_and_preprocess, write
from nnunet_moe.cli import main
from nnunet_moe.commands.plan_and_preprocess.splits import split_by_patient

DATASET = "Dataset923_Visits"
VISITS = {"P0": 1, "P1": 3, "P2": 2}
CASES = {f"{patient}_v{visit}": patient for patient, number in VISITS.items() for visit in range(number)}


@pytest.fixture
def folders(tmp_path, monkeypatch) -> Path:
    for kind in ("raw", "preprocessed", "results"):
        (tmp_path / kind).mkdir()
        monkeypatch.setenv(f"nnUNet_{kind}", str(tmp_path / kind))
    return tmp_path


@pytest.fixture
def source(folders) -> Path:
    """Three patients with one to three visits."""
    image = np.zeros((8, 8, 8), dtype=np.float32)
    image[2:6, 2:6, 2:6] = 50
    for case, patient in CASES.items():
        folder = folders / "source" / patient / case.removeprefix(f"{patient}_")
        write(folder / "t1.nii.gz", image)
        write(folder / "seg.nii.gz", (image > 0).astype(np.uint8))
    return folders / "source"


def import_(source: Path, *options, first="patient"):
    folder = f"{{{first}}}/{{visit}}"
    patterns = ("-m", f"T1={folder}/t1.nii.gz", "-l", f"{folder}/seg.nii.gz")
    main(["import", *map(str, ("-i", source, "-d", DATASET, *patterns, *options, "-np", 1, "--no_pbar"))])


def table(folders: Path) -> str:
    return (folders / "raw" / DATASET / "patients.csv").read_text()


EXPECTED = "case,patient\n" + "".join(f"{case},{patient}\n" for case, patient in CASES.items())


@pytest.mark.parametrize("name", ["patient", "subject", "sub"])
def test_a_name_in_braces_tells_the_patient(source, folders, name, capsys):
    import_(source, first=name)
    assert table(folders) == EXPECTED and "3 patients" in capsys.readouterr().out


def test_another_name_in_braces_tells_it_if_the_user_says_so(source, folders):
    import_(source, "-patient", "who", first="who")
    assert table(folders) == EXPECTED


def test_without_a_name_nothing_is_assumed(source, folders):
    import_(source, first="case")
    assert not (folders / "raw" / DATASET / "patients.csv").exists()


def test_a_column_of_a_table_tells_it(source, folders):
    file = folders / "visits.tsv"
    file.write_text("case\tage\tfamily\n" + "".join(f"{case}\t50\tF{case[1:2]}\n" for case in CASES))
    import_(source, "-patients", file, "-patient", "family")
    assert table(folders) == EXPECTED.replace(",P", ",F")


def test_what_does_not_tell_the_patients_is_refused(source, folders):
    file = folders / "visits.csv"
    file.write_text("case,patient\nP0_v0,P0\n")
    with pytest.raises(SystemExit, match=facts("-patients", "no row for 5 of 6 cases", "P1_v0")):
        import_(source, "-patients", file)
    with pytest.raises(SystemExit, match=facts("-patient who", "patient, visit")):
        import_(source, "-patient", "who")
    with pytest.raises(SystemExit, match=facts("visits.csv", "'who'")):
        import_(source, "-patients", file, "-patient", "who")
    assert not (folders / "raw" / DATASET).exists()


def test_planning_writes_folds_that_keep_patients_together(source, folders, capsys):
    import_(source)
    extract_fingerprint(923, num_samples=100)
    plan_and_preprocess("-d", 923, "--no_pp")
    file = folders / "preprocessed" / DATASET / "splits_final.json"
    splits = json.loads(file.read_text())
    assert sorted(fold["val"] for fold in splits) == [["P0_v0"], ["P1_v0", "P1_v1", "P1_v2"], ["P2_v0", "P2_v1"]]
    assert all(sorted(fold["train"] + fold["val"]) == list(CASES) for fold in splits)
    assert f"Wrote {file}: 3 folds" in capsys.readouterr().out


def test_an_existing_split_is_never_changed_but_looked_at(source, folders):
    import_(source)
    file = folders / "preprocessed" / DATASET / "splits_final.json"
    file.parent.mkdir()
    users = '[{"train": ["P1_v0", "P0_v0"], "val": ["P1_v1", "P2_v0"]}]'
    file.write_text(users)
    (warning,) = split_by_patient(DATASET, list(CASES))
    assert warning.startswith(f"WARNING: {file} has cases of P1 for training and for validation")
    file.write_text(users.replace("P1_v1", "P2_v1"))
    assert split_by_patient(DATASET, list(CASES)) == []
    assert file.read_text() == users.replace("P1_v1", "P2_v1")


def test_cases_without_a_patient_and_a_single_patient_are_told(source, folders):
    import_(source)
    file = folders / "raw" / DATASET / "patients.csv"
    (folders / "preprocessed" / DATASET).mkdir()
    file.write_text("case,patient\n" + "".join(f"{case},P\n" for case in CASES))
    (warning,) = split_by_patient(DATASET, list(CASES))
    assert "one patient" in warning and "fold all" in warning
    file.write_text("case,patient\nP0_v0,P0\n")
    warning, written = split_by_patient(DATASET, list(CASES))
    assert "no row for P1_v0, P1_v1, P1_v2, P2_v0, P2_v1. Each" in warning and "5 folds" in written
