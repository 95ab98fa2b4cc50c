"""Everything below the original folder is placed, or listed with the reason; files that belong together stay so."""

import csv
import json
import os
import shutil
import subprocess
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO

from facts import facts
from incomplete import phantom_channels, write
from nnunet_moe.cli import main
from nnunet_moe.layouts.listing import list_files

DATASET = "Dataset922_Told"


@pytest.fixture
def raw(tmp_path, monkeypatch) -> Path:
    for kind in ("raw", "preprocessed", "results"):
        (tmp_path / kind).mkdir()
        monkeypatch.setenv(f"nnUNet_{kind}", str(tmp_path / kind))
    return tmp_path / "raw" / DATASET


@pytest.fixture
def source(tmp_path) -> Path:
    """Four patients with two modalities each."""
    folder = tmp_path / "source"
    for number in range(4):
        images, lesions = phantom_channels(number, 2)
        for name, array in zip(("t1", "flair", "seg"), (*images, lesions), strict=True):
            write(folder / f"P{number}" / f"P{number}_{name}.nii.gz", array)
    return folder


def import_(source: Path, *options, ending=".nii.gz"):
    patterns = ("-m", f"T1={{case}}_t1{ending}", "-m", f"FLAIR={{case}}_flair{ending}", "-l", f"{{case}}_seg{ending}")
    main(["import", *map(str, ("-i", source, "-d", DATASET, *patterns, *options, "-np", 1, "--no_pbar"))])


def report(folder: Path) -> dict[str, tuple[str, str]]:
    """Path -> what became of it, and why."""
    with (folder / "import_report.csv").open(encoding="utf-8") as opened:
        return {row["file"]: (row["what"], row["reason"]) for row in csv.DictReader(opened)}


def placed(folder: Path) -> list[str]:
    return sorted(file.name.removesuffix(".nii.gz") for file in folder.glob("*Tr/*"))


def require_all_told(source: Path, folder: Path) -> None:
    """Each file is in the report, lies below a folder that is, or has a link to it in the dataset."""
    told = {Path(file) for file in report(folder)}
    links = {Path(os.readlink(link)) for link in folder.glob("images*/*")} | {
        Path(os.readlink(link)) for link in folder.glob("labels*/*")
    }
    for parent, folders, files in os.walk(source):
        for path in (Path(parent, name) for name in (*files, *(f for f in folders if Path(parent, f).is_symlink()))):
            real = Path(os.fsencode(path).decode("utf-8", "backslashreplace"))
            assert path in links or told & {real, *real.parents}, path


def test_files_with_other_endings_or_cases_are_told(source, raw, capsys):
    flair, label = source / "P1" / "P1_flair.nii.gz", source / "P2" / "P2_seg.nii.gz"
    for file in (flair, label):
        nibabel.save(nibabel.load(file), file.with_name(file.name.removesuffix(".gz")))
        file.unlink()
    (source / "P3" / "P3_flair.nii.gz").rename(source / "P3" / "P3_FLAIR.nii.gz")
    (source / "P0" / "P0_t1.nii.gz").rename(source / "P0" / "P0_t1.mgz")
    (source / "P0" / "P0_t1.json").write_text("{}")
    import_(source, "--link")
    require_all_told(source, raw)
    told = {Path(file).name: reason for file, (_, reason) in report(raw).items()}
    assert placed(raw) == ["P0", "P0_0001", "P1", "P1_0000", "P3", "P3_0000"]
    meant = "has the name of {} of {}, but its ending is not .nii.gz. If it is an image, convert it."
    assert told["P1_flair.nii"] == f"It {meant.format('FLAIR', 'P1')}"
    assert told["P2_seg.nii"] == f"It {meant.format('segmentation', 'P2')}"
    assert told["P0_t1.mgz"] == f"It {meant.format('T1', 'P0')}"
    assert "FLAIR in upper and lower case" in told["P3_FLAIR.nii.gz"]
    assert told["P2_t1.nii.gz"].startswith("P2 has no segmentation")
    listed = capsys.readouterr().out.split("Not placed: ")[1].splitlines()[1:6]
    assert "P0_t1.json" not in "".join(listed), "images come first"


