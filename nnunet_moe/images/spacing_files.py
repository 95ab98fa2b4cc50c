"""Read the JSON files from which nnU-Net's reader of 3D TIFFs takes spacings."""

import reprlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nnunetv2.imageio.tif_reader_writer import Tiff3DIO

from nnunet_moe.errors import ModalityError
from nnunet_moe.images.file_names import files_of
from nnunet_moe.runtime.json_files import load_json


def read_spacing(file: Path) -> tuple[float, ...]:
    """Return the spacing in a spacing file, in mm and in the order of axes.

    Raises:
        ModalityError: the file cannot be read, or holds no spacing of three dimensions.
    """
    try:
        content = load_json(file)
    except (OSError, ValueError) as error:
        raise ModalityError(
            f"{file} holds no spacing, because it cannot be read as JSON: {error}. Correct {file.name}."
        ) from error
    has_spacing = isinstance(content, dict) and "spacing" in content
    spacing = content["spacing"] if has_spacing else None
    if isinstance(spacing, list) and len(spacing) == 3 and all(map(_is_length, spacing)):
        return tuple(map(float, spacing))
    found = f"'spacing' is {reprlib.repr(spacing)}" if has_spacing else "'spacing' is missing"
    raise ModalityError(
        f'{file} holds no spacing that can be used: {found}. It must be like {{"spacing": [4.0, 0.5, 0.5]}}: three '
        f"numbers above 0, in mm and in the order of axes. Correct {file.name}."
    )


def require_spacing(reader: Any, images: Sequence[str] = (), segmentation: str | None = None) -> None:
    """Make sure that the spacing files are correct that a reader will read; a missing one is allowed.

    Args:
        reader: one of nnU-Net's image readers. Only that of 3D TIFFs reads spacing files.
        images: files named `CASE_XXXX`.
        segmentation: the file of a segmentation, named `CASE`, or None.

    Raises:
        ModalityError: as in `read_spacing`.
    """
    if isinstance(reader, Tiff3DIO):
        read = {*images, segmentation}
        for file in files_of(images, segmentation):
            if file not in read:
                read_spacing(Path(file))


def _is_length(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value <= sys.float_info.max
