"""Calls in worker processes: when these start, what comes back, and what is left of them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from facts import facts
from nnunet_moe.errors import SettingsError
from nnunet_moe.runtime import processes, worker_settings
from nnunet_moe.runtime.processes import WorkError, Workers, in_advance
from nnunet_moe.runtime.worker_settings import WorkerSettings

pytestmark = pytest.mark.short_processes


def test_calls_that_are_not_worth_a_process_run_in_the_calling_one():
    with Workers(2, at_once=False) as workers:
        assert workers.submit(os.getpid, ahead=10**6).result() == os.getpid()  # nothing is known about their time yet
        assert workers.submit(os.getpid, ahead=0).result() == os.getpid()
        assert workers.in_advance == 0


def test_processes_start_when_the_calls_that_are_left_take_longer_and_work_when_they_are_ready(monkeypatch):
    monkeypatch.setattr(processes, "WORTH_SECONDS", 1.0)
    with Workers(2, at_once=False) as workers:
        workers.submit(time.sleep, 0.02, ahead=1000)
        assert workers.submit(os.getpid, ahead=100).result() == os.getpid(), "the processes are not ready"
        end = time.monotonic() + 60
        while not workers.in_advance and time.monotonic() < end:
            time.sleep(0.01)
        assert workers.in_advance == 2
        assert workers.submit(os.getpid, ahead=0).result() != os.getpid()


def test_where_no_process_can_start_the_calling_one_does_all_unless_the_user_wants_processes(monkeypatch):
    def fail(*_, **__):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(processes, "ProcessPoolExecutor", fail)
    monkeypatch.setattr(processes, "WORTH_SECONDS", 0.0)
    with Workers(2, at_once=False) as workers:
        for _ in range(3):
            assert workers.submit(os.getpid, ahead=100).result() == os.getpid()
    with pytest.raises(SettingsError, match=facts("Function not implemented", "-npp 0 -nps 0")):
        Workers(2)


@pytest.mark.parametrize("num_processes", [0, 1])
def test_errors_say_the_same_in_any_process(num_processes):
    with Workers(num_processes) as workers:
        with pytest.raises(WorkError) as caught:
            workers.submit(os.listdir, "nowhere").result()
        assert str(caught.value).startswith("FileNotFoundError: [Errno 2] No such file or directory: 'nowhere' (")
        assert workers.submit(abs, -2).result() == 2


def test_a_process_that_is_killed_is_the_error_of_its_call_only():
    with Workers(1) as workers:
        before = workers.submit(abs, -1)
        killed = workers.submit(signal.raise_signal, signal.SIGKILL)
        after = workers.submit(abs, -3)
        assert before.result() == 1
        with pytest.raises(SettingsError, match=facts("killed", "memory")):
            killed.result()
        assert after.result() == 3
        assert workers.submit(abs, -4).result() == 4


@pytest.mark.parametrize("num_processes", [0, 2])
def test_few_calls_are_made_in_advance_and_all_in_order(num_processes):
    submitted, yielded = [], []
    with Workers(num_processes) as workers:

        def submit(task, ahead):
            submitted.append((task, ahead))
            return workers.submit(abs, -task)

        for call in in_advance(range(8), submit, workers):
            yielded.append(call.result())
            assert len(submitted) - len(yielded) <= num_processes
    assert yielded == list(range(8)) and submitted == [(task, 7 - task) for task in range(8)]


def parent(code: str) -> tuple[subprocess.Popen, int]:
    """A process whose worker works for a minute, in a group of its own; and the number of the worker."""
    script = f"""
import os, signal, sys, time
from nnunet_moe.runtime.processes import Workers
if __name__ == "__main__":
    with Workers(1) as workers:
        print(workers.submit(os.getpid).result(), flush=True)
        call = workers.submit(time.sleep, 60)
        {code}
"""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    started = subprocess.Popen([sys.executable, "-c", script], start_new_session=True, **pipes)
    assert started.stdout is not None
    return started, int(started.stdout.readline())


def is_running(process: int) -> bool:
    """Whether a process runs; one that ended and was not waited for does not."""
    stat = Path(f"/proc/{process}/stat")
    try:
        return stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.parametrize(("sent", "to_all"), [(signal.SIGKILL, False), (signal.SIGTERM, False), (signal.SIGINT, True)])
def test_no_worker_outlives_a_command_that_is_killed_or_interrupted(sent, to_all):
    """Ctrl-C reaches all processes of a terminal, other signals only the command."""
    command, worker = parent("call.result()")
    assert is_running(worker)
    (os.killpg if to_all else os.kill)(command.pid, sent)
    output = command.communicate(timeout=30)[1]
    end = time.monotonic() + 30
    while is_running(worker) and time.monotonic() < end:
        time.sleep(0.01)
    assert not is_running(worker)
    assert command.returncode != 0 and output.count("Traceback") == output.count("KeyboardInterrupt") == to_all


@pytest.mark.parametrize(
    ("variable", "given", "cores", "device", "expected"),
    [
        (None, None, 8, "cuda", (3, False, False)),
        (None, None, 2, "cuda", (2, False, False)),
        ("5", None, 8, "cpu", (0, False, True)),  # the network needs the cores
        (None, None, 1, "cuda", (1, False, False)),
        ("5", None, 8, "cuda", (5, False, False)),
        ("0", None, 8, "cuda", (0, False, False)),
        ("5", 2, 1, "cpu", (2, True, True)),
        ("5", 0, 8, "cuda", (0, True, False)),
    ],
)
def test_the_users_number_wins_over_the_variable_and_the_cores(monkeypatch, variable, given, cores, device, expected):
    made = []
    monkeypatch.setattr(worker_settings, "usable_cores", lambda: cores)
    monkeypatch.setattr(
        worker_settings,
        "Workers",
        lambda number, *, at_once=True, in_background: made.append((number, at_once, in_background)),
    )
    for name in ("nnUNet_npp", "nnUNet_nps"):
        if variable is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, variable)
    settings = WorkerSettings(preparing=given, finishing=given)
    settings.workers("preparing", device)
    settings.workers("finishing", device)
    assert made == [expected, expected]


def test_numbers_of_processes_that_make_no_sense_are_refused(monkeypatch):
    with pytest.raises(SettingsError, match=facts("-nps is -1", 0)):
        WorkerSettings(finishing=-1)
    for wrong in ("many", "-1", "1.5"):
        monkeypatch.setenv("nnUNet_npp", wrong)
        with pytest.raises(SettingsError, match=facts("nnUNet_npp", wrong)):
            WorkerSettings()
