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


@pytest.mark.parametrize(
    ("line", "top", "names"),
    [
        ("0::{}", "", ("memory.max", "memory.current", "memory.stat", "inactive_file")),
        (
            "4:cpu,memory:{}",
            "memory",
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat", "total_inactive_file"),
        ),
    ],
)
@pytest.mark.parametrize("limited", ["", "slurm", "slurm/job_7", "slurm/job_7/step:0"])
def test_of_the_group_of_a_job_and_all_groups_around_it(machine, line, top, names, limited):
    path = "/slurm/job_7/step:0"
    put(machine, "proc/self/cgroup", f"9:pids:/elsewhere\n1:name=systemd:/a/b\n{line.format(path)}")

    def limit(group: str, mib: int) -> None:
        folder = Path("sys/fs/cgroup", top, group)
        for name, content in zip(names[:3], (mib * MIB, 10 * MIB, f"{names[3]} {2 * MIB}"), strict=True):
            put(machine, str(folder / name), content)

    for group in ("elsewhere", "slurm/job_8", "slurm/job_7/step:0/task"):  # do not hold this process
        limit(group, 11)
    assert available_bytes(machine) == 48 * MIB
    for group in ("", "slurm", "slurm/job_7", "slurm/job_7/step:0"):
        limit(group, 40)
    assert available_bytes(machine) == (40 - 10 + 2) * MIB
    limit(limited, 16)
    assert available_bytes(machine) == (16 - 10 + 2) * MIB


@pytest.mark.parametrize("group", ["0::/docker/of/the/host", "0::/../../other", "nonsense", ""])
def test_of_a_container_that_does_not_see_its_group_the_top_counts(machine, group):
    put(machine, "proc/self/cgroup", group)
    put(machine, "sys/fs/cgroup/memory.max", 16 * MIB)
    put(machine, "sys/fs/cgroup/memory.current", 10 * MIB)
    put(machine, "sys/fs/cgroup/memory.stat", "inactive_file 0")
    put(machine, "sys/fs/other/memory.max", 0)
    assert available_bytes(machine) == 6 * MIB


def test_of_a_system_that_does_not_say_it(tmp_path):
    assert available_bytes(tmp_path) is None
    put(tmp_path, "proc/meminfo", "MemTotal: many")
    assert available_bytes(tmp_path) is None
