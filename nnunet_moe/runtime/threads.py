"""The CPU cores that this process may use, and torch's threads on them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

VARIABLE = "OMP_NUM_THREADS"
"""The variable by which users limit the threads of numerical libraries."""


def wanted_threads() -> int | None:
    """Return the number of threads that the user set by `OMP_NUM_THREADS`, at least 1; None if it is not set."""
    given = os.environ.get(VARIABLE, "").split(",")[0]  # "4,2" is 4 threads, each with 2 in nested regions
    return max(1, int(given)) if given.isdecimal() else None


def usable_cores() -> int:
    """Return how many cores this process may use, at least 1.

    It is the smallest of three numbers: the cores of its affinity mask (`taskset`, SLURM), its share of processor time
    in a container (the cgroup's quota, rounded up), and `OMP_NUM_THREADS`.
    """
    from joblib import cpu_count  # knows affinity masks and both versions of cgroups

    return min(cpu_count(), wanted_threads() or cpu_count())


@contextmanager
def cpu_threads(device: "torch.device") -> Iterator[None]:
    """Let torch use `usable_cores` threads inside the block, or a single one if a CUDA device computes.

    nnU-Net's commands take one thread for each core of the machine, even if the process may use only a few of them.
    Threads that share a core wait for each other at each operation.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1 if device.type == "cuda" else usable_cores())
    try:
        yield
    finally:
        torch.set_num_threads(before)
