"""File names of cases: `CASE_XXXX` and the dataset's file ending, where XXXX is the channel."""

import re
from collections.abc import Sequence
from pathlib import Path

from nnunetv2.imageio.reader_writer_registry import LIST_OF_IO_CLASSES
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO

from nnunet_moe.errors import ModalityError
from nnunet_moe.modalities.codes import channel_names
from nnunet_moe.runtime.files import printable, visible

READABLE_ENDINGS = frozenset(ending for reader in LIST_OF_IO_CLASSES for ending in reader.supported_file_endings)
"""File endings that nnU-Net can read."""


def case_and_channel(file: str, file_ending: str) -> tuple[str, int] | None:
    """Return the case and channel in a file name, or None; the ending may be in lower or upper case."""
    match = re.fullmatch(rf"(.+)_(\d{{4}})(?i:{re.escape(file_ending)})", Path(file).name, re.DOTALL | re.ASCII)
    return None if match is None else (match[1], int(match[2]))


def files_of(images: Sequence[str], segmentation: str | None) -> list[str]:
    """Return all files that are read for a case: images, segmentation, and the spacing files of TIFFs, if they exist.

    Args:
        images: files named `CASE_XXXX`.
        segmentation: the file of a segmentation, named `CASE`, or None.
    """
    segmentations = [] if segmentation is None else [segmentation]
    cuts = [*((image, len("_XXXX")) for image in images), *((file, 0) for file in segmentations)]
    stems = {file[: -len(ending) - cut] for file, cut in cuts for ending in _ending_of_tiff(file)}
    return [*images, *segmentations, *sorted(file for stem in stems if Path(file := f"{stem}.json").is_file())]


def list_cases(folder: Path, file_ending: str) -> tuple[dict[str, list[str]], list[str]]:
    """List the cases of a folder of images. Any file of a case may be missing.

    Hidden files and files with another ending are ignored.

    Returns:
        Case -> its files, both in alphabetical order; and the files whose names contain no channel or are not UTF-8.
        Names that are not UTF-8 would end the process inside ITK.

    Raises:
        ModalityError: the folder does not exist.
    """
    if not folder.is_dir():
        raise ModalityError(f"{folder} is no folder. Check the path.")
    cases: dict[str, list[str]] = {}
    strays = []
    for path in visible(folder):
        if not path.name.lower().endswith(file_ending.lower()):
            continue
        found = case_and_channel(path.name, file_ending)
        name = printable(path.name)
        if found is None or name != path.name:
            strays.append(str(folder / name))
        else:
            cases.setdefault(found[0], []).append(str(path))
    return dict(sorted(cases.items())), strays


def files_by_channel(image_files: Sequence[str], dataset_json: dict) -> dict[int, str]:
    """Return channel -> file for the files of a case.

    Args:
        image_files: the files, in any order.

    Raises:
        ModalityError: there is no file, a file name contains no channel of this dataset, or two files have the same
            channel.
    """
    names, file_ending = channel_names(dataset_json), dataset_json["file_ending"]
    files: dict[int, str] = {}
    allowed = ", ".join(f"_{channel:04d} ({name})" for channel, name in enumerate(names))
    for file in image_files:
        found = case_and_channel(file, file_ending)
        if found is None or found[1] >= len(names):
            raise ModalityError(
                f"{file} names no channel of this dataset. Names end in one of {allowed}, then {file_ending!r}. "
                "If its last digits are part of the case's name, add the channel. Otherwise rename or remove the file."
            )
        _, channel = found
        if channel in files:
            raise ModalityError(f"{files[channel]} and {file} are both channel {channel} ({names[channel]}). Keep one.")
        files[channel] = file
    if not files:
        raise ModalityError(f"A case has no image file. It needs at least one of {allowed}.")
    return files


def _ending_of_tiff(file: str) -> list[str]:
    return [ending for ending in Tiff3DIO.supported_file_endings if file.lower().endswith(ending)]
