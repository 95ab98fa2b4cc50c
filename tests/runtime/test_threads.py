import os
import subprocess
import sys

import joblib
import pytest
import torch

from nnunet_moe.runtime.threads import cpu_threads, usable_cores


@pytest.mark.parametrize(
    ("given", "cores", "expected"),
    [(None, 8, 8), ("3", 8, 3), ("16", 8, 8), ("2,4", 8, 2), ("", 8, 8), ("many", 8, 8), ("0", 8, 1)],
)
def test_the_users_variable_limits_the_cores_that_the_system_gives(monkeypatch, given, cores, expected):
    monkeypatch.setattr(joblib, "cpu_count", lambda: cores)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert usable_cores() == expected


@pytest.mark.short_processes
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity masks")
def test_a_process_that_is_bound_to_one_core_has_one():
    script = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); os.environ.pop('OMP_NUM_THREADS', None); "
        "from nnunet_moe.runtime.threads import usable_cores; print(usable_cores())"
    )
    assert subprocess.check_output([sys.executable, "-c", script], text=True) == "1\n"


def test_threads_hold_inside_the_block_only_and_after_an_error(monkeypatch):
    monkeypatch.setattr(joblib, "cpu_count", lambda: 3)
    monkeypatch.delenv("OMP_NUM_THREADS")
    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError), cpu_threads(torch.device("cpu")):
        assert torch.get_num_threads() == 3
        raise ZeroDivisionError
    with cpu_threads(torch.device("cuda")):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before