def test_hidden_files_links_pipes_and_names_that_are_not_utf8_are_told(source, raw):
    for file in list(source.rglob("*.nii.gz")):
        file.with_name(f"._{file.name}").write_bytes(b"\0\5\x16\7Mac OS X")
    (source / "__MACOSX").mkdir()
    (source / "__MACOSX" / "._P0_t1.nii.gz").write_bytes(b"\0\5\x16\7")
    (source / ".git" / "objects").mkdir(parents=True)
    (source / ".git" / "objects" / "P9_t1.nii.gz").touch()
    elsewhere = source.parent / "elsewhere"
    shutil.copytree(source / "P0", elsewhere / "P7")
    (source / "P7").symlink_to(elsewhere / "P7")
    (source / "P1" / "P8_t1.nii.gz").symlink_to("nowhere.nii.gz")
    (source / "P10").symlink_to(b"nowhere/P\xe4".decode(errors="surrogateescape"))
    (source / "P1" / "P11_t1.nii.gz").symlink_to(b"P\xe4.nii.gz".decode(errors="surrogateescape"))
    os.mkfifo(source / "P1" / "P9_t1.nii.gz")
    odd = os.fsencode(source / "P2") + b"/P\xe4_t1.nii.gz"
    Path(os.fsdecode(odd)).write_bytes((source / "P2" / "P2_t1.nii.gz").read_bytes())
    import_(source, "--link", "--unlabelled_to_test")
    require_all_told(source, raw)
    told = {Path(file).name: reason for file, (_, reason) in report(raw).items()}
    assert placed(raw) == sorted(f"P{n}{suffix}" for n in range(4) for suffix in ("", "_0000", "_0001"))
    assert "link to a folder" in told["P7"]
    assert "P8, which cannot be used" in told["P8_t1.nii.gz"] and "nowhere.nii.gz" in told["P8_t1.nii.gz"]
    assert "P\\xe4.nii.gz, which does not exist" in told["P11_t1.nii.gz"]
    assert told["P10"].startswith("It is a link to nowhere/P\\xe4, which does not exist.")
    assert told["P9_t1.nii.gz"] == "It is neither a file nor a folder."
    assert told["P\\xe4_t1.nii.gz"] == "The name is not in UTF-8. Rename it."
    assert told[".git"] == told["._P0_t1.nii.gz"] == "Hidden files and folders are not used."


def test_a_link_to_no_folder_is_not_searched(tmp_path):
    (tmp_path / "link").symlink_to("gone")
    with pytest.raises(SystemExit, match=facts("-i", "link to gone, which does not exist")):
        import_(tmp_path / "link")


def test_a_folder_that_cannot_be_opened_is_told(tmp_path, monkeypatch):
    (tmp_path / "P0").mkdir()
    opened = os.scandir

    def scandir(path):
        if Path(path).name == "P0":
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert [(problem.file.name, problem.reason) for problem in list_files(tmp_path).problems] == [
        ("P0", "It cannot be opened: Permission denied.")
    ]


def test_folders_with_names_of_images_are_told_unless_an_image_in_them_is_placed(source, raw):
    for number, inner in ((0, "P0_flair.nii"), (1, "P1_flair.nii.gz")):
        file = source / f"P{number}" / f"P{number}_flair.nii.gz"
        image = nibabel.load(file)
        image = nibabel.Nifti1Image(np.asarray(image.dataobj), image.affine)
        file.unlink()
        file.mkdir()
        nibabel.save(image, file / inner)
    (source / "P2" / "P2_flair.nii.gz").unlink()
    (source / "P2" / "P2_flair.nii.gz").mkdir()
    import_(source, "--link")
    require_all_told(source, raw)
    told = {Path(file).name: reason for file, (_, reason) in report(raw).items()}
    assert told.keys() == {"P0_flair.nii.gz", "P0_flair.nii", "P2_flair.nii.gz"}
    assert "folder with the name of an image" in told["P0_flair.nii.gz"]
    assert {"P1_0001", "P3_0001"} <= set(placed(raw)) and not {"P0_0001", "P2_0001"} & set(placed(raw))


def test_a_first_image_that_cannot_be_read_loses_only_its_case(source, raw):
    file = source / "P0" / "P0_flair.nii.gz"
    file.write_bytes(file.read_bytes()[:500])
    import_(source)
    assert "P0, which cannot be used" in report(raw)[str(file)][1] and "P1_0001" in placed(raw)


def test_images_of_which_none_can_be_read_are_refused(source, raw):
    for file in source.rglob("*.nii.gz"):
        file.write_bytes(b"no image")
    with pytest.raises(SystemExit, match=facts("none of the 8 images", "P0_flair.nii.gz")):
        import_(source)


