"""nnU-Net's folders, names and digests of files, and writing files as a whole or not at all."""

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
from typing import Any, Literal, TextIO

from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name

from nnunet_moe.errors import ModelError, SettingsError

RESTORE = "Restore its target, for example with `datalad get`, or remove the link."
"""The remedy for a broken link."""
UNFINISHED = ".unfinished_"
"""The start of the names of files that are being written, or that a killed process left behind."""


def dataset_name(name_or_id: str) -> str:
    """Return the full name of a dataset.

    Raises:
        ModelError: nnU-Net cannot identify the dataset.
    """
    try:
        return str(maybe_convert_to_dataset_name(name_or_id))  # nnU-Net returns a NumPy string
    except (RuntimeError, ValueError) as error:
        raise ModelError(f"-d {name_or_id}: nnU-Net cannot identify the dataset. {error}") from error


def nnunet_folder(variable: Any) -> Path:
    """Return the folder that one of the variables in `nnunetv2.paths` names.

    Raises:
        ModelError: the variable is not set.
    """
    if not variable.is_set():
        raise ModelError(f"{variable.env_var_name} is not set. Set it to a folder, as nnU-Net's documentation says.")
    return Path(os.fspath(variable))


def folder_name(name: str) -> str:
    """Return the name of a modality or label for use in a file name, with forbidden characters as `_`."""
    return re.sub(r'[/\\:*?"<>|]|^\.+', "_", name)


def require_own_files(names: Sequence[str]) -> None:
    """Make sure that each name has its own file name.

    Raises:
        SettingsError: a name is empty, or two names have the same file name.
    """
    by_file: dict[str, str] = {}
    for name in names:
        if not name.strip():
            raise SettingsError(
                f"A modality or label has an empty name: {', '.join(map(repr, names))}. Name it in dataset.json."
            )
        if (file := folder_name(name)) in by_file:
            raise SettingsError(
                f"{name!r} and {by_file[file]!r} would be written to the same file, {file!r}. Rename one of the "
                "modalities or labels in dataset.json."
            )
        by_file[file] = name


def is_hidden(name: str) -> bool:
    """Return whether a name is that of a hidden file or folder.

    macOS writes such files next to images (`._CASE_0000.nii.gz`, `.DS_Store`), and this package does while it writes.
    """
    return name.startswith(".")


def visible(folder: Path) -> list[Path]:
    """List what a folder contains in alphabetical order, without hidden files and folders.

    Raises:
        OSError: the folder cannot be read.
    """
    return sorted(path for path in folder.iterdir() if not is_hidden(path.name))


def broken_link(path: Path) -> str | None:
    """Return what a broken link is, for messages: `a link to TARGET, which does not exist`; None for other paths."""
    if path.exists() or not path.is_symlink():
        return None
    return f"a link to {printable(path.readlink())}, which does not exist"


def printable(path: str | Path) -> str:
    """Return a path without bytes that are not UTF-8, which can neither be printed, written to a table nor read by ITK.

    ITK ends the process when it gets such a path.
    """
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def open_text(file: Path, mode: Literal["a", "w"]) -> TextIO:
    """Open a text file for writing, in which bytes of file names that are not UTF-8 become backslash escapes."""
    return file.open(mode, newline="", encoding="utf-8", errors="backslashreplace")


def digest(file: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits."""
    content = hashlib.sha256()
    with file.open("rb") as opened:
        while part := opened.read(1 << 20):
            content.update(part)
    return content.hexdigest()


@contextmanager
def atomic_write(file: Path) -> Iterator[Path]:
    """Yield a temporary path with the ending of the file, and rename it to the file if the block succeeds.

    Each call uses a different path, so several processes or threads can write the same file, and the last one wins.
    The path is hidden. It remains only if the process is killed.
    """
    unfinished = _unfinished(file)
    try:
        yield unfinished
        os.replace(unfinished, file)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def working_folder(folder: Path) -> Iterator[Path]:
    """Make a hidden folder inside a folder, and remove it after the block with all that it holds.

    Each call makes a different one. It remains only if the process is killed.
    """
    working = _unfinished(folder / "arrays")
    working.mkdir(parents=True)
    try:
        yield working
    finally:
        shutil.rmtree(working, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes of this machine left unfinished; other machines may still write theirs."""
    for path in folder.glob(f"{UNFINISHED}{_machine()}_*"):
        process = path.name.removeprefix(f"{UNFINISHED}{_machine()}_").split("_")[0]
        if process.isdigit() and not _is_running(int(process)):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def _unfinished(file: Path) -> Path:
    """Return a hidden path next to a file. No other call returns it, and `remove_leftovers` knows it."""
    return file.with_name(f"{UNFINISHED}{_machine()}_{os.getpid()}_{secrets.token_hex(4)}_{file.name}")


def _is_running(process: int) -> bool:
    if os.name != "posix":  # only POSIX has a signal that does nothing but check
        return True
    try:
        os.kill(process, 0)
    except OSError as error:
        return not isinstance(error, ProcessLookupError)  # the process may belong to another user
    return True


def _machine() -> str:
    """Return a short name of this machine, because processes of other machines may have the same numbers."""
    return f"{zlib.crc32(platform.node().encode()):08x}"


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder inside a folder, and move its contents up if the block succeeds.

    Raises:
        SettingsError: the folder is not empty, or is a file.
    """
    unfinished, made = folder / ".unfinished", [path for path in (folder, *folder.parents) if not path.exists()]
    if not unfinished.exists() and not made and (not folder.is_dir() or any(folder.iterdir())):
        raise SettingsError(f"{folder} already exists and is not an empty folder. Remove it, or choose another one.")
    try:
        unfinished.mkdir(parents=True)
    except FileExistsError as error:
        raise SettingsError(
            f"{unfinished} exists: another run is writing to it, or was killed. If no run is writing, remove it. "
            "Otherwise choose another folder."
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
