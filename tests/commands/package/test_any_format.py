"""Images whose format, type of numbers or spacing file is not what the model's reader expects."""

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO

from facts import facts
from nnunet_moe.commands.package.any_format import AnyFormatReader
from nnunet_moe.errors import ModalityError
from nnunet_moe.images.reading import read_channels

VOLUME = np.random.default_rng(0).normal(100, 20, (5, 6, 7))


def sent(folder: Path, array: np.ndarray, name: str = "a.mha") -> str:
    file = str(folder / name)
    sitk.WriteImage(sitk.GetImageFromArray(array), file)
    return file


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.int64, np.uint64, np.int32, np.int16, np.uint8])
@pytest.mark.parametrize("ending", [".tif", ".tiff"])
def test_a_model_for_tiffs_gets_any_type_of_numbers_in_single_precision(tmp_path, kind, ending):
    array = VOLUME.astype(kind)
    data, _ = AnyFormatReader(Tiff3DIO(), ending).read_images([sent(tmp_path, array)])
    assert data.dtype == np.float32 and np.array_equal(data[0], array.astype(np.float32))


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.int64, np.int16, np.int8, np.uint16, np.uint8])
@pytest.mark.parametrize(("ending", "largest"), [(".png", 65535), (".bmp", 255)])
def test_a_model_for_whole_numbers_gets_them_exactly_or_names_the_values_and_the_type(tmp_path, kind, ending, largest):
    reader = AnyFormatReader(NaturalImage2DIO(), ending)
    array = np.round(np.clip(VOLUME[0], 0, 120)).astype(kind)
    assert np.array_equal(reader.read_images([sent(tmp_path, array)])[0][0, 0], array)
    wrong = []
    if np.iinfo(kind).max > largest if array.dtype.kind in "ui" else True:
        wrong.append(array.astype(np.float64) + largest)
    if array.dtype.kind == "f":
        wrong.append(array + 0.5)
    if array.dtype.kind != "u":
        wrong.append(-array)
    for other in wrong:
        file = sent(tmp_path, other.astype(kind))
        with pytest.raises(ModalityError, match=facts(file, f"{other.min():g}", f"{other.max():g}", ending, largest)):
            reader.read_images([file])


@pytest.mark.parametrize("ending", [".tif", ".TIF", ".Tiff"])
def test_the_spacing_file_of_a_tiff_is_checked_and_used_however_the_ending_is_spelled(tmp_path, ending):
    file, spacing_file = tmp_path / f"k_0000{ending}", tmp_path / "k.json"
    tifffile.imwrite(file, VOLUME.astype(np.float32), photometric="minisblack")
    reader = AnyFormatReader(Tiff3DIO(), ".tif")
    assert tuple(read_channels(reader, {0: str(file)}, ["CT"]).properties["spacing"]) == (1, 1, 1)
    spacing_file.write_text(json.dumps({"spacing": [4, 0.5, 0.25]}))
    assert tuple(read_channels(reader, {0: str(file)}, ["CT"]).properties["spacing"]) == (4, 0.5, 0.25)
    spacing_file.write_text(json.dumps({"spacing": [4, 0, 0.25]}))
    with pytest.raises(ModalityError, match=facts(spacing_file, "[4, 0, 0.25]", "above 0", "Correct k.json")):
        read_channels(reader, {0: str(file)}, ["CT"])


@pytest.mark.parametrize("ending", [".tif", ".TIFF"])
def test_colors_of_a_tiff_are_no_slices(tmp_path, ending):
    file = tmp_path / f"k_0000{ending}"
    tifffile.imwrite(file, np.arange(8 * 9 * 3, dtype=np.uint8).reshape(8, 9, 3), photometric="rgb")
    with pytest.raises(ModalityError, match=facts("3 values")):
        read_channels(AnyFormatReader(Tiff3DIO(), ".tif"), {0: str(file)}, ["CT"])
