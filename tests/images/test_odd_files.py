"""Files that a library reads wrongly, or about which it raises an error of its own: each is refused by its name."""

import gzip
import os
import struct
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO

from facts import facts
from nnunet_moe.errors import ModalityError
from nnunet_moe.images.reading import read_case, read_segmentation

READERS = (SimpleITKIO, NibabelIO, NibabelIOWithReorient)
DATASET_JSON = {"channel_names": {"0": "CT", "1": "PET"}, "file_ending": ".nii.gz"}
SHAPE = (6, 5, 4)
IMAGE = np.random.default_rng(0).normal(100, 20, SHAPE).astype(np.float32)


def save(array: np.ndarray, file: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(array, np.diag([-1.0, -1.0, 1.0, 1.0])), file)


def patched(file: Path, *changes: tuple[int, bytes]) -> None:
    """Write bytes into the header of a compressed file."""
    content = bytearray(gzip.decompress(file.read_bytes()))
    for at, value in changes:
        content[at : at + len(value)] = value
    file.write_bytes(gzip.compress(bytes(content)))


def colors(file: Path, shape: tuple[int, ...] = SHAPE) -> None:
    array = np.zeros(shape, dtype=[(channel, "u1") for channel in "RGB"])
    array["R"] = 7
    save(array, file)


SPOILT = {
    "no intercept": lambda file: patched(file, (112, struct.pack("<ff", 1.0, np.nan))),
    "data inside the header": lambda file: patched(file, (108, struct.pack("<f", 300.0))),
    "unknown type of numbers": lambda file: patched(file, (70, struct.pack("<h", 999))),
    "negative size": lambda file: patched(file, (42, struct.pack("<h", -6))),
    "no header": lambda file: file.write_bytes(gzip.compress(b"P5 4 4 255 ")),
    "not compressed": lambda file: file.write_bytes(b"nothing of that kind"),
    "empty": lambda file: file.write_bytes(b""),
    "half": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "a folder": lambda file: (file.unlink(), file.mkdir()),
    "colors": colors,
    "a slice in colors": lambda file: colors(file, (6, 5, 1)),
    "complex numbers": lambda file: save(IMAGE.astype(np.complex64), file),
}


@pytest.fixture
def case(tmp_path) -> list[Path]:
    files = [tmp_path / f"a_{channel:04d}.nii.gz" for channel in range(2)]
    for file in files:
        save(IMAGE, file)
    return files


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_an_odd_image_is_refused_by_its_name(case, reader, spoil):
    assert np.isfinite(read_case(list(map(str, case)), reader(), DATASET_JSON).image).all()
    spoil(case[1])
    with pytest.raises(ModalityError, match=facts(case[1])):
        read_case(list(map(str, case)), reader(), DATASET_JSON)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_an_odd_segmentation_is_refused_by_its_name(case, reader, spoil):
    save((IMAGE > 100).astype(np.uint8), case[0])
    assert set(np.unique(read_segmentation(str(case[0]), reader())[0])) == {0, 1}
    spoil(case[0])
    with pytest.raises(ModalityError, match=facts(case[0])):
        read_segmentation(str(case[0]), reader())


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("replace", "said"),
    [
        (lambda file: file.mkdir(), "it is a folder"),
        (lambda file: file.symlink_to("gone.nii.gz"), "it is a link to gone.nii.gz, which does not exist"),
        (lambda file: None, "it does not exist"),
    ],
)
def test_what_is_no_file_is_said_once_and_no_library_prints_about_it(case, reader, replace, said, capfd):
    case[1].unlink()
    replace(case[1])
    with pytest.raises(ModalityError, match=facts(f"{case[1]} cannot be read: {said}.")):
        read_case(list(map(str, case)), reader(), DATASET_JSON)
    with pytest.raises(ModalityError, match=facts(f"{case[1]} cannot be read: {said}.")):
        read_segmentation(str(case[1]), reader())
    assert "".join(capfd.readouterr()) == ""


@pytest.mark.parametrize("number", [2, 3, 4])
def test_vectors_in_other_formats_are_refused_with_their_number(tmp_path, number):
    file = tmp_path / "a_0000.mha"
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((4, 5, 6, number), np.uint8), isVector=True), str(file))
    dataset_json = {"channel_names": {"0": "photo"}, "file_ending": ".mha"}
    with pytest.raises(ModalityError, match=facts(file, f"{number} values")):
        read_case([str(file)], SimpleITKIO(), dataset_json)


@pytest.mark.parametrize("offset", [100.0, -3.5])
def test_a_scale_of_zero_with_an_offset_is_named(case, offset):
    """The standard says that voxels are not scaled then. ITK adds the offset, or takes it for all voxels."""
    save(IMAGE.astype(np.int16), case[1])
    patched(case[1], (112, struct.pack("<ff", 0.0, 0.0)))
    assert read_case(list(map(str, case)), SimpleITKIO(), DATASET_JSON).available == (True, True)
    patched(case[1], (112, struct.pack("<ff", 0.0, offset)))
    with pytest.raises(ModalityError, match=facts(case[1], "scale 0", "scl_slope", f"{offset:g}", "scale 1")):
        read_case(list(map(str, case)), SimpleITKIO(), DATASET_JSON)


