"""A folder with one DICOM series is a volume, and everything that is not one is refused by name."""

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from made_dicom import PATIENT, voxels, write_series

from facts import facts
from nnunet_moe.errors import ModalityError
from nnunet_moe.images.dicom import images_of_series, read_series
from nnunet_moe.images.dicom_files import holds_dicom

IDENTITY = {"0008|103e": "Doe Jane 1970 T1", "0020|4000": "Jane", "0008|0080": "Clinic", "0018|1030": "T1 Doe"}
"""Further texts of a header that may identify the patient: description of the series, comment, hospital, protocol."""
TEXTS = ("Doe", "Jane", "4711", "1970", "Clinic", "1.2.826", "ID-")
OBLIQUE = (0.8, 0.6, 0.0, -0.6, 0.8, 0.0)


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


@pytest.mark.parametrize("orientation", [(1.0, 0, 0, 0, 1.0, 0), (-1.0, 0, 0, 0, 0, 1.0), OBLIQUE])
def test_a_series_is_the_volume_that_was_written(tmp_path, orientation):
    """The slices are ordered by their positions, whatever the names of their files."""
    folder = write_series(tmp_path / "ct", orientation=orientation)
    found = read_series(folder)
    assert np.array_equal(sitk.GetArrayFromImage(found.image), voxels())
    assert found.image.GetPixelID() == sitk.sitkFloat32 and found.notes == ()
    np.testing.assert_allclose(found.image.GetSpacing(), (1.5, 1.2, 3.0), atol=1e-6)
    np.testing.assert_allclose(found.image.GetOrigin(), (-4.0, 7.0, 20.0), atol=1e-6)
    rows, columns = np.reshape(orientation, (2, 3))
    expected = np.stack([rows, columns, np.cross(rows, columns)], axis=1)
    np.testing.assert_allclose(np.reshape(found.image.GetDirection(), (3, 3)), expected, atol=1e-6)
    assert found.frame_of_reference == "1.2.826.9"
    assert holds_dicom(folder) and not holds_dicom(tmp_path)


def test_gray_values_are_scaled_as_the_header_says(tmp_path):
    """A writer stores (value - intercept) / slope."""
    values = 2 * voxels() - 1000
    folder = write_series(tmp_path, values.astype(np.int16), tags={"0028|1053": "2", "0028|1052": "-1000"})
    assert np.array_equal(sitk.GetArrayFromImage(read_series(folder).image), values)


def test_each_slice_is_scaled_as_its_own_header_says(tmp_path):
    """PET often has another slope in each slice."""
    values = np.stack([plane * (number + 1) for number, plane in enumerate(voxels())])
    for number, plane in enumerate(values):
        origin = (-4.0, 7.0, 20.0 + 3 * number)
        write_series(
            tmp_path,
            plane[None],
            origin=origin,
            prefix=f"{number}",
            tags={"0028|1053": str(number + 1), "0028|1052": "0"},
        )
    assert np.array_equal(sitk.GetArrayFromImage(read_series(tmp_path).image), values)


def test_nothing_of_the_patient_is_in_what_is_written(tmp_path):
    folder = write_series(tmp_path / "ct")
    assert any(name.encode() in files(folder)[0].read_bytes() for name in PATIENT)
    image = read_series(folder).image
    assert image.GetMetaDataKeys() == ()
    for ending in (".nii", ".nrrd", ".mha"):
        sitk.WriteImage(image, str(tmp_path / f"image{ending}"))
        content = (tmp_path / f"image{ending}").read_bytes()
        assert not any(part.encode() in content for name in PATIENT for part in (name, *re.split(r"\W", name)))


def test_files_that_are_not_dicom_are_named(tmp_path):
    (write_series(tmp_path) / "readme.txt").write_text("exported")
    (note,) = read_series(tmp_path).notes
    assert str(tmp_path / "readme.txt") in note


def test_a_pet_in_counts_is_said_to_be_no_suv(tmp_path):
    pet = {"0008|0060": "PT", "0008|0016": "1.2.840.10008.5.1.4.1.1.128"}
    for unit, said in (("BQML", "in Bq/ml"), ("CNTS", "in counts"), ("JANE", "in other units"), ("", "names no units")):
        (note,) = read_series(write_series(tmp_path / f"pet{unit}", tags={**pet, "0054|1001": unit})).notes
        assert re.search(facts(said, "SUV"), note) and "JANE" not in note.replace(str(tmp_path / "petJANE"), "")
    assert read_series(write_series(tmp_path / "suv", tags={**pet, "0054|1001": "GML"})).notes == ()


def test_fewer_slices_than_the_headers_list_are_reported(tmp_path):
    """A missing first or last slice leaves no gap."""
    for tag in ("0020|1002", "0054|0081"):
        folder = write_series(tmp_path / tag[:4], tags={tag: "5"})
        assert read_series(folder).notes == ()
        (folder / "im028.dcm").unlink()
        (note,) = read_series(folder).notes
        assert re.search(facts(folder, "4 slices", 5), note)


