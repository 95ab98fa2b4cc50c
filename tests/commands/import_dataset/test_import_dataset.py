"""Folders in other layouts become raw datasets; what was filled in for an absent modality is told."""

import csv
import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from facts import facts
from incomplete import SHAPE, extract_fingerprint, phantom_channels, write
from nnunet_moe.cli import main
from nnunet_moe.commands.import_dataset.cases import NO_IMAGE, find_cases
from nnunet_moe.errors import SettingsError
from nnunet_moe.layouts.found import LABEL
from nnunet_moe.layouts.listing import list_files
from nnunet_moe.runtime.patterns import Pattern

BRATS = ("-m", "T1c={case}-t1c.nii.gz", "-m", "T1n={case}-t1n.nii.gz", "-m", "FLAIR={case}-t2f.nii.gz")
SEGMENTATION = ("-l", "{case}-seg.nii.gz")


@pytest.fixture
def raw(tmp_path, monkeypatch) -> Path:
    for kind in ("raw", "preprocessed", "results"):
        (tmp_path / kind).mkdir()
        monkeypatch.setenv(f"nnUNet_{kind}", str(tmp_path / kind))
    return tmp_path / "raw"


def import_(source: Path, *options, dataset="Dataset920_Imported"):
    main(["import", *map(str, ("-i", source, "-d", dataset, *options, "-np", 1, "--no_pbar"))])


def report(folder: Path) -> dict[str, tuple[str, str]]:
    """File name -> what became of it, and why."""
    with (folder / "import_report.csv").open() as opened:
        return {Path(row["file"]).name: (row["what"], row["reason"]) for row in csv.DictReader(opened)}


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


@pytest.fixture
def brats(tmp_path) -> Path:
    """A folder a patient, names as in BraTS 2023: one complete, one without T1c, one without segmentation."""
    source = tmp_path / "BraTS"
    for number in range(3):
        case = f"BraTS-GLI-{number:05d}-000"
        images, lesions = phantom_channels(number, 3)
        for suffix, image in zip(("t1c", "t1n", "t2f"), images, strict=True):
            if (number, suffix) != (1, "t1c"):
                write(source / case / f"{case}-{suffix}.nii.gz", image)
        if number < 2:
            write(source / case / f"{case}-seg.nii.gz", lesions)
        write(source / case / f"{case}-t2w.nii.gz", images[0])
    (source / "readme.txt").write_text("not an image")
    return source


def test_brats_names_with_files_missing(brats, raw, capsys):
    import_(brats, *BRATS, *SEGMENTATION, "-labels", "lesion=1")
    folder = raw / "Dataset920_Imported"
    assert names(folder) == [
        "dataset.json",
        "imagesTr/BraTS-GLI-00000-000_0000.nii.gz",
        "imagesTr/BraTS-GLI-00000-000_0001.nii.gz",
        "imagesTr/BraTS-GLI-00000-000_0002.nii.gz",
        "imagesTr/BraTS-GLI-00001-000_0001.nii.gz",
        "imagesTr/BraTS-GLI-00001-000_0002.nii.gz",
        "import_report.csv",
        "labelsTr/BraTS-GLI-00000-000.nii.gz",
        "labelsTr/BraTS-GLI-00001-000.nii.gz",
    ]
    assert json.loads((folder / "dataset.json").read_text()) == {
        "channel_names": {"0": "T1c", "1": "T1n", "2": "FLAIR"},
        "labels": {"background": 0, "lesion": 1},
        "numTraining": 2,
        "file_ending": ".nii.gz",
    }
    case = "BraTS-GLI-00001-000"
    for channel, suffix in ((1, "t1n"), (2, "t2f")):
        copy = folder / "imagesTr" / f"{case}_{channel:04d}.nii.gz"
        assert not copy.is_symlink() and copy.read_bytes() == (brats / case / f"{case}-{suffix}.nii.gz").read_bytes()
    told = report(folder)
    assert told["BraTS-GLI-00001-000-t2w.nii.gz"] == ("not placed", "No pattern matches.")
    assert told["BraTS-GLI-00002-000-t1c.nii.gz"][1].startswith("BraTS-GLI-00002-000 has no segmentation. Put such")
    assert told["readme.txt"] == ("not placed", "No pattern matches.")
    assert len(told) == 7
    printed = capsys.readouterr().out
    assert "2 training and 0 test cases" in printed and "| T1n+FLAIR | 1 |" in printed
    assert extract_fingerprint(920).availability.codes == {
        "BraTS-GLI-00000-000": (True, True, True),
        "BraTS-GLI-00001-000": (False, True, True),
    }