CUT = {
    "voxels": lambda content: content[:-100],
    "header": lambda content: content[:60],
    "20 bytes": lambda content: content[:-20],
}


@pytest.mark.parametrize("ending", [".mha", ".nrrd"])
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("cut", CUT.values(), ids=CUT)
def test_a_file_that_is_cut_off_is_not_said_to_be_missing(tmp_path, ending, compressed, cut):
    file = tmp_path / f"a_0000{ending}"
    sitk.WriteImage(sitk.GetImageFromArray(IMAGE), str(file), compressed)
    dataset_json = {"channel_names": {"0": "CT"}, "file_ending": ending}
    assert read_case([str(file)], SimpleITKIO(), dataset_json).available == (True,)
    file.write_bytes(cut(file.read_bytes()))
    with pytest.raises(ModalityError, match=facts(f"{file} cannot be read: it is cut off, or its header")) as error:
        read_case([str(file)], SimpleITKIO(), dataset_json)
    assert "No such file" not in str(error.value)
    with pytest.raises(ModalityError, match=facts(file, "cut off")):
        read_segmentation(str(file), SimpleITKIO())


@pytest.mark.parametrize(("header", "ending"), [(".mhd", ".mha"), (".nhdr", ".nrrd")])
def test_the_file_of_separate_voxels_is_named_if_it_is_missing_or_cut_off(tmp_path, header, ending):
    sitk.WriteImage(sitk.GetImageFromArray(IMAGE), str(tmp_path / f"x{header}"), False)
    file, voxels = tmp_path / f"a_0000{ending}", tmp_path / "x.raw"
    (tmp_path / f"x{header}").rename(file)
    dataset_json = {"channel_names": {"0": "CT"}, "file_ending": ending}
    assert read_case([str(file)], SimpleITKIO(), dataset_json).available == (True,)
    voxels.write_bytes(voxels.read_bytes()[:-4])
    with pytest.raises(ModalityError, match=facts(file, "its voxels lie in x.raw, which is cut off")):
        read_case([str(file)], SimpleITKIO(), dataset_json)
    voxels.unlink()
    with pytest.raises(ModalityError, match=facts(file, "its voxels lie in x.raw, which does not exist")):
        read_case([str(file)], SimpleITKIO(), dataset_json)


TIFF_WRITERS = {
    "ITK": lambda file: sitk.WriteImage(sitk.GetImageFromArray(IMAGE), file),
    "tifffile": lambda file: tifffile.imwrite(file, IMAGE, photometric="minisblack"),
    "compressed": lambda file: tifffile.imwrite(file, IMAGE, photometric="minisblack", compression="zlib"),
    "ImageJ": lambda file: tifffile.imwrite(file, IMAGE, imagej=True, metadata={"axes": "ZYX"}),
}


@pytest.mark.parametrize("write", TIFF_WRITERS.values(), ids=TIFF_WRITERS)
def test_a_tiff_that_is_cut_off_never_loses_slices_without_a_word(tmp_path, write):
    """tifffile only logs that later slices are missing, so nnU-Net's reader returns a shorter volume."""
    file, dataset_json = tmp_path / "a_0000.tif", {"channel_names": {"0": "CT"}, "file_ending": ".tif"}
    write(str(file))
    content, num_refused = file.read_bytes(), 0
    for kept in range(0, len(content), 40):
        file.write_bytes(content[:kept])
        for read in (
            lambda: read_case([str(file)], Tiff3DIO(), dataset_json).image[0],
            lambda: read_segmentation(str(file), Tiff3DIO())[0],
        ):
            try:
                np.testing.assert_array_equal(read(), IMAGE)
            except ModalityError as error:
                assert str(file) in str(error)
                num_refused += 1
    assert num_refused > len(content) / 40


@pytest.mark.parametrize("ending", [".mha", ".nrrd", ".gipl"])
def test_a_file_in_no_known_format_is_called_so(tmp_path, ending):
    file = tmp_path / f"a_0000{ending}"
    file.write_text("hello")
    with pytest.raises(ModalityError, match=facts(file, f"not in the format {ending}")):
        read_case([str(file)], SimpleITKIO(), {"channel_names": {"0": "CT"}, "file_ending": ending})


def test_a_missing_one_of_several_files_with_voxels_is_said_to_be_one(tmp_path):
    file = tmp_path / "a_0000.mha"
    header = "ObjectType = Image\nNDims = 3\nDimSize = 4 5 2\nElementType = MET_FLOAT\nElementDataFile = LIST\n"
    file.write_text(f"{header}a.raw\nb.raw\n")
    with pytest.raises(ModalityError, match=facts(file, "several files", "missing")):
        read_case([str(file)], SimpleITKIO(), {"channel_names": {"0": "CT"}, "file_ending": ".mha"})


def test_a_path_that_is_not_utf8_does_not_end_the_process(tmp_path):
    folder = tmp_path / os.fsdecode(b"Sch\xe4del")
    folder.mkdir()
    (folder / "image.nii.gz").write_bytes(b"")
    with pytest.raises(ModalityError, match=facts(r"Sch\xe4del/image.nii.gz", "UTF-8", "Rename")):
        read_segmentation(str(folder / "image.nii.gz"), SimpleITKIO())