def test_headers_without_their_voxels_are_not_placed(source, raw):
    for file in list(source.rglob("*.nii.gz")):
        image = sitk.ReadImage(str(file))
        stem = str(file).removesuffix(".nii.gz")
        sitk.WriteImage(image, f"{stem}.nrrd")
        if file.name == "P1_flair.nii.gz":
            header, voxels = Path(f"{stem}.nrrd").read_bytes().split(b"\n\n", 1)
            Path(f"{stem}.raw").write_bytes(voxels)
            Path(f"{stem}.nrrd").write_bytes(header + f"\ndata file: {Path(stem).name}.raw\n\n".encode())
        file.unlink()
    assert sitk.ReadImage(str(source / "P1" / "P1_flair.nrrd")).GetSize()
    import_(source, ending=".nrrd")
    told = report(raw)
    assert "P1_flair.raw" in told[str(source / "P1" / "P1_flair.nrrd")][1] and "P1_0000.nrrd" not in placed(raw)
    assert "P0_0000.nrrd" in placed(raw)


SPACING = [4.0, 0.5, 0.5]


@pytest.fixture
def cells(tmp_path) -> Path:
    """3D TIFFs of two channels, without spacing files."""
    folder = tmp_path / "cells"
    (folder / "images").mkdir(parents=True)
    (folder / "labels").mkdir()
    for number in range(3):
        images, lesions = phantom_channels(number, 2)
        for channel, image in enumerate(images):
            tifffile.imwrite(folder / "images" / f"cell{number}_{channel:04d}.tif", image)
        tifffile.imwrite(folder / "labels" / f"cell{number}.tif", lesions)
    return folder


def import_cells(source: Path, *options):
    patterns = ("-m", "a=images/{case}_0000.tif", "-m", "b=images/{case}_0001.tif", "-l", "labels/{case}.tif")
    main(["import", *map(str, ("-i", source, "-d", DATASET, *patterns, *options, "-np", 1, "--no_pbar"))])


def spacings(raw: Path, case: str) -> list[list[float]]:
    """The spacings that nnU-Net reads from the placed images and the segmentation of a case."""
    images = [str(raw / "imagesTr" / f"{case}_{channel:04d}.tif") for channel in (0, 1)]
    read = [Tiff3DIO().read_images(images)[1], Tiff3DIO().read_seg(str(raw / "labelsTr" / f"{case}.tif"))[1]]
    return [list(properties["spacing"]) for properties in read]


@pytest.mark.parametrize("link", [False, True])
def test_spacing_files_of_tiffs_are_placed(cells, raw, link, capsys):
    spacing = json.dumps({"spacing": SPACING})
    for folder in ("images", "labels"):
        (cells / folder / "cell0.json").write_text(spacing)  # as in nnU-Net's layout
    for channel in (0, 1):
        (cells / "images" / f"cell1_{channel:04d}.json").write_text(spacing)  # one for each image
    import_cells(cells, *(("--link",) if link else ()))
    assert [spacings(raw, f"cell{number}") for number in range(3)] == [[SPACING] * 2, [SPACING] * 2, [[1, 1, 1]] * 2]
    told = {str(Path(file).relative_to(cells)): about for file, about in report(raw).items()}
    assert told.pop("images/cell1_0001.json")[1].startswith("It repeats the spacing of ")
    assert told.pop("labels/cell0.json")[1].startswith("It repeats the spacing of ")
    assert told.keys() == {"images/cell2_0000.tif", "images/cell2_0001.tif", "labels/cell2.tif"}
    assert {what for what, _ in told.values()} == {"placed without spacing"}
    said = capsys.readouterr()
    assert "Placed without a spacing: 3 files" in said.out and "Traceback" not in said.err


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"images/cell1.json": {"spacing": SPACING}, "labels/cell1.json": {"spacing": [4, 0.5, 0.6]}}, "different"),
        ({"images/cell1.json": {"RepetitionTime": 2}}, "holds no spacing"),
        ({"images/cell1.json": {"spacing": [0.5, 0.5]}}, "holds no spacing"),
        ({"images/cell1_0000.json": {"spacing": [4, 0, 0.5]}}, "holds no spacing"),
    ],
)
def test_a_case_whose_spacing_is_not_known_is_not_placed(cells, raw, files, reason):
    for file, content in files.items():
        (cells / file).write_text(json.dumps(content))
    import_cells(cells)
    told = report(raw)
    assert reason in told[str(cells / "images" / "cell1_0001.tif")][1]
    assert set(files) <= {str(Path(file).relative_to(cells)) for file in told}
    assert not list(raw.glob("*Tr/cell1*"))