def test_bids_names_linked_with_test_cases(tmp_path, raw):
    source = tmp_path / "bids"
    for subject, session in (("01", "a"), ("01", "b"), ("02", "a")):
        images, lesions = phantom_channels(int(subject), 2)
        stem = f"sub-{subject}_ses-{session}"
        folder = source / f"sub-{subject}" / f"ses-{session}" / "anat"
        write(folder / f"{stem}_T1w.nii.gz", images[0])
        write(folder / f"{stem}_acq-3D_FLAIR.nii.gz", images[1])
        if subject == "01":
            write(source / "derivatives" / f"{stem}_label-lesion_mask.nii.gz", lesions)
    import_(
        source,
        *("-m", "T1w=sub-{subject}/ses-{session}/anat/sub-{subject}_ses-{session}_T1w.nii.gz"),
        *("-m", "FLAIR=**/sub-{subject}_ses-{session}_*FLAIR.nii.gz"),
        *("-l", "sub-{subject}_ses-{session}_label-lesion_mask.nii.gz"),
        *("--link", "--unlabelled_to_test"),
        dataset="Dataset921_Bids",
    )
    folder = raw / "Dataset921_Bids"
    cases = {"Tr": ("01_a", "01_b"), "Ts": ("02_a",)}
    expected = [f"images{part}/{case}_000{c}.nii.gz" for part in cases for case in cases[part] for c in (0, 1)]
    labels = [f"labelsTr/{case}.nii.gz" for case in cases["Tr"]]
    assert names(folder) == sorted([*expected, *labels, "dataset.json", "import_report.csv", "patients.csv"])
    link = folder / "imagesTr" / "01_b_0001.nii.gz"
    target = source / "sub-01" / "ses-b" / "anat" / "sub-01_ses-b_acq-3D_FLAIR.nii.gz"
    assert link.is_symlink() and os.readlink(link) == str(target.resolve())
    assert json.loads((folder / "dataset.json").read_text())["labels"] == {"background": 0, "label_1": 1}
    assert report(folder) == {}


@pytest.fixture
def filled(tmp_path) -> Path:
    """Of three modalities: zeros for one, one value for another, copies for others; one voxel makes no copy."""
    source = tmp_path / "filled"
    images, lesions = phantom_channels(0, 3)
    nearly = images[0].copy()
    nearly[3, 4, 5] += 1
    by_case = {
        "fine": images,
        "zeros": [np.zeros_like(images[0]), *images[1:]],
        "ones": [images[0], np.full_like(images[0], -1024), images[2]],
        "copy": [images[2], images[1], images[2]],
        "copies": [images[2]] * 3,
        "nearly": [images[0], nearly, images[2]],
        "nothing": [np.zeros_like(images[0])] * 3,
    }
    for case, channels in by_case.items():
        write(source / case / "seg.nii.gz", lesions)
        for name, image in zip("abc", channels, strict=True):
            write(source / case / f"{name}.nii.gz", image)
    return source


PATIENTS = (
    *(option for name in "abc" for option in ("-m", f"{name}={{case}}/{name}.nii.gz")),
    "-l",
    "{case}/seg.nii.gz",
)


