"""`nnunet_moe import --bids`: sessions of subjects become cases; what is ambiguous is never chosen, but reported."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from made_grids import COARSE, FINE, write_image

from facts import facts
from nnunet_moe.cli import main
from nnunet_moe.patients import patients_of

DATASET = "Dataset924_Bids"
MODALITIES = ("-m", "T1w=T1w", "-m", "FLAIR=FLAIR", "-m", "T1ce=ce-gadolinium_T1w")
LABEL = ("-l", "label-lesion_mask")


@pytest.fixture
def raw(tmp_path, monkeypatch) -> Path:
    for kind in ("raw", "preprocessed", "results"):
        (tmp_path / kind).mkdir()
        monkeypatch.setenv(f"nnUNet_{kind}", str(tmp_path / kind))
    return tmp_path / "raw" / DATASET


def image(file: Path, space=FINE) -> None:
    """Write an image whose voxels depend on its name."""
    write_image(file, space, sum(file.name.encode()))


def mask(file: Path, space=FINE) -> None:
    lesion = np.zeros(space.size[::-1], dtype=np.uint8)
    lesion[3:6, 4:7, 4:8] = 1
    file.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(space.image(lesion), str(file))


def path(root: Path, case: str, kind: str, dataset: str = "", ending: str = ".nii.gz") -> Path:
    """The place of a file in BIDS."""
    return root / dataset / case.replace("_", "/") / "anat" / f"{case}_{kind}{ending}"


CASES = {
    "sub-01_ses-1": ("T1w", "acq-3D_FLAIR", "ce-gadolinium_T1w"),
    "sub-01_ses-2": ("T1w",),
    "sub-02": ("run-1_T1w", "FLAIR"),
    "sub-03": ("FLAIR",),
}


@pytest.fixture
def bids(tmp_path) -> Path:
    """One subject with two sessions, and two without; the last one has no segmentation."""
    root = tmp_path / "study"
    root.mkdir()
    (root / "dataset_description.json").write_text('{"Name": "study", "BIDSVersion": "1.10.0"}')
    (root / "participants.tsv").write_text("participant_id\tage\nsub-01\t40\n")
    for case, kinds in CASES.items():
        for kind in kinds:
            image(path(root, case, kind))
            path(root, case, kind, ending=".json").write_text("{}")
        if case != "sub-03":
            mask(path(root, case, "label-lesion_mask", "derivatives/manual"))
    return root


def import_(bids: Path, *options):
    main(["import", *map(str, ("--bids", bids, "-d", DATASET, *options, "-np", 1, "--no_pbar"))])


def report(raw: Path) -> dict[str, str]:
    """File name -> why it was not placed."""
    with (raw / "import_report.csv").open() as opened:
        return {Path(row["file"]).name: row["reason"] for row in csv.DictReader(opened)}


def placed(raw: Path, part: str = "Tr") -> list[str]:
    return sorted(file.name.removesuffix(".nii.gz") for file in raw.glob(f"images{part}/*"))


def test_sessions_become_cases_and_every_file_is_placed_or_listed(bids, raw, capsys):
    image(path(bids, "sub-01_ses-1", "T2w"))
    image(path(bids, "sub-02", "desc-preproc_T1w", "derivatives/fmriprep"))
    image(path(bids, "sub-02", "T1w", "sourcedata"))
    import_(bids, *MODALITIES, *LABEL, "--link", "--unlabelled_to_test")
    expected = {
        "sub-01_ses-1_0000": "sub-01_ses-1_T1w",
        "sub-01_ses-1_0001": "sub-01_ses-1_acq-3D_FLAIR",
        "sub-01_ses-1_0002": "sub-01_ses-1_ce-gadolinium_T1w",
        "sub-01_ses-2_0000": "sub-01_ses-2_T1w",
        "sub-02_0000": "sub-02_run-1_T1w",
        "sub-02_0001": "sub-02_FLAIR",
    }
    links = {
        file.name: Path(os.readlink(file)) for folder in ("images*", "labelsTr") for file in raw.glob(f"{folder}/*")
    }
    assert {name: links[f"{name}.nii.gz"].name for name in placed(raw)} == {
        name: f"{file}.nii.gz" for name, file in expected.items()
    }
    assert placed(raw, "Ts") == ["sub-03_0001"]
    for case in ("sub-01_ses-1", "sub-01_ses-2", "sub-02"):
        assert links[f"{case}.nii.gz"] == path(bids, case, "label-lesion_mask", "derivatives/manual").resolve()
    assert (raw / "patients.csv").read_text() == (
        "case,patient,session\nsub-01_ses-1,sub-01,ses-1\nsub-01_ses-2,sub-01,ses-2\nsub-02,sub-02,\nsub-03,sub-03,\n"
    )
    assert patients_of(DATASET) == dict.fromkeys(("sub-01_ses-1", "sub-01_ses-2"), "sub-01") | {
        "sub-02": "sub-02",
        "sub-03": "sub-03",
    }
    with (raw / "import_report.csv").open() as opened:
        rows = [(row["what"], Path(row["file"])) for row in csv.DictReader(opened)]
    files = {file.resolve() for file in bids.rglob("*") if file.is_file()}
    assert {what for what, _ in rows} == {"not placed"}
    assert {file for _, file in rows} == files - set(links.values())
    assert [file.name for _, file in rows[:2]] == ["sub-02_desc-preproc_T1w.nii.gz", "sub-01_ses-1_T2w.nii.gz"]
    told = report(raw)
    assert "use derivatives/fmriprep/desc-preproc_T1w" in told["sub-02_desc-preproc_T1w.nii.gz"]
    assert told["sub-01_ses-1_T2w.nii.gz"] == "No filter matches T2w."
    assert "sourcedata" in told["sub-02_T1w.nii.gz"]
    printed = capsys.readouterr().out
    assert "T1w has files of several kinds: 2 T1w, 1 run-1_T1w" in printed and "3 patients" in printed


def test_without_modalities_each_suffix_is_one(bids, raw):
    path(bids, "sub-01_ses-1", "ce-gadolinium_T1w").unlink()
    (bids / "sub-01" / "ses-1" / "func").mkdir()
    image(bids / "sub-01" / "ses-1" / "func" / "sub-01_ses-1_task-rest_bold.nii.gz")
    import_(bids, *LABEL)
    assert json.loads((raw / "dataset.json").read_text())["channel_names"] == {"0": "FLAIR", "1": "T1w"}
    assert placed(raw) == ["sub-01_ses-1_0000", "sub-01_ses-1_0001", "sub-01_ses-2_0001", "sub-02_0000", "sub-02_0001"]


def test_a_suffix_with_several_kinds_must_be_named(bids, raw):
    with pytest.raises(SystemExit, match=facts("-m T1w=T1w", "-m T1w_gadolinium=ce-gadolinium_T1w", "-m FLAIR=FLAIR")):
        import_(bids, *LABEL)
    assert not raw.exists()


def test_several_runs_or_pipelines_are_reported_with_the_remedy(bids, raw):
    image(path(bids, "sub-01_ses-2", "run-2_FLAIR"))
    image(path(bids, "sub-01_ses-2", "run-3_FLAIR"))
    mask(path(bids, "sub-02", "label-lesion_mask", "derivatives/second"))
    import_(bids, *MODALITIES, *LABEL)
    assert {name.rpartition("_")[0] for name in placed(raw)} == {"sub-01_ses-1"}
    told = report(raw)
    assert "-m FLAIR=run-2_FLAIR or run-3_FLAIR" in told["sub-01_ses-2_run-2_FLAIR.nii.gz"]
    remedy = "-l derivatives/manual/label-lesion_mask or derivatives/second/label-lesion_mask"
    assert remedy in told["sub-02_label-lesion_mask.nii.gz"]
    assert told["sub-01_ses-2_T1w.nii.gz"] == "It belongs to sub-01_ses-2, which has several files for FLAIR."
    assert told["sub-02_FLAIR.nii.gz"] == "It belongs to sub-02, which has several files for segmentation."


def test_what_the_remedy_says_places_the_case(bids, raw):
    image(path(bids, "sub-01_ses-2", "run-2_FLAIR"))
    image(path(bids, "sub-01_ses-2", "run-3_FLAIR"))
    mask(path(bids, "sub-02", "label-lesion_mask", "derivatives/second"))
    order = ("-m", "FLAIR=run-3_FLAIR,FLAIR", "-m", "T1w=T1w")
    import_(bids, *order, "-l", "derivatives/manual/label-lesion_mask", "--link")
    assert len(placed(raw)) == 6
    assert os.readlink(raw / "imagesTr" / "sub-01_ses-2_0000.nii.gz").endswith("run-3_FLAIR.nii.gz")
    assert "run-3_FLAIR.nii.gz is FLAIR of sub-01_ses-2" in report(raw)["sub-01_ses-2_run-2_FLAIR.nii.gz"]


def test_a_file_without_further_entities_goes_before_others(bids, raw):
    image(path(bids, "sub-02", "T1w"))
    import_(bids, "-m", "T1w=T1w", *LABEL, "--link")
    assert os.readlink(raw / "imagesTr" / "sub-02_0000.nii.gz").endswith("sub-02_T1w.nii.gz")
    assert "sub-02_T1w.nii.gz is T1w of sub-02" in report(raw)["sub-02_run-1_T1w.nii.gz"]
    assert "has ce-gadolinium" in report(raw)["sub-01_ses-1_ce-gadolinium_T1w.nii.gz"]


def test_files_in_wrong_folders_spoil_both_cases_and_wrong_names_are_told(bids, raw):
    right = path(bids, "sub-02", "FLAIR")
    right.rename(path(bids, "sub-03", "x").with_name("sub-02_FLAIR.nii.gz"))
    image(path(bids, "sub-01_ses-1", "flair"))
    image(path(bids, "sub-01_ses-1", "T1w_lesion"))
    import_(bids, *MODALITIES, *LABEL, "--unlabelled_to_test")
    assert {name.rpartition("_")[0] for name in placed(raw)} == {"sub-01_ses-1", "sub-01_ses-2"}
    assert placed(raw, "Ts") == []
    told = report(raw)
    assert "lies in sub-03, but its name says sub-02" in told["sub-02_FLAIR.nii.gz"]
    assert told["sub-02_run-1_T1w.nii.gz"].startswith("It belongs to sub-02, of which")
    assert told["sub-03_FLAIR.nii.gz"].startswith("It belongs to sub-03, in whose folder")
    assert "upper and lower case" in told["sub-01_ses-1_flair.nii.gz"]
    assert "'T1w' is no entity" in told["sub-01_ses-1_T1w_lesion.nii.gz"]


def test_a_segmentation_of_another_session_is_told(bids, raw):
    label = path(bids, "sub-01_ses-2", "label-lesion_mask", "derivatives/manual")
    label.rename(label.with_name("sub-01_label-lesion_mask.nii.gz"))
    label.parent.rename(bids / "derivatives" / "manual" / "sub-01" / "anat")
    import_(bids, *MODALITIES, *LABEL)
    reason = report(raw)["sub-01_label-lesion_mask.nii.gz"]
    assert "no session" in reason and "sub-01_ses-1, sub-01_ses-2" in reason


def test_endings_and_broken_links(bids, raw):
    path(bids, "sub-02", "FLAIR").unlink()
    image(path(bids, "sub-02", "FLAIR", ending=".nii"))
    with pytest.raises(SystemExit, match=facts(".nii.gz", "-ending", "filters")):
        import_(bids, *MODALITIES, *LABEL)
    path(bids, "sub-01_ses-2", "FLAIR").symlink_to(".git/annex/objects/SHA256")
    import_(bids, *MODALITIES, *LABEL, "-ending", ".nii.gz")
    assert {name.rpartition("_")[0] for name in placed(raw)} == {"sub-01_ses-1", "sub-02"}
    told = report(raw)
    assert "its ending is not .nii.gz" in told["sub-02_FLAIR.nii"]
    assert ".git/annex/objects/SHA256" in told["sub-01_ses-2_FLAIR.nii.gz"]
    assert told["sub-01_ses-2_T1w.nii.gz"] == "It belongs to sub-01_ses-2, of which a file is a broken link."


def test_a_folder_that_is_no_dataset_and_a_missing_description(bids, raw, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit, match=facts("--bids", "empty", "sub-LABEL", "-i")):
        import_(tmp_path / "empty", *MODALITIES, *LABEL)
    with pytest.raises(SystemExit, match=facts("--bids", "nowhere")):
        import_(tmp_path / "nowhere", *MODALITIES, *LABEL)
    (bids / "dataset_description.json").unlink()
    import_(bids, *MODALITIES, *LABEL)
    assert "BIDS requires this file" in report(raw)["dataset_description.json"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("-m", "FLAIR=flair", *LABEL), ("-m FLAIR=flair", "acq-3D_FLAIR: 1 file", "T1w: 2 files")),
        (("-m", "T1w=T1w", "-l", "dseg"), ("-l dseg", "derivatives/manual/label-lesion_mask: 3 files")),
        (("-m", "T1w={case}_T1w.nii.gz", *LABEL), ("-m T1w=", "--bids")),
        ((*MODALITIES, *LABEL, "-patient", "visit"), ("-patient visit", "filters", "sub, ses")),
        ((*MODALITIES, *LABEL, "-patient", "ses"), ("-patient ses", "sub-02")),
    ],
)
def test_filters_that_match_nothing_are_refused_with_what_there_is(bids, raw, options, said):
    with pytest.raises(SystemExit, match=facts(*said)):
        import_(bids, *options)
    assert not raw.exists()


def test_two_filters_that_are_equally_specific_place_no_case_that_has_both(bids, raw):
    path(bids, "sub-02", "FLAIR").unlink()
    image(path(bids, "sub-02", "acq-3D_run-1_FLAIR"))
    import_(bids, "-m", "A=acq-3D_FLAIR", "-m", "B=run-1_FLAIR", "-m", "T1w=T1w", *LABEL)
    assert {name.rpartition("_")[0] for name in placed(raw)} == {"sub-01_ses-1", "sub-01_ses-2"}
    assert "A and B" in report(raw)["sub-02_acq-3D_run-1_FLAIR.nii.gz"]


def test_subjects_of_two_datasets_are_not_mixed(bids, raw):
    (bids / "derivatives").rename(bids.parent / "derivatives")
    for place in ("rawdata", "other"):  # the first belongs to the derivatives next to it
        (bids.parent / place).mkdir()
    bids.rename(bids.parent / "rawdata" / "study")
    for folder in list((bids.parent / "rawdata" / "study").iterdir()):
        folder.rename(bids.parent / "rawdata" / folder.name)
    (bids.parent / "rawdata" / "study").rmdir()
    path(bids.parent / "rawdata", "sub-02", "FLAIR").unlink()
    image(path(bids.parent / "other", "sub-02", "FLAIR"))
    import_(bids.parent, *MODALITIES, *LABEL)
    assert {name.rpartition("_")[0] for name in placed(raw)} == {"sub-01_ses-1", "sub-01_ses-2"}
    told = report(raw)["sub-02_run-1_T1w.nii.gz"]
    assert told.startswith("It belongs to sub-02, which has files in the top folder and other. ")


def test_a_folder_is_searched_either_by_patterns_or_as_bids(bids, raw, capsys):
    for options, said in ((("-i", bids, *MODALITIES), "--bids"), ((), "")):
        with pytest.raises(SystemExit):
            import_(bids, *options)
        assert said in capsys.readouterr().err
    with pytest.raises(SystemExit, match=facts("-m")):
        main(["import", "-i", str(bids), "-d", DATASET, "-l", "{case}.nii.gz"])


def test_files_on_several_grids_are_aligned(bids, raw):
    flair = path(bids, "sub-02", "FLAIR")
    image(flair, COARSE)
    import_(bids, *MODALITIES, *LABEL, "--align", "grid", "-labels", "lesion=1")
    assert sitk.ReadImage(str(raw / "imagesTr" / "sub-02_0001.nii.gz")).GetSize() == FINE.size
    with (raw / "alignment.csv").open() as opened:
        ways = {(row["case"], row["modality"]): row["alignment"] for row in csv.DictReader(opened)}
    assert ways["sub-02", "FLAIR"] == "resampled"
    assert len(ways) == 9 and len([name for _, name in ways if name == "segmentation"]) == 3


def test_patients_of_a_table_replace_subjects(bids, raw, tmp_path):
    table = tmp_path / "families.csv"
    table.write_text("case,patient\n" + "".join(f"{case},F\n" for case in ("sub-01_ses-1", "sub-01_ses-2", "sub-02")))
    import_(bids, *MODALITIES, *LABEL, "-patients", table, "-labels", "lesion=1")
    assert (raw / "patients.csv").read_text().splitlines()[1:] == [
        "sub-01_ses-1,F,ses-1",
        "sub-01_ses-2,F,ses-2",
        "sub-02,F,",
    ]
