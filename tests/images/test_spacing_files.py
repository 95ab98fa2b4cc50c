"""A wrong spacing file of a TIFF is named itself, with its value; the TIFF is right."""

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO

from facts import facts
from nnunet_moe.errors import ModalityError
from nnunet_moe.images.reading import read_channels, read_segmentation
from nnunet_moe.images.spacing_files import read_spacing, require_spacing


@pytest.fixture
def files(tmp_path) -> tuple[str, str]:
    """An image and a segmentation of the case `k`, which have the same spacing file."""
    image, segmentation = str(tmp_path / "k_0000.tif"), str(tmp_path / "k.tif")
    tifffile.imwrite(image, np.arange(120, dtype=np.uint8).reshape(4, 5, 6), photometric="minisblack")
    tifffile.imwrite(segmentation, np.ones((4, 5, 6), np.uint8), photometric="minisblack")
    return image, segmentation


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"spacing": [4.0, 0.5', ("JSON", "line 1")),
        (b"", ("JSON",)),
        (b"[" * 100_000, ("JSON", "too many brackets")),
        (b'\xef\xbb\xbf{"spacing": [4.0, 0.5, 0.5]}', ("BOM", "UTF-8 without BOM")),
        ('{"spacing": [4.0, 0.5, 0.5]}'.encode("utf-16"), ("JSON", "utf-8")),
        (b"[4.0, 0.5, 0.5]", ("missing",)),
        (b'{"RepetitionTime": 2}', ("missing",)),
        (b'{"spacing": [4.0, 0.5]}', ("[4.0, 0.5]", "three numbers")),
        (b'{"spacing": [4.0, 0.5, 0.5, 1]}', ("[4.0, 0.5, 0.5, 1]", "three numbers")),
        (b'{"spacing": [4.0, 0, 0.5]}', ("[4.0, 0, 0.5]", "above 0")),
        (b'{"spacing": [4.0, -0.5, 0.5]}', ("[4.0, -0.5, 0.5]", "above 0")),
        (b'{"spacing": [4.0, NaN, 0.5]}', ("nan", "above 0")),
        (b'{"spacing": [4.0, 1e999, 0.5]}', ("inf", "numbers")),
        (b'{"spacing": [4.0, 1' + b"0" * 400 + b", 0.5]}", ("numbers",)),
        (b'{"spacing": [4.0, true, 0.5]}', ("True", "numbers")),
        (b'{"spacing": ["4.0", "0.5", "0.5"]}', ("'4.0'", "numbers")),
        (b'{"spacing": null}', ("None", "three numbers")),
        (b'{"spacing": 4.0}', ("4.0", "three numbers")),
    ],
)
def test_a_wrong_spacing_is_refused_by_its_own_file(files, content, said):
    image, segmentation = files
    wrong = Path(image).with_name("k.json")
    wrong.write_bytes(content)
    expected = facts(str(wrong), *said, "Correct k.json")
    for read in (
        lambda: read_channels(Tiff3DIO(), {0: image}, ["CT"]),
        lambda: read_segmentation(segmentation, Tiff3DIO()),
    ):
        with pytest.raises(ModalityError, match=expected) as error:
            read()
        assert ".tif" not in str(error.value) and "remove" not in str(error.value).lower()
    require_spacing(NaturalImage2DIO(), [image], segmentation)  # it reads no spacing files


def test_a_right_spacing_is_that_of_the_reader(files):
    image, segmentation = files
    file = Path(image).with_name("k.json")
    file.write_text(json.dumps({"spacing": [4, 0.5, 0.25], "unit": "mm"}))
    assert read_spacing(file) == (4.0, 0.5, 0.25)
    assert Tiff3DIO().read_images([image])[1]["spacing"] == [4, 0.5, 0.25]
    assert read_segmentation(segmentation, Tiff3DIO())[1]["spacing"] == [4, 0.5, 0.25]
    assert read_channels(Tiff3DIO(), {0: image}, ["CT"]).properties["spacing"] == [4, 0.5, 0.25]
