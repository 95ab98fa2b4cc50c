"""nnU-Net's readers for whatever format is sent, and segmentations in the format and on the grid that are asked for."""

import json
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import SimpleITK as sitk
import tifffile
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from nnunet_moe.commands.package.mapping import GRID_ENDINGS, image_ending
from nnunet_moe.errors import ModalityError
from nnunet_moe.runtime.files import atomic_write

TIFF = (".tif", ".tiff")


class AnyFormatReader:
    """The reader that a model was trained with, for files in all formats of `IMAGE_ENDINGS`.

    Args:
        reader: one of nnU-Net's image readers.
        file_ending: of the dataset, which the reader reads and writes.
    """

    def __init__(self, reader: Any, file_ending: str) -> None:
        self._reader, self._file_ending = reader, file_ending

    def read_images(self, files: Sequence[str]) -> tuple[np.ndarray, dict]:
        """As the reader itself does; a format that it does not know is converted first, with its spacing.

        The properties tell the grid of a converted file as `sent`, since not all readers keep one.

        Args:
            files: one, of one channel.

        Raises:
            RuntimeError: ITK cannot read the file, or not write it in the dataset's format.
        """
        (file,) = files
        if file.lower().endswith(TIFF):
            _require_whole_tiff(file)
        with _with_ending_as_itk_spells_it(file) as spelt:
            if not isinstance(self._reader, SimpleITKIO) and self._reads(spelt):
                return self._reader.read_images([spelt])
            _require_one_component(spelt)
            if isinstance(self._reader, SimpleITKIO):
                return self._reader.read_images([spelt])
            image = _read(spelt)
        with TemporaryDirectory() as folder:
            converted = Path(folder) / f"image_0000{self._file_ending}"
            sitk.WriteImage(image, str(converted))
            if self._file_ending in TIFF:  # where nnU-Net looks for it
                converted.with_name("image.json").write_text(json.dumps({"spacing": image.GetSpacing()[::-1]}))
            data, properties = self._reader.read_images([str(converted)])
        sent = {"spacing": image.GetSpacing(), "origin": image.GetOrigin(), "direction": image.GetDirection()}
        return data, {**properties, "sent": sent}

    def write_seg(self, segmentation: np.ndarray, file: Path, properties: dict, reference: Path) -> None:
        """Write a segmentation, whole or not at all.

        Args:
            segmentation: labels, `(*space)` as the reader ordered the images' axes.
            file: the file to write; in another format than the dataset's it lies on the grid of `reference`, exactly.
            properties: what the reader told of the images.
            reference: an image of the case.

        Raises:
            ModalityError: the format cannot hold a grid, or not that of the images.
        """
        with TemporaryDirectory() as folder, atomic_write(file) as unfinished:
            native = Path(folder) / f"segmentation{self._file_ending}"
            self._reader.write_seg(segmentation, str(native), properties)
            if file.name.endswith(self._file_ending):
                shutil.copyfile(native, unfinished)
                return
            if not file.name.endswith(GRID_ENDINGS):
                raise ModalityError(f"{file} cannot hold a segmentation on a grid; {', '.join(GRID_ENDINGS)} can.")
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
    """Tell in words what ITK's readers would tell in many lines, or end the process for.

    Raises:
        ModalityError: there is no such file, it is a folder, may not be read, or its name is not in UTF-8.
    """
    name = os.fsencode(file).decode("utf-8", "backslashreplace")
    if name != str(file):
        raise ModalityError(f"{name} cannot be read: its name is not in UTF-8. Rename it.")
    if not file.exists():
        raise ModalityError(f"{file} cannot be read: it is not there.")
    if not file.is_file() or not os.access(file, os.R_OK):
        why = "there is no permission" if file.is_file() else "it is no file"
        raise ModalityError(f"{file} cannot be read: {why}. Copy it again, or leave it out: a modality may be missing.")


@contextmanager
def _with_ending_as_itk_spells_it(file: str) -> Iterator[str]:
    """The file, or a link to it whose ending is in lower case."""
    ending = image_ending(Path(file)) or ""
    if ending == ending.lower():
        yield file
        return
    with TemporaryDirectory() as folder:
        link = Path(folder) / f"image_0000{ending.lower()}"
        link.symlink_to(Path(file).resolve())
        yield str(link)


def _read(file: str) -> sitk.Image:
    """An image without what its format tells besides voxels and grid, and ITK complains of in other formats."""
    image = sitk.ReadImage(file)
    for key in image.GetMetaDataKeys():
        image.EraseMetaData(key)
    return image


def _require_one_component(file: str) -> None:
    header = sitk.ImageFileReader()
    header.SetFileName(file)
    header.ReadImageInformation()
    if (number := header.GetNumberOfComponents()) != 1:
        raise RuntimeError(f"it has {number} values in each voxel, a modality has one")


def _require_whole_tiff(file: str) -> None:
    """Of a truncated file ITK reads the slices that are left."""
    complaints: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: complaints.append(record.getMessage())
    log = tifffile.logger()
    log.addHandler(handler)
    try:
        with tifffile.TiffFile(file) as opened:
            len(opened.pages)
    except tifffile.TiffFileError as error:
        raise RuntimeError(str(error)) from error
    finally:
        log.removeHandler(handler)
    if any("invalid page offset" in complaint for complaint in complaints):
        raise RuntimeError("it is truncated")
