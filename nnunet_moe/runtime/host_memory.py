"""How much memory of this machine is free for more processes."""

from pathlib import Path


def available_bytes(root: Path = Path("/")) -> int | None:
    """Return the memory that processes can still use, in bytes; None if the system does not say it.

    In a container or a cluster's job, its limit counts if less is left of it than of the machine. Linux only.

    Args:
        root: the root of the file system, which contains `proc` and `sys`.
    """
    found = [_of_machine(root / "proc/meminfo"), *map(_of_group, _groups(root / "sys/fs/cgroup"))]
    return min((number for number in found if number is not None), default=None)


def _of_machine(file: Path) -> int | None:
    try:
        lines = dict(line.split(":", 1) for line in file.read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, ValueError, KeyError, IndexError):
        return None


def _groups(folder: Path) -> list[tuple[Path, Path, Path]]:
    """Return the files with the limit, the usage and the statistics of a control group, in its two versions."""
    first = folder / "memory"
    return [
        (folder / "memory.max", folder / "memory.current", folder / "memory.stat"),
        (first / "memory.limit_in_bytes", first / "memory.usage_in_bytes", first / "memory.stat"),
    ]


def _of_group(files: tuple[Path, Path, Path]) -> int | None:
    """Return what is left of a limit. Files in the cache count as used, but the system frees them when it must."""
    try:
        limit, used = (int(file.read_text()) for file in files[:2])
        statistics = dict(line.split() for line in files[2].read_text().splitlines())
        return max(0, limit - used + int(statistics.get("total_inactive_file", statistics.get("inactive_file", 0))))
    except (OSError, ValueError):
        return None