def test_an_index_of_the_study_is_no_image(tmp_path):
    folder = write_series(tmp_path / "ct")
    shutil.copyfile(folder / "im000.dcm", folder / "DICOMDIR")
    assert read_series(folder).notes == () and read_series(folder).image.GetSize()[2] == 5
    (tmp_path / "index").mkdir()
    shutil.copyfile(folder / "im000.dcm", tmp_path / "index" / "DICOMDIR")
    assert not holds_dicom(tmp_path / "index")


def two_series(folder):
    write_series(folder, series="1.2.826.2", prefix="other", tags=IDENTITY)
    return "several DICOM series", "5 files such as im000.dcm", "5 files such as other000.dcm"


def two_patients(folder):
    write_series(folder, origin=(-4, 7, 35), prefix="other", tags={"0010|0020": "ID-12"})
    return "several patients", "5 files such as im000.dcm", "5 files such as other000.dcm"


def with_text(before, after, *said):
    """Write other bytes of the same length into the header of a slice."""

    def spoil(folder):
        whole = (folder / "im014.dcm").read_bytes()
        assert len(before) == len(after) and before in whole
        (folder / "im014.dcm").write_bytes(whole.replace(before, after))
        return (folder / "im014.dcm", *said)

    return spoil


def with_directions(after, *said):
    return with_text(b"1\\0\\0\\0\\1\\0", after, "Image Orientation", *said)


def broken_link(folder):
    (folder / "im028.dcm").unlink()
    (folder / "im028.dcm").symlink_to("../annex/absent")
    return folder / "im028.dcm", "../annex/absent", "datalad get"


def name_that_is_not_utf8(folder):
    """ITK would end the process."""
    (folder / "im028.dcm").rename(folder / os.fsdecode(b"Sch\xe4del.dcm"))
    return "Sch\\xe4del.dcm", "UTF-8", "Rename"


def missing_slice(folder):
    (folder / "im014.dcm").unlink()
    return "im007.dcm", "im021.dcm", "6 mm", "3 mm"


def double_slice(folder):
    shutil.copy(folder / "im014.dcm", folder / "again.dcm")
    return "im014.dcm", "again.dcm", "same place"


def cut_off(folder):
    whole = (folder / "im028.dcm").read_bytes()
    (folder / "im028.dcm").write_bytes(whole[:200])
    return "im028.dcm", "cut off"


def cut_off_in_the_voxels(folder):
    whole = (folder / "im028.dcm").read_bytes()
    (folder / "im028.dcm").write_bytes(whole[:-100])
    return "im028.dcm", "cut off"


def empty_file(folder):
    (folder / "im028.dcm").write_bytes(b"")
    return "im028.dcm", "not DICOM", "slice"


def mosaic(folder):
    write_series(folder, tags={"0008|0008": "ORIGINAL\\PRIMARY\\M\\MOSAIC"})
    return "mosaic", "dcm2niix"


def another_size(folder):
    write_series(folder, voxels(1, (1, 6, 6)), origin=(-4, 7, 60), prefix="localizer")
    return "size", "12 x 10", "6 x 6"


def another_orientation(folder):
    write_series(folder, voxels(1)[:1], orientation=(0, 1, 0, 0, 0, 1), prefix="localizer")
    return "orientation", "localizer"


def no_files(folder):
    shutil.rmtree(folder)
    folder.mkdir()
    return "no DICOM images", "series"


@pytest.mark.parametrize(
    "spoil",
    [
        two_series,
        two_patients,
        with_text(b"-4\\7\\26 ", b"-4\\7,26 ", "Image Position", "-4\\7,26", "3 numbers"),
        with_text(b"-4\\7\\26 ", b"-4\\Jane ", "Image Position", "-4\\????", "3 numbers"),
        with_text(b"-4\\7\\26 ", b"        ", "Image Position"),
        with_text(b"-4\\7\\26 ", b"-4\\7\\nan", "Image Position"),
        with_directions(b"1\\0\\0\\0\\1,0", "1\\0\\0\\0\\1,0", "6 numbers"),
        with_directions(b"0\\0\\0\\0\\0\\0", "0, 0, 0, 0, 0, 0", "perpendicular"),
        with_directions(b"1\\0\\0\\1\\0\\0", "1, 0, 0, 1, 0, 0", "perpendicular"),
        with_directions(b"2\\0\\0\\0\\1\\0", "2, 0, 0, 0, 1, 0", "length 1"),
        broken_link,
        name_that_is_not_utf8,
        missing_slice,
        double_slice,
        cut_off,
        cut_off_in_the_voxels,
        empty_file,
        mosaic,
        another_size,
        another_orientation,
        no_files,
    ],
)
def test_a_folder_that_is_not_one_whole_series_is_refused(tmp_path, spoil):
    """No refusal cites a text of a header."""
    folder = write_series(tmp_path / "ct", tags=IDENTITY)
    named = spoil(folder)
    with pytest.raises(ModalityError, match=facts(*named)) as refused:
        read_series(folder)
    assert not any(text in str(refused.value) for text in TEXTS)