@pytest.mark.parametrize("as_absent", [False, True])
def test_files_that_stand_for_an_absent_modality_are_found_voxel_by_voxel(filled, raw, as_absent, capsys):
    import_(filled, *PATIENTS, *(("--filled_as_absent",) if as_absent else ()))
    folder = raw / "Dataset920_Imported"
    with (folder / "import_report.csv").open() as opened:
        rows = [
            (Path(r["file"]).relative_to(filled).as_posix(), r["what"], r["reason"]) for r in csv.DictReader(opened)
        ]
    what = "treated as absent" if as_absent else "placed, but suspect"
    assert rows[:5] == [
        ("copies/b.nii.gz", what, "b of copies is equal to a in every voxel."),
        ("copies/c.nii.gz", what, "c of copies is equal to a in every voxel."),
        ("copy/c.nii.gz", what, "c of copy is equal to a in every voxel."),
        ("ones/b.nii.gz", what, "b of ones is -1024 everywhere."),
        ("zeros/a.nii.gz", what, "a of zeros is zero everywhere."),
    ]
    assert rows[5][:2] == ("nearly/b.nii.gz", "placed, but suspect"), "it is never removed"
    assert {(file, what) for file, what, _ in rows[6:]} == {
        (f"nothing/{name}.nii.gz", "not placed") for name in ("a", "b", "c", "seg")
    }
    assert "zero everywhere" in rows[6][2]
    placed = {path.name.removesuffix(".nii.gz") for path in (folder / "imagesTr").iterdir()}
    everything = {f"{case}_000{c}" for case in ("copies", "copy", "fine", "nearly", "ones", "zeros") for c in range(3)}
    left_out = {"copies_0001", "copies_0002", "copy_0002", "ones_0001", "zeros_0000"}
    assert placed == (everything - left_out if as_absent else everything)
    printed = capsys.readouterr().out
    assert ("Treated as missing: 5 files" if as_absent else "Suspect, but placed") in printed
    assert ("| a | 5 of 6 | 0 |" if as_absent else "| a | 5 of 6 | 1 |") in printed


def test_of_equal_files_the_one_that_is_said_to_be_the_original_stays(filled, raw):
    import_(filled, *PATIENTS, "--filled_as_absent", "-original", "c")
    placed = {path.name.removesuffix(".nii.gz") for path in (raw / "Dataset920_Imported" / "imagesTr").iterdir()}
    assert {name for name in placed if name.startswith("cop")} == {"copies_0002", "copy_0001", "copy_0002"}


def test_what_cannot_be_placed_is_reported_and_its_case_left_out(brats, raw, tmp_path):
    spoilt = brats / "BraTS-GLI-00001-000" / "BraTS-GLI-00001-000-t1n.nii.gz"
    spoilt.write_bytes(b"no image")
    images, lesions = phantom_channels(5, 3)
    write(brats / "again" / "BraTS-GLI-00002-000-t1c.nii.gz", images[0])  # a second one
    write(brats / "lonely-seg.nii.gz", lesions)
    import_(brats, *BRATS, *SEGMENTATION)
    folder = raw / "Dataset920_Imported"
    assert {path.name[:19] for path in (folder / "imagesTr").iterdir()} == {"BraTS-GLI-00000-000"}
    told = report(folder)
    assert "BraTS-GLI-00001-000, which cannot be used" in told["BraTS-GLI-00001-000-t2f.nii.gz"][1]
    assert "two files for one modality" in told["BraTS-GLI-00002-000-t1n.nii.gz"][1]
    assert told["lonely-seg.nii.gz"] == ("not placed", f"lonely{NO_IMAGE}")


def test_a_dataset_is_written_whole_or_not_at_all(brats, raw, monkeypatch):
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "disk full")))
    with pytest.raises(SystemExit, match=facts("disk full")):
        import_(brats, *BRATS, *SEGMENTATION)
    assert not list(raw.iterdir())


