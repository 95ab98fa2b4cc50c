"""Where nnU-Net's datasets are, names and contents of files, and files that are written whole or not at all."""

import hashlib
import os
import platform
import re
import secrets
import shutil
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name

from nnunet_moe.errors import ModelError, SettingsError

UNFINISHED = ".unfinished_"
"""What the names of files begin with that are being written, or that a killed process left behind."""


def dataset_name(name_or_id: str) -> str:
    """The full name of a dataset.

    Raises:
        ModelError: there is no such dataset in nnU-Net's folders.
    """
    try:
        return str(maybe_convert_to_dataset_name(name_or_id))  # which gives NumPy's kind of string
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


def folder_name(name: str) -> str:
    """A modality's or label's name as (part of) a file name: what file systems do not take becomes `_`."""
    return re.sub(r'[/\\:*?"<>|]|^\.+', "_", name)


def require_own_files(names: Sequence[str]) -> None:
    """Make sure that all names can be names of files, each of its own.

    Raises:
        SettingsError: one is empty, or two become one.
    """
    by_file: dict[str, str] = {}
    for name in names:
        if not name.strip():
            raise SettingsError(f"A name is empty: {', '.join(map(repr, names))}. Name it in dataset.json.")
        if (file := folder_name(name)) in by_file:
            raise SettingsError(
                f"{name!r} and {by_file[file]!r} would be written into the same file, {file!r}. Rename one of the "
                "modalities or labels in dataset.json."
            )
        by_file[file] = name


def digest(file: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    content = hashlib.sha256()
    with file.open("rb") as opened:
        while part := opened.read(1 << 20):
            content.update(part)
    return content.hexdigest()


@contextmanager
def atomic_write(file: Path) -> Iterator[Path]:
    """A path beside a file, with its ending, to write to; it becomes the file when the block ends without an error.

    Each call has a path of its own, so several processes or threads can write the same file: the last one stays. The
    path is hidden, and only a killed process leaves one behind.
    """
    unfinished = file.with_name(f"{UNFINISHED}{_machine()}_{os.getpid()}_{secrets.token_hex(4)}_{file.name}")
    try:
        yield unfinished
        os.replace(unfinished, file)
    finally:
        unfinished.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes of this machine left of `atomic_write` in a folder; others may be writing there."""
    for path in folder.glob(f"{UNFINISHED}{_machine()}_*"):
        process = path.name.removeprefix(f"{UNFINISHED}{_machine()}_").split("_")[0]
        if process.isdigit() and not _is_running(int(process)):
            path.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    if os.name != "posix":  # where no signal only asks
        return True
    try:
        os.kill(process, 0)
    except OSError as error:
        return not isinstance(error, ProcessLookupError)  # it may be another user's
    return True


def _machine() -> str:
    """A short name of this machine: folders may be shared with others, whose processes have the same numbers."""
    return f"{zlib.crc32(platform.node().encode()):08x}"


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """A folder inside another one to fill; what is in it moves up when the block ends without an error.

    Raises:
        SettingsError: the folder holds something already, or is a file.
    """
    unfinished, made = folder / ".unfinished", [path for path in (folder, *folder.parents) if not path.exists()]
    if not unfinished.exists() and not made and (not folder.is_dir() or any(folder.iterdir())):
        raise SettingsError(f"{folder} is there already and not an empty folder. Remove it, or name another one.")
    try:
        unfinished.mkdir(parents=True)
    except FileExistsError as error:
        raise SettingsError(
            f"{unfinished} is there: another run is writing, or was killed. Remove it, or name another folder."
        ) from error
    try:
        yield unfinished
        for path in sorted(unfinished.iterdir()):
            os.replace(path, folder / path.name)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
        for path in made:
            if not any(path.iterdir()):
                path.rmdir()