def test_a_gantry_tilt_is_refused_with_its_angle(tmp_path):
    shear = 3.0 * np.tan(np.radians(12))
    with pytest.raises(ModalityError, match=facts("gantry tilt", "12 degrees")):
        read_series(write_series(tmp_path, shear=shear))


def test_colors_are_refused(tmp_path):
    image = sitk.GetImageFromArray(np.zeros((6, 6, 3), dtype=np.uint8), isVector=True)
    sitk.WriteImage(image, str(tmp_path / "color.dcm"))
    with pytest.raises(ModalityError, match=facts("color.dcm", "color")):
        read_series(tmp_path)


def test_a_file_with_several_slices_is_refused(tmp_path):
    sitk.WriteImage(sitk.GetImageFromArray(voxels().astype(np.uint16)), str(tmp_path / "enhanced.dcm"))
    with pytest.raises(ModalityError, match=facts("enhanced.dcm", "5 slices", "dcm2niix")):
        read_series(tmp_path)


def test_one_slice_needs_a_thickness(tmp_path):
    with pytest.raises(ModalityError, match="thickness"):
        read_series(write_series(tmp_path / "a", voxels()[:1]))
    with pytest.raises(ModalityError, match=facts("im000.dcm", "Slice Thickness", "3,0")):
        read_series(write_series(tmp_path / "c", voxels()[:1], tags={"0018|0050": "3,0"}))
    thick = read_series(write_series(tmp_path / "b", voxels()[:1], tags={"0018|0050": "5"}))
    assert thick.image.GetSize() == (12, 10, 1) and thick.image.GetSpacing()[2] == 5


def test_texts_in_any_encoding_are_no_obstacle(tmp_path):
    """GDCM returns bytes that are not UTF-8 as surrogates, which no file can store."""
    folder = write_series(tmp_path, tags={"0008|0005": "ISO_IR 100", "0008|103e": "Schaedel"})
    for file in files(folder):
        whole = file.read_bytes()
        file.write_bytes(whole.replace(b"Schaedel", b"Sch\xe4del "))
    assert np.array_equal(sitk.GetArrayFromImage(read_series(folder).image), voxels())


@pytest.mark.parametrize("first", [132, 144 + 4])
def test_files_of_the_time_before_the_preamble_are_read(tmp_path, first):
    """They begin with the first element of the header, with or without that of the meta information."""
    folder = write_series(tmp_path)
    for file in files(folder):
        whole = file.read_bytes()
        length = int.from_bytes(whole[140:144], "little")
        file.write_bytes(whole[132:] if first == 132 else whole[144 + length :])
    assert holds_dicom(folder) and np.array_equal(sitk.GetArrayFromImage(read_series(folder).image), voxels())


@pytest.mark.parametrize("before, after", [(b"325 ", b"3,25"), (b"-1000 ", b"-10,00"), (b"1.2\\1.5", b"1,2\\1.5")])
def test_numbers_that_gdcm_would_read_in_part_are_refused(tmp_path, before, after):
    """These are the slope and the intercept of the gray values, and the spacing."""
    folder = write_series(tmp_path, tags={"0028|1053": "325", "0028|1052": "-1000"})
    with_text(before, after)(folder)
    with pytest.raises(ModalityError, match=facts("im014.dcm", after.decode(), "decimal point")):
        read_series(folder)


def test_rounded_directions_become_perpendicular(tmp_path):
    rounded = (0.866, 0.5, 0.0, -0.5, 0.866, 0.0)
    direction = np.reshape(read_series(write_series(tmp_path, orientation=rounded)).image.GetDirection(), (3, 3))
    np.testing.assert_allclose(direction @ direction.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(direction[:, 0], rounded[:3], atol=1e-3)


def test_other_patients_in_a_case_are_told_without_their_names(tmp_path):
    for name, patient in (("CT", "ID-4711"), ("PET", "ID-12"), ("T1", ""), ("T2", "ID-4711")):
        write_series(tmp_path / name, tags={"0010|0020": patient})
    folders = {name: str(tmp_path / name) for name in ("CT", "PET", "T1", "T2")}
    found = images_of_series(folders, {name: tmp_path / f"{name}.nii.gz" for name in folders})
    notes = dict(found.notes)
    (note,) = notes.pop("PET")
    assert re.search(facts(folders["PET"], "another patient", folders["CT"]), note) and "ID-" not in note
    assert set(notes.values()) == {()}


def test_folders_in_a_series_are_told(tmp_path):
    (write_series(tmp_path) / "more").mkdir()
    (note,) = read_series(tmp_path).notes
    assert str(tmp_path / "more") in note
