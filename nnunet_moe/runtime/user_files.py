"""Whose fault an `OSError` is: that of a file or folder of the user, or of this package."""

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from nnunet_moe.errors import FileError

_OF_THE_MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""A full or read-only disk, which is reported without a file when a write fails."""
_NNUNET_FOLDERS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")


@contextmanager
def user_files(paths: Iterable[Path]) -> Iterator[None]:
    """Turn an `OSError` that the user can mend into an error of the hierarchy, and let any other one pass.

    The user can mend an error that names a path which they gave, a path below it, or one below nnU-Net's folders. They
    can also mend a full or read-only disk.

    Args:
        paths: what the user gave.

    Raises:
        FileError: such an error; it names the file.
    """
    given = [*paths, *(Path(folder) for name in _NNUNET_FOLDERS if (folder := os.environ.get(name)))]
    try:
        yield
    except OSError as error:
        named = [Path(os.fsdecode(name)) for name in (error.filename, error.filename2) if _is_path(name)]
        theirs = next((path for path in named if any(map(lambda folder: _is_within(path, folder), given))), None)
        if theirs is None and error.errno not in _OF_THE_MACHINE:
            raise
        raise FileError(_message(error, theirs or next(iter(named), None))) from error


def _message(error: OSError, path: Path | None) -> str:
    what = error.strerror or type(error).__name__
    if error.errno in _OF_THE_MACHINE:
        remedy = "Make room there, or name another folder."
    elif isinstance(error, PermissionError):
        remedy = "Change its permissions, or name another one."
    else:
        remedy = "Check the path and what is there."
    return f"{what}. {remedy}" if path is None else f"{path}: {what}. {remedy}"


def _is_path(name: object) -> bool:
    return isinstance(name, (str, bytes, os.PathLike))


def _is_within(path: Path, folder: Path) -> bool:
    """Whether a path is a given one, below it, or above it, where a folder on the way to it is at fault."""
    path, folder = (Path(os.path.abspath(each)) for each in (path, folder))
    return path == folder or folder in path.parents or path in folder.parents