def test_spacing_files_of_cases_that_are_not_placed_are_told(cells, raw):
    (cells / "labels" / "cell1.tif").unlink()
    (cells / "images" / "cell1.json").write_text(json.dumps({"spacing": SPACING}))
    import_cells(cells)
    assert str(cells / "images" / "cell1.json") in report(raw)
    assert subprocess.run(["find", str(raw), "-name", "cell1*"], capture_output=True, text=True).stdout == ""


def test_placed_files_that_look_wrong_are_told(source, raw, capsys):
    def loaded(file: Path) -> nibabel.Nifti1Image:
        image = nibabel.load(file)
        assert isinstance(image, nibabel.Nifti1Image)
        return image

    def change(name: str, new) -> Path:
        file = source / name[:2] / f"{name}.nii.gz"
        nibabel.save(new(loaded(file)), file)
        return file

    def of_values(values):
        return lambda image: nibabel.Nifti1Image(values(image), image.affine)

    def moved(image):
        affine = image.affine.copy()
        affine[0, 3] += 0.06 * np.linalg.norm(affine[:3, 0])
        return nibabel.Nifti1Image(np.asarray(image.dataobj), affine)

    t1 = loaded(source / "P0" / "P0_t1.nii.gz").get_fdata()
    copy = change("P0_flair", of_values(lambda image: np.square(t1 - t1.min()).astype(np.float32)))
    flat = change("P1_t1", of_values(lambda image: (1000 + 0.1 * image.get_fdata() / t1.max()).astype(np.float32)))
    shifted = change("P2_seg", moved)
    equal = change("P3_flair", lambda _: loaded(source / "P3" / "P3_t1.nii.gz"))
    for options, of_equal in (((), "placed, but suspect"), (("--filled_as_absent",), "treated as absent")):
        shutil.rmtree(raw, ignore_errors=True)
        import_(source, *options)
        told = report(raw)
        assert {file: what for file, (what, _) in told.items()} == {
            **dict.fromkeys(map(str, (copy, flat, shifted)), "placed, but suspect"),
            str(equal): of_equal,
        }
        for file, reason in (
            (copy, "P0: P0_flair.nii.gz is a copy of T1 with other gray values: perhaps a placeholder for a missing "),
            (flat, "P1: P1_t1.nii.gz has only values from 1000"),
            (shifted, "P2: P2_seg.nii.gz and "),
        ):
            assert told[str(file)][1].startswith(reason)
        assert {"P0_0001", "P1_0000", "P2"} <= set(placed(raw))
        out = capsys.readouterr().out
        assert "Suspect, but placed: 3 files" in out and ("Treated as missing: 1 file," in out) == bool(options)


def test_images_and_masks_in_one_folder_go_to_the_pattern_with_more_fixed_text(source, raw):
    for file in source.rglob("*_t1.nii.gz"):
        file.rename(file.with_name(file.name.replace("_t1", "")))
    options = ("-d", DATASET, "-m", "T1={case}.nii.gz", "-m", "FLAIR={case}_flair.nii.gz", "-np", 1, "--no_pbar")
    main(["import", *map(str, ("-i", source, *options, "-l", "{case}_seg.nii.gz"))])
    assert placed(raw) == sorted(f"P{number}{part}" for number in range(4) for part in ("", "_0000", "_0001"))
    assert report(raw) == {}
    shutil.rmtree(raw)
    with pytest.raises(SystemExit, match=facts("The patterns of", "match. Make the patterns more specific")):
        main(["import", *map(str, ("-i", source, *options, "-l", "{case}_flair.nii.gz"))])


def test_the_spacing_file_of_a_case_that_cannot_be_used_is_told_so_and_nothing_is_printed(cells, raw, capfd):
    for case in ("cell0", "cell1"):
        (cells / "images" / f"{case}.json").write_text(json.dumps({"spacing": SPACING}))
    file = cells / "images" / "cell1_0000.tif"
    file.write_bytes(file.read_bytes()[: -file.stat().st_size // 3])
    import_cells(cells)
    told = report(raw)
    assert told[str(cells / "images" / "cell1.json")][1] == "It holds the spacing of cell1, which was not placed."
    said = capfd.readouterr()
    assert "no spacing file found" not in said.out + said.err and "page offset" not in said.err
