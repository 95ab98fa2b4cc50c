"""nnU-Net's readers for whatever format is sent, and segmentations in the format and on the grid that are asked for."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import SimpleITK as sitk
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from nnunet_moe.files import written_whole


class AnyFormatReader:
    """The reader that a model was trained with, for files in any format that ITK reads.

    Args:
        reader: one of nnU-Net's image readers.
        file_ending: of the dataset, which the reader reads and writes.
    """

    def __init__(self, reader: Any, file_ending: str) -> None:
        self._reader, self._file_ending = reader, file_ending

    def read_images(self, files: Sequence[str]) -> tuple[np.ndarray, dict]:
        """As the reader itself does; a format that it does not know is converted first, voxels and grid unchanged.

        Args:
            files: one, of one channel.

        Raises:
            RuntimeError: ITK cannot read the file, or not write it in the dataset's format.
        """
        (file,) = files
        if self._reads(file):
            return self._reader.read_images(files)
        with TemporaryDirectory() as folder:
            converted = str(Path(folder) / f"image{self._file_ending}")
            sitk.WriteImage(_read(file), converted)
            return self._reader.read_images([converted])

    def write_seg(self, segmentation: np.ndarray, file: Path, properties: dict, reference: Path) -> None:
        """Write a segmentation, whole or not at all.

        Args:
            segmentation: labels, `(*space)` as the reader ordered the images' axes.
            file: the file to write; in another format than the dataset's it lies on the grid of `reference`, exactly.
            properties: what the reader told of the images.
            reference: an image of the case.
        """
        with TemporaryDirectory() as folder, written_whole(file) as unfinished:
            native = Path(folder) / f"segmentation{self._file_ending}"
            self._reader.write_seg(segmentation, str(native), properties)
            if file.name.endswith(self._file_ending):
                shutil.copyfile(native, unfinished)
            else:
                labels = _read(str(native))
                labels.CopyInformation(_read(str(reference)))
                sitk.WriteImage(labels, str(unfinished), useCompression=True)

    def _reads(self, file: str) -> bool:
        endings = (self._file_ending, *self._reader.supported_file_endings)
        return isinstance(self._reader, SimpleITKIO) or file.lower().endswith(tuple(endings))


def _read(file: str) -> sitk.Image:
    """An image without what its format tells besides voxels and grid, and ITK complains of in other formats."""
    image = sitk.ReadImage(file)
    for key in image.GetMetaDataKeys():
        image.EraseMetaData(key)
    return image