def test_patterns():
    def fields(pattern, path):
        return Pattern(pattern).match(path)

    assert fields("{case}_T1w.nii.gz", "a/b/sub-1_T1w.nii.gz") == {"case": "sub-1"}  # in any folder
    assert fields("{case}/T1w.nii.gz", "a/b/T1w.nii.gz") is None  # just there
    assert fields("**/{case}/T1w.nii.gz", "a/b/T1w.nii.gz") == {"case": "b"}
    assert fields("**/{case}/T1w.nii.gz", "b/T1w.nii.gz") == {"case": "b"}
    assert fields("{case}/{case}_T1w.nii.gz", "a/b_T1w.nii.gz") is None  # the same wherever it stands
    assert fields("{p}/{v}/f?air*.nii.gz", "x/y/flair_2.nii.gz") == {"p": "x", "v": "y"}
    assert fields("{case}+(1).nii.gz", "a+(1).nii.gz") == {"case": "a"}  # other characters mean themselves
    assert fields("{case}.nii.gz", "a.nii.gz\n") is None
    with pytest.raises(SettingsError, match=facts("'*_T1w.nii.gz'", "case")):
        Pattern("*_T1w.nii.gz")
    with pytest.raises(SettingsError, match=facts("'{case}_{1}.nii.gz'", "{1}", "digit")):
        Pattern("{case}_{1}.nii.gz")


def test_cases_that_would_share_a_name_are_kept_apart(tmp_path):
    for path in ("a_b/c/x.nii.gz", "a/b_c/x.nii.gz", "a/d/x.nii.gz"):
        write(tmp_path / path, np.ones(SHAPE, dtype=np.float32))
    patterns = {"x": Pattern("{p}/{v}/x.nii.gz"), LABEL: Pattern("{p}/{v}/seg.nii.gz")}
    cases, problems = find_cases(list_files(tmp_path), patterns, ".nii.gz")
    assert list(cases) == ["a_d"]
    assert "a_b_c" in problems[-1].reason and "several cases" in problems[-1].reason


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("-m", "A={case}-t1c.nii.gz", "-m", "A={case}-t1n.nii.gz", *SEGMENTATION), ("-m", "A twice")),
        (("-m", "A=t1c.nii.gz", *SEGMENTATION), ("'t1c.nii.gz'", "case")),
        (("-m", "A={id}-t1c.nii.gz", *SEGMENTATION), ("segmentation", "by case", "by id")),
        (("-m", "segmentation={case}-t1c.nii.gz", *SEGMENTATION), ("-m segmentation", "reserved")),
        (("-m", "A={case}-t9.nii.gz", "-l", "{case}-s.nii.gz"), ("patterns", "endings: none")),
        (("-m", "A={case}.txt", "-l", "{case}-s.txt"), ("endings: none that nnU-Net reads, but .txt, which",)),
        ((*BRATS, "-l", "{case}-mask.nii.gz"), ("No case", "segmentation")),
        ((*BRATS, "-l", "{case}-*-seg.nii.gz"), ("-seg.nii.gz", "segmentation", "too")),
        (
            ("-m", "A={case}-*t1n.nii.gz", "-m", "B={case}-t1n.nii.gz", *SEGMENTATION),
            ("placed", "patterns", "A and B"),
        ),
        ((*BRATS, *SEGMENTATION, "-original", "T3"), ("-original T3", "T1c, T1n, FLAIR")),
        ((*BRATS, *SEGMENTATION, "-labels", "a=2"), ("-labels", "{'a': 2}", "1, 2, 3")),
        ((*BRATS, *SEGMENTATION, "-labels", "a=x"), ("-labels a=x", "whole number")),
        ((*BRATS, *SEGMENTATION, "-ending", ".dcm"), ("-ending .dcm",)),
        ((*BRATS, *SEGMENTATION, "-ending", ".nrrd"), ("No file", ".nrrd")),
        (("-m", "A={case}-t1c.nii.gz", "-l", "{case}-t1n.nii.gz"), ("cannot be used",)),
    ],
)
def test_what_makes_no_dataset_is_refused(brats, raw, options, said):
    with pytest.raises(SystemExit, match=facts(*said)):
        import_(brats, *options)
    assert not list(raw.iterdir())


def test_a_dataset_is_named_as_nnunet_wants_it(brats, raw):
    with pytest.raises(SystemExit, match=facts("-d Mine", "named")):
        import_(brats, *BRATS, *SEGMENTATION, dataset="Mine")


