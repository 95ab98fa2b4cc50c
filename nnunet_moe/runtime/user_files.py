"""Separate errors with the user's files and folders from errors of this package."""

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from nnunet_moe.errors import FileError

_OF_THE_MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""A full or read-only disk. When a write fails, the system reports it without a file name."""
_NNUNET_FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")


@contextmanager
def user_files(paths: Iterable[Path]) -> Iterator[None]:
    """Turn an `OSError` that the user can fix into a `FileError`, and pass on any other one.

    The user can fix an error with a path that they gave, with a path below it, or with one below nnU-Net's folders.
    They can also fix a full or read-only disk.

    Args:
        paths: the paths that the user gave.

    Raises:
        FileError: an error that the user can fix; the message names the file.
    """
    given = [*paths, *(Path(folder) for name in _NNUNET_FOLDERS if (folder := os.environ.get(name)))]
    try:
        yield
    except OSError as error:
        named = [Path(os.fsdecode(name)) for name in (error.filename, error.filename2) if _is_path(name)]
        theirs = next((path for path in named if any([_is_theirs(path, each, error) for each in given])), None)
        if theirs is None and error.errno not in _OF_THE_MACHINE:
            raise
        raise FileError(_message(error, theirs or next(iter(named), None))) from error


def _message(error: OSError, path: Path | None) -> str:
    what = error.strerror or type(error).__name__
    if error.errno in _OF_THE_MACHINE:
        remedy = "Free some space, or choose another folder."
    elif isinstance(error, PermissionError):
        remedy = "Change its permissions, or choose another path."
    else:
        remedy = "Check that the path is correct and exists."
    return f"{what}. {remedy}" if path is None else f"{path}: {what}. {remedy}"


def _is_path(name: object) -> bool:
    return isinstance(name, (str, bytes, os.PathLike))


def _is_theirs(path: Path, given: Path, error: OSError) -> bool:
    """Return whether a path is the given one or below it, or a folder above it in which it cannot be made."""
    path, given = (Path(os.path.abspath(each)) for each in (path, given))
    if path == given or given in path.parents:
        return True
    cannot_make = (PermissionError, FileExistsError, FileNotFoundError, NotADirectoryError)
    return path in given.parents and isinstance(error, cannot_make) and not os.path.lexists(given)
