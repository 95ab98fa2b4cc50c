"""Read the dataset.json of a raw dataset, and make sure that nnU-Net can use all of it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnunet_moe.errors import ModalityError, NnunetMoeError
from nnunet_moe.labels.label_sets import LabelSets
from nnunet_moe.labels.labels import require_trainable_labels
from nnunet_moe.modalities.codes import channel_names
from nnunet_moe.runtime.json_files import load_json

READER = "overwrite_image_reader_writer"


def read_dataset_json(file: Path) -> dict[str, Any]:
    """Return the content of a dataset.json.

    Raises:
        NnunetMoeError: it cannot be used. The message names the file, the key and what to do.
    """
    try:
        content = load_json(file)
        json.dumps(content, ensure_ascii=False).encode()  # raises a ValueError for names that cannot be printed
    except ValueError as error:
        raise ModalityError(
            f"{file} cannot be read as JSON ({type(error).__name__}: {error}). It needs channel_names, labels, "
            "numTraining and file_ending. Correct or restore it."
        ) from error
    try:
        _require_usable(content)
    except NnunetMoeError as error:
        raise type(error)(f"{file} cannot be used: {error}") from error
    return content


def num_training(dataset_json: Mapping[str, Any]) -> int:
    """Return the number of training cases in dataset.json, which may be written as text.

    Raises:
        ModalityError: it is not a whole number.
    """
    number: Any = dataset_json.get("numTraining")
    try:
        if isinstance(number, bool) or int(number) != float(number):
            raise ValueError
    except (TypeError, ValueError, OverflowError) as error:
        raise ModalityError(
            f"'numTraining' is {number!r}, but must be the number of training cases, such as 40. Correct it."
        ) from error
    return int(number)


def _require_usable(content: Any) -> None:
    if not isinstance(content, dict):
        raise ModalityError("It does not contain an object with channel_names, labels, numTraining and file_ending.")
    channel_names(content)
    num_training(content)
    ending, reader, listed = content.get("file_ending"), content.get(READER, ""), content.get("dataset", {})
    if not isinstance(ending, str) or not ending:
        raise ModalityError(f"'file_ending' is {ending!r}. It must be the ending of all images, such as '.nii.gz'.")
    if not isinstance(reader, str):
        raise ModalityError(
            f"{READER!r} is {reader!r}. It must be the name of a reader, such as 'SimpleITKIO'. Correct or remove it."
        )
    if not isinstance(listed, dict):
        raise ModalityError(f"'dataset' is {listed!r}. It must be an object with the files of each case. Correct it.")
    if bad := [case for case, files in listed.items() if not _are_files(files)]:
        raise ModalityError(
            f"'dataset' has {listed[bad[0]]!r} for {bad[0]}. It must be an object with a list of files under 'images' "
            "and a file under 'label'. Correct it."
        )
    require_trainable_labels(content)
    LabelSets.of(content)


def _are_files(files: Any) -> bool:
    if not isinstance(files, dict) or not isinstance(images := files.get("images"), list):
        return False
    return all(isinstance(file, str) for file in (*images, files.get("label")))
