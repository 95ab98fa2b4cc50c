"""Remember the contents of files and folders, and find out later whether they are still the same."""

import hashlib
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nnunet_moe.errors import FileError
from nnunet_moe.runtime.files import digest, visible

_RECENT_NS = 2_000_000_000
"""A file may change twice within one tick of a file system's clock, which is at most 2 s long."""


@dataclass(frozen=True)
class FileState:
    """What identifies the contents of a file, or of the visible files directly in a folder.

    The digest decides. To remember a file, it is always computed, which reads the whole file. To compare a file, it is
    computed only if the size is the same and a time differs. A copy that keeps its times (`rsync -a`, `unzip`) may have
    any time of modification, also an older one or the same one. But no tool can set the time of change: the system
    sets it whenever it writes, replaces, renames or links a file. A folder has the latest times of its files.
    """

    size: int
    """In bytes."""
    mtime_ns: int
    """The time of modification in nanoseconds since 1970, or 0 if the file was too new to rely on it."""
    ctime_ns: int
    """The same for the time of change."""
    sha256: str
    """The digest as hexadecimal digits."""

    @classmethod
    def of(cls, file: Path) -> "FileState":
        """Return the state of a file. Call this before reading the file for its contents.

        Links are followed, so the state is that of the target.

        Raises:
            OSError: the file, or one in the folder, cannot be read.
        """
        now, (size, *times) = time.time_ns(), _found(file)
        is_old = max(times) < now - _RECENT_NS
        mtime, ctime = times if is_old else (0, 0)
        return cls(size, mtime, ctime, _digest(file))

    def is_of(self, file: Path) -> bool:
        """Return whether a file still has these contents; False if it does not exist.

        Raises:
            OSError: the file exists, but cannot be read.
        """
        try:
            size, *times = _found(file)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return size == self.size and (times == [self.mtime_ns, self.ctime_ns] or _digest(file) == self.sha256)

    def as_json(self) -> dict[str, Any]:
        """Return the state as an object for a JSON file."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Any, file: Path) -> "FileState":
        """Read what `as_json` returned. Further keys are ignored.

        Args:
            content: the object.
            file: the JSON file, for the message.

        Raises:
            FileError: the content is something else.
        """
        kinds: dict[str, type] = {"size": int, "mtime_ns": int, "ctime_ns": int, "sha256": str}
        if not isinstance(content, Mapping) or any(type(content.get(key)) is not kinds[key] for key in kinds):
            raise FileError(
                f"{file} holds {content!r} where the state of a file is expected. Restore it, or rerun the command "
                "that wrote it."
            )
        return cls(**{key: content[key] for key in kinds})


def _files(folder: Path) -> list[Path]:
    return [path for path in visible(folder) if path.is_file()]


def _found(path: Path) -> tuple[int, int, int]:
    """Return size, time of modification and time of change of a file; of a folder, the sum and the latest times."""
    stats = [file.stat() for file in (_files(path) if path.is_dir() else [path])]
    mtime, ctime = (max((getattr(stat, name) for stat in stats), default=0) for name in ("st_mtime_ns", "st_ctime_ns"))
    return sum(stat.st_size for stat in stats), mtime, ctime


def _digest(path: Path) -> str:
    """Return the digest of a file; of a folder, that of the list of its files with their digests."""
    if not path.is_dir():
        return digest(path)
    lines = [f"{digest(file)} {file.name}\n" for file in _files(path)]
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
