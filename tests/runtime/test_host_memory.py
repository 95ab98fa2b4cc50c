"""The available memory is what is left of the machine's or of the container's, if that is less."""

from pathlib import Path

import pytest

from nnunet_moe.runtime.host_memory import available_bytes

MIB = 1 << 20


def put(root: Path, file: str, content: object) -> None:
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_text(f"{content}\n")


@pytest.fixture
def machine(tmp_path) -> Path:
    put(tmp_path, "proc/meminfo", f"MemTotal:  {64 * 1024} kB\nMemAvailable:    {48 * 1024} kB")
    return tmp_path


def test_of_a_machine_without_limits(machine):
    assert available_bytes(machine) == 48 * MIB
    put(machine, "sys/fs/cgroup/memory.max", "max")
    assert available_bytes(machine) == 48 * MIB
    put(machine, "sys/fs/cgroup/memory/memory.limit_in_bytes", 9223372036854771712)
    put(machine, "sys/fs/cgroup/memory/memory.usage_in_bytes", 5 * MIB)
    put(machine, "sys/fs/cgroup/memory/memory.stat", "total_inactive_file 0")
    assert available_bytes(machine) == 48 * MIB


@pytest.mark.parametrize(
    ("limit", "usage", "statistics"),
    [
        ("memory.max", "memory.current", f"anon 5\ninactive_file {2 * MIB}"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", f"rss 5\ntotal_inactive_file {2 * MIB}"),
    ],
)
def test_of_a_container_with_a_limit(machine, limit, usage, statistics):
    put(machine, f"sys/fs/cgroup/{limit}", 16 * MIB)
    put(machine, f"sys/fs/cgroup/{usage}", 10 * MIB)
    put(machine, str(Path("sys/fs/cgroup", limit).with_name("memory.stat")), statistics)
    assert available_bytes(machine) == (16 - 10 + 2) * MIB
    put(machine, f"sys/fs/cgroup/{usage}", 20 * MIB)
    assert available_bytes(machine) == 0


def test_of_a_system_that_does_not_say_it(tmp_path):
    assert available_bytes(tmp_path) is None
    put(tmp_path, "proc/meminfo", "MemTotal: many")
    assert available_bytes(tmp_path) is None
