"""TIFFs and PNGs with several values in each voxel, which nnU-Net's readers take for slices or fail on."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO
from PIL import Image

from facts import facts
from nnunet_moe.errors import ModalityError
from nnunet_moe.images.reading import read_channels, read_segmentation

GENERATOR = np.random.default_rng(0)


def numbers(*shape: int) -> np.ndarray:
    return GENERATOR.integers(1, 255, shape).astype(np.uint8)


COLORS = {
    "RGB": (3, numbers(8, 9, 3), {"photometric": "rgb"}),
    "RGB and opacity": (4, numbers(8, 9, 4), {"photometric": "rgb"}),
    "RGB of 16 bits": (3, numbers(8, 9, 3).astype(np.uint16), {"photometric": "rgb"}),
    "RGB in planes": (3, numbers(3, 8, 9), {"photometric": "rgb", "planarconfig": "separate"}),
    "gray and opacity": (2, numbers(8, 9, 2), {"photometric": "minisblack", "planarconfig": "contig"}),
    "channels of ImageJ": (3, numbers(3, 8, 9), {"imagej": True, "metadata": {"axes": "CYX"}}),
    "channels of OME": (5, numbers(5, 8, 9), {"ome": True, "metadata": {"axes": "CYX"}}),
}
SLICES = {
    "three slices": (numbers(3, 8, 9), {"photometric": "minisblack"}),
    "four slices": (numbers(4, 8, 9), {"photometric": "minisblack"}),
    "many slices": (numbers(10, 8, 9), {}),
    "three slices of fractions": (numbers(3, 8, 9) / np.float32(2), {}),
    "slices of ImageJ": (numbers(3, 8, 9), {"imagej": True, "metadata": {"axes": "ZYX"}}),
    "slices of OME": (numbers(5, 8, 9), {"ome": True, "metadata": {"axes": "ZYX"}}),
    "one channel": (numbers(5, 1, 8, 9), {"imagej": True, "metadata": {"axes": "ZCYX"}}),
}


@pytest.mark.parametrize(("number", "image", "options"), COLORS.values(), ids=COLORS)
def test_colors_in_a_tiff_are_no_slices(tmp_path, number, image, options):
    file = str(tmp_path / "a_0000.tif")
    tifffile.imwrite(file, image, **options)
    with pytest.raises(ModalityError, match=facts(file, f"{number} values", "colors", "minisblack")):
        read_channels(Tiff3DIO(), {0: file}, ["photo"])


@pytest.mark.parametrize(("image", "options"), SLICES.values(), ids=SLICES)
def test_slices_of_a_tiff_are_read_as_they_are(tmp_path, image, options):
    file = str(tmp_path / "a_0000.tif")
    tifffile.imwrite(file, image, **options)
    np.testing.assert_array_equal(read_channels(Tiff3DIO(), {0: file}, ["CT"]).image[0], image.squeeze())


@pytest.mark.parametrize("slices", [2, 3, 4, 5])
def test_segmentations_that_nnunet_writes_are_read(tmp_path, slices):
    """It writes those of three and four slices like colors in planes."""
    file, labels = str(tmp_path / "a.tif"), numbers(slices, 8, 9) % 3
    Tiff3DIO().write_seg(labels, file, {"spacing": (1, 1, 1)})
    np.testing.assert_array_equal(read_segmentation(file, Tiff3DIO())[0], labels)
    tifffile.imwrite(file, numbers(8, 9, 3), photometric="rgb")
    with pytest.raises(ModalityError, match=facts(file, "3 values")):
        read_segmentation(file, Tiff3DIO())


@pytest.mark.parametrize(
    ("mode", "said"), [("LA", "2 values"), ("RGB", "3 channels"), ("RGBA", "4 channels"), ("P", "3 channels")]
)
def test_a_png_with_several_values_is_refused_with_their_number(tmp_path, mode, said):
    file = str(tmp_path / "a_0000.png")
    Image.fromarray(numbers(8, 9, 3)).convert(mode).save(file)
    with pytest.raises(ModalityError, match=facts(file, said)):
        read_channels(NaturalImage2DIO(), {0: file}, ["photo"])
    with pytest.raises(ModalityError, match=facts(file, said)):
        read_segmentation(file, NaturalImage2DIO())


@pytest.mark.parametrize("mode", ["L", "I;16", "1"])
def test_a_png_of_gray_values_is_read(tmp_path, mode):
    file, gray = Path(tmp_path / "a_0000.png"), numbers(8, 9).astype(np.uint16 if mode == "I;16" else np.uint8)
    image = Image.fromarray(gray) if mode != "1" else Image.fromarray(gray).convert("1")
    image.save(file)
    expected = gray if mode != "1" else np.array(image)
    np.testing.assert_array_equal(read_channels(NaturalImage2DIO(), {0: str(file)}, ["x"]).image[0, 0], expected)
