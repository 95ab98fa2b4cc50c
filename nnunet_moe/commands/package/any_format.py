"""Read any image format with nnU-Net's readers, and write segmentations in the requested format and grid."""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import SimpleITK as sitk
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from nnunet_moe.commands.package.mapping import GRID_ENDINGS, image_ending
from nnunet_moe.errors import ModalityError
from nnunet_moe.images.file_names import files_of
from nnunet_moe.images.headers import require_one_component
from nnunet_moe.images.spacing_files import require_spacing
from nnunet_moe.images.tiff import TIFF
from nnunet_moe.runtime.files import atomic_write

WHOLE_NUMBERS = {".png": 65535, ".bmp": 255}
"""File endings of formats that store only whole numbers from 0 -> the largest one."""


class AnyFormatReader:
    """The reader that a model was trained with, extended to all formats of `IMAGE_ENDINGS`.

    Args:
        reader: one of nnU-Net's image readers.
        file_ending: the file ending of the dataset, which the reader reads and writes.
    """

    def __init__(self, reader: Any, file_ending: str) -> None:
        self._reader, self._file_ending = reader, file_ending

    def read_images(self, files: Sequence[str]) -> tuple[np.ndarray, dict]:
        """Read an image with the reader. Convert it first if the reader does not know its format.

        The conversion keeps the spacing. The properties store the grid of a converted file under `sent`, because not
        all readers keep one.

        Args:
            files: one file, of one channel.

        Raises:
            ModalityError: the file is a volume, and the dataset's format stores only 2D images. Or it has colors,
                values that the dataset's format cannot store, or a wrong spacing file.
            RuntimeError: ITK cannot read the file.
        """
        (file,) = files
        with _with_ending_as_itk_spells_it(file) as spelt:
            if not isinstance(self._reader, SimpleITKIO) and self._reads(spelt):
                require_one_component(spelt, self._reader)
                require_spacing(self._reader, [file])
                return self._reader.read_images([spelt])
            require_one_component(spelt, SimpleITKIO())
            if isinstance(self._reader, SimpleITKIO):
                return self._reader.read_images([spelt])
            image = _read(spelt)
        with TemporaryDirectory() as folder:
            converted = Path(folder) / f"image_0000{self._file_ending}"
            sitk.WriteImage(_storable(image, self._file_ending, file), str(converted))
            if self._file_ending in TIFF:  # nnU-Net reads the spacing from this file
                converted.with_name("image.json").write_text(
                    json.dumps({"spacing": image.GetSpacing()[::-1]}), encoding="utf-8"
                )
            data, properties = self._reader.read_images([str(converted)])
        if data[0].size != image.GetNumberOfPixels():
            size = " x ".join(map(str, image.GetSize()))
            raise ModalityError(
                f"{file} is a volume ({size} voxels), but the model is for 2D images ({self._file_ending}). Send one "
                "slice."
            )
        sent = {"spacing": image.GetSpacing(), "origin": image.GetOrigin(), "direction": image.GetDirection()}
        return data, {**properties, "sent": sent}

    def write_seg(self, segmentation: np.ndarray, file: Path, properties: dict, reference: Path) -> None:
        """Write a segmentation. On an error, leave no incomplete file.

        Args:
            segmentation: labels, `(*space)` as the reader ordered the images' axes.
            file: the file to write. If its format is not the dataset's, it gets exactly the grid of `reference`.
            properties: the properties of the images, as the reader returned them.
            reference: an image of the case.

        Raises:
            ModalityError: the format cannot store a grid, or cannot store the grid of the images.
        """
        with TemporaryDirectory() as folder, atomic_write(file) as unfinished:
            native = Path(folder) / f"segmentation{self._file_ending}"
            self._reader.write_seg(segmentation, str(native), properties)
            if file.name.endswith(self._file_ending):
                shutil.copyfile(native, unfinished)
                return
            if not file.name.endswith(GRID_ENDINGS):
                raise ModalityError(f"{file}: this format cannot store a grid. Use one of {', '.join(GRID_ENDINGS)}.")
            try:
                labels = _read(str(native))
                with _with_ending_as_itk_spells_it(str(reference)) as spelt:
                    labels.CopyInformation(_read(spelt))
                sitk.WriteImage(labels, str(unfinished), useCompression=True)
            except RuntimeError as error:
                raise ModalityError(f"{file} cannot be written on the grid of {reference}: {error}") from error

    def _reads(self, file: str) -> bool:
        return file.endswith((self._file_ending, *self._reader.supported_file_endings))


def require_readable(file: Path) -> None:
    """Refuse a file that ITK's readers could not read, with a short message.

    ITK would print many lines for some of these files, and end the process for others.

    Raises:
        ModalityError: the file does not exist, is a folder, has no permission to be read, or its name is not in UTF-8.
    """
    name = os.fsencode(file).decode("utf-8", "backslashreplace")
    if name != str(file):
        raise ModalityError(f"{name} cannot be read: its name is not in UTF-8. Rename it.")
    if not file.exists():
        raise ModalityError(f"{file} cannot be read: it does not exist. Check the path.")
    if not file.is_file() or not os.access(file, os.R_OK):
        why = "there is no permission" if file.is_file() else "it is not a file"
        raise ModalityError(
            f"{file} cannot be read: {why}. Copy it again, or do not send it: a modality may be missing."
        )


@contextmanager
def _with_ending_as_itk_spells_it(file: str) -> Iterator[str]:
    """Give the path of the file, or of a link to it whose ending is in lower case."""
    ending = image_ending(Path(file)) or ""
    if ending == ending.lower():
        yield file
        return
    with TemporaryDirectory() as folder:
        link = Path(folder) / f"image_0000{ending.lower()}"
        link.symlink_to(Path(file).resolve())
        for spacing_file in files_of([file], None)[1:]:
            (Path(folder) / "image.json").symlink_to(Path(spacing_file).resolve())
        yield str(link)


def _read(file: str) -> sitk.Image:
    """Read an image and drop its metadata, because ITK warns about them when it writes another format."""
    image = sitk.ReadImage(file)
    for key in image.GetMetaDataKeys():
        image.EraseMetaData(key)
    return image


def _storable(image: sitk.Image, file_ending: str, file: str) -> sitk.Image:
    """Convert the type of an image to one that the dataset's format can store, without changing a value that counts.

    nnU-Net's readers convert to single precision in any case.

    Args:
        image: the image that was read.
        file_ending: the file ending of the dataset.
        file: the file of the image, for the error.

    Raises:
        ModalityError: the format stores only whole numbers, and the image has others.
    """
    if file_ending in TIFF and image.GetPixelID() in (sitk.sitkFloat64, sitk.sitkInt64, sitk.sitkUInt64):
        return sitk.Cast(image, sitk.sitkFloat32)
    largest = WHOLE_NUMBERS.get(file_ending)
    if largest is None or image.GetPixelID() == sitk.sitkUInt8:
        return image
    values = sitk.GetArrayViewFromImage(image)
    if not ((values >= 0) & (values <= largest) & (values == np.round(values))).all():
        raise ModalityError(
            f"{file} has values from {values.min():g} to {values.max():g} ({image.GetPixelIDTypeAsString()}). The "
            f"model is for {file_ending}, which stores only whole numbers from 0 to {largest}. Convert the image as "
            "the training images were."
        )
    return sitk.Cast(image, sitk.sitkUInt8 if values.max() <= 255 else sitk.sitkUInt16)