def test_labels_are_looked_at(brats, raw):
    file = brats / "BraTS-GLI-00001-000" / "BraTS-GLI-00001-000-seg.nii.gz"
    image = sitk.ReadImage(str(file))
    sitk.WriteImage(image * 3, str(file))
    with pytest.raises(
        SystemExit, match=facts("1, 3", "not 2", "1, 2, 3", f"3 is in 1 of 2, such as {file.resolve()}")
    ):
        import_(brats, *BRATS, *SEGMENTATION)
    import_(brats, *BRATS, *SEGMENTATION, "-labels", "a=1", "b=2", "c=3")
    with pytest.raises(SystemExit, match=facts("already exists")):
        import_(brats, *BRATS, *SEGMENTATION, "-labels", "a=1", "b=2", "c=3")


@pytest.fixture
def labels_of_cases(tmp_path):
    """Write one image and one segmentation for each set of labels, and return the folder."""

    def write_cases(*labels: tuple[int, ...]) -> Path:
        for number, values in enumerate(labels):
            image, segmentation = np.zeros((2, *SHAPE), dtype=np.float32)
            image.flat[number] = 1
            segmentation.flat[: len(values)] = values
            write(tmp_path / "cases" / f"c{number:02d}-a.nii.gz", image)
            write(tmp_path / "cases" / f"c{number:02d}-seg.nii.gz", segmentation)
        return tmp_path / "cases"

    return write_cases


A_AND_SEGMENTATION = ("-m", "A={case}-a.nii.gz", "-l", "{case}-seg.nii.gz")


def test_a_segmentation_with_another_value_than_the_labels_costs_only_its_case(labels_of_cases, raw, capsys):
    source = labels_of_cases((1,), (1, 255), (1, 2), (2,)).resolve()
    import_(source, *A_AND_SEGMENTATION, "-labels", "a=1", "b=2")
    folder = raw / "Dataset920_Imported"
    assert sorted(path.name[:3] for path in (folder / "labelsTr").iterdir()) == ["c00", "c02", "c03"]
    assert json.loads((folder / "dataset.json").read_text())["numTraining"] == 3
    told = report(folder)
    assert set(told) == {"c01-a.nii.gz", "c01-seg.nii.gz"} and {what for what, _ in told.values()} == {"not placed"}
    for text in (told["c01-a.nii.gz"][1], told["c01-seg.nii.gz"][1], capsys.readouterr().out):
        assert f"{source / 'c01-seg.nii.gz'} holds 255. The labels of -labels are a=1, b=2." in text


def test_many_segmentations_with_other_values_mean_that_the_labels_are_wrong(labels_of_cases, raw):
    source = labels_of_cases((1, 3), (2, 3, 4), (1, 2)).resolve()
    with pytest.raises(
        SystemExit,
        match=facts("2 of 3 segmentations", "{'a': 1, 'b': 2}", f"{source / 'c01-seg.nii.gz'}: 3, 4", "-labels"),
    ):
        import_(source, *A_AND_SEGMENTATION, "-labels", "a=1", "b=2")
    assert not list(raw.iterdir())


def test_values_with_a_gap_are_named_with_the_segmentations_that_hold_the_rarest(labels_of_cases, raw):
    source = labels_of_cases((1,), (1, 255), (1,)).resolve()
    with pytest.raises(
        SystemExit,
        match=facts("1, 255", "not 2", f"255 is in 1 of 3, such as {source / 'c01-seg.nii.gz'}", "with -labels"),
    ):
        import_(source, *A_AND_SEGMENTATION)
    import_(source, *A_AND_SEGMENTATION, "-labels", "a=1")
    assert len(list((raw / "Dataset920_Imported" / "labelsTr").iterdir())) == 2


def test_masks_of_0_and_255_are_told_what_to_write(labels_of_cases, raw):
    source = labels_of_cases((255,), (255,)).resolve()
    with pytest.raises(SystemExit, match=facts("hold 255, but not 1", "write 1 where they hold 255")):
        import_(source, *A_AND_SEGMENTATION)
