"""How much memory of this machine is free for more processes."""

import os
from pathlib import Path


def available_bytes(root: Path = Path("/")) -> int | None:
    """Return the memory that processes can still use, in bytes; None if the system does not say it.

    In a container or a cluster's job, its limit counts if less is left of it than of the machine. So do the limits of
    all groups around it, such as the one of the user or of the whole job. Linux only.

    Args:
        root: the root of the file system, which contains `proc` and `sys`.
    """
    found = [_of_machine(root / "proc/meminfo"), *map(_of_group, _groups(root))]
    return min((number for number in found if number is not None), default=None)


def _of_machine(file: Path) -> int | None:
    try:
        lines = dict(line.split(":", 1) for line in file.read_text(encoding="utf-8").splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, ValueError, KeyError, IndexError):
        return None


def _groups(root: Path) -> list[tuple[Path, Path, Path]]:
    """Return the files with the limit, the usage and the statistics of all control groups that limit this process.

    These are its own group and all parents, in both versions of control groups. In a container, the path of the group
    may be the one outside of it; then only the group at the top is found, which is the container's.
    """
    mounted = root / "sys/fs/cgroup"
    paths = _group_paths(root / "proc/self/cgroup")
    second = ("memory.max", "memory.current", "memory.stat")
    first = ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat")
    return [
        (group / limit, group / usage, group / statistics)
        for top, path, (limit, usage, statistics) in (
            (mounted, paths.get("", ""), second),
            (mounted / "memory", paths.get("memory", ""), first),
        )
        for group in _with_parents(top, path)
    ]


def _group_paths(file: Path) -> dict[str, str]:
    """Return controller -> path of the process's group; version 2 has one group for all, whose name is empty."""
    try:
        lines = [line.split(":", 2) for line in os.fsdecode(file.read_bytes()).splitlines()]
    except OSError:
        return {}
    return {name: line[2] for line in lines if len(line) == 3 for name in line[1].split(",")}


def _with_parents(top: Path, path: str) -> list[Path]:
    """Return the folders of a group and of all its parents; only the top for a group outside of it (`..`)."""
    parts = [part for part in path.split("/") if part]
    if ".." in parts:
        parts = []
    return [top.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1)]


def _of_group(files: tuple[Path, Path, Path]) -> int | None:
    """Return what is left of a limit. Files in the cache count as used, but the system frees them when it must."""
    try:
        limit, used = (int(file.read_text(encoding="utf-8")) for file in files[:2])
        statistics = dict(line.split() for line in files[2].read_text(encoding="utf-8").splitlines())
        return max(0, limit - used + int(statistics.get("total_inactive_file", statistics.get("inactive_file", 0))))
    except (OSError, ValueError):
        return None
