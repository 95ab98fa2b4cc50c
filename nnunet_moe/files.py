"""Where nnU-Net's datasets are, and files that are written whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name

from nnunet_moe.errors import ModelError


def dataset_name(name_or_id: str) -> str:
    """The full name of a dataset.

    Raises:
        ModelError: there is no such dataset in nnU-Net's folders.
    """
    try:
        return maybe_convert_to_dataset_name(name_or_id)
    except (RuntimeError, ValueError) as error:
        raise ModelError(f"-d {name_or_id} is no dataset that nnU-Net finds: {error}") from error


def nnunet_folder(variable: Any) -> Path:
    """The folder that one of `nnunetv2.paths`' variables names.

    Raises:
        ModelError: it is not set.
    """
    if not variable.is_set():
        raise ModelError(f"{variable.env_var_name} is not set. Set nnU-Net's three variables as for a training.")
    return Path(os.fspath(variable))


@contextmanager
def written_whole(file: Path) -> Iterator[Path]:
    """A path beside a file, with its ending, to write to; it becomes the file when the block ends without an error."""
    unfinished = file.with_name(f".unfinished_{file.name}")
    try:
        yield unfinished
        os.replace(unfinished, file)
    finally:
        unfinished.unlink(missing_ok=True)
