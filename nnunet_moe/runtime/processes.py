"""Process many cases in several processes, so that an error in one case does not stop the others."""

import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any, Generic, TypeVar

from tqdm import tqdm

from nnunet_moe.errors import NnunetMoeError, SettingsError

Result = TypeVar("Result")
Task = TypeVar("Task")
Submitted = TypeVar("Submitted")

WORTH_SECONDS = 20.0
"""Processes start if they save the calling process more than this. To start them takes 5 s of a core, once."""

LOW_PRIORITY = 5
"""With it, a process gets a quarter of a core that another one wants. With less it would starve on a busy machine."""


class WorkError(Exception):
    """An error in a call, as text, because not every exception can be sent from one process to another."""


@dataclass(frozen=True)
class Call(Generic[Result]):
    """A call that was submitted to a process."""

    future: "Future[Result]"
    again: Callable[[], Result]
    """Repeats the call in a separate process."""

    def done(self) -> bool:
        return self.future.done()

    def result(self) -> Result:
        """Wait for the call.

        Raises:
            NnunetMoeError: the call raised it, or its process was killed twice, the second time in a separate process.
            WorkError: the call raised any other exception.
        """
        try:
            return self.future.result()
        except BrokenProcessPool:  # any of the running calls may have caused it
            return self.again()


class Workers:
    """Worker processes for calls with small arguments; results may be large.

    Args:
        num_processes: at most this many. With 0, calls run immediately in the calling process. Use it in containers
            without shared memory.
        at_once: start the processes with the first call. Otherwise calls run in the calling process, until those that
            are left would take it more than `WORTH_SECONDS` and the processes are ready.
        in_background: give the processes a low priority, because the calling process computes on all cores. With the
            same priority, each of its threads would wait for one that shares its core with a worker.

    Raises:
        SettingsError: `at_once`, and this machine cannot start worker processes.
    """

    def __init__(self, num_processes: int, *, at_once: bool = True, in_background: bool = False) -> None:
        self._num_processes, self._in_background = num_processes, in_background
        self._pool = _pool(num_processes, in_background) if num_processes and at_once else None
        self._start: Future[None] | None = None
        """A call that does nothing, which is done when the processes of a pool that starts later are ready."""
        self._seconds = 0.0
        """The time of the last call in the calling process."""

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    @property
    def in_advance(self) -> int:
        """The number of calls that it makes sense to submit before their results are needed."""
        return self._num_processes if self._works else 0

    @property
    def _works(self) -> bool:
        return self._pool is not None and (self._start is None or self._start.done())

    def submit(self, function: Callable[..., Result], *arguments: Any, ahead: int = 0) -> Call[Result]:
        """Submit a call.

        Args:
            function: a function at the top level of a module, so that other processes find it.
            arguments: its arguments.
            ahead: the number of such calls that will follow.
        """

        def again() -> Result:
            with _pool(1, self._in_background) as pool:
                try:
                    return pool.submit(_call, function, *arguments).result()
                except BrokenProcessPool as error:
                    raise SettingsError(
                        "The worker process was killed, most likely because memory ran out. Use fewer processes, or a "
                        "machine with more memory."
                    ) from error

        _preload(function)
        if self._pool is None and self._num_processes and self._seconds * ahead > WORTH_SECONDS:
            self._begin()
        if self._pool is None or not self._works:
            start = time.perf_counter()
            call = Call(_done(function, arguments), again)
            self._seconds = time.perf_counter() - start
            return call
        try:
            return Call(self._pool.submit(_call, function, *arguments), again)
        except BrokenProcessPool:
            self._pool = _pool(self._num_processes, self._in_background)
            return Call(self._pool.submit(_call, function, *arguments), again)

    def _begin(self) -> None:
        """Start the processes. Where that is impossible, all calls run in the calling process."""
        try:
            self._pool = _pool(self._num_processes, self._in_background)
            self._start = self._pool.submit(_nothing)
        except (SettingsError, OSError):
            self._pool, self._num_processes = None, 0


def in_advance(
    tasks: Sequence[Task], submit: Callable[[Task, int], Submitted], workers: Workers
) -> Iterator[Submitted]:
    """Submit a call for each task, and yield it. If processes work, they make the next calls in the meantime.

    Args:
        tasks: what the calls are about.
        submit: submits the call for a task to the workers. It gets the task and the number of those that follow.
        workers: the processes.

    Yields:
        What `submit` returned, in the order of the tasks.
    """
    waiting: deque[Submitted] = deque()
    for number, task in enumerate(tasks, 1):
        while len(waiting) > workers.in_advance:
            yield waiting.popleft()
        waiting.append(submit(task, len(tasks) - number))
    yield from waiting


def map_cases(
    function: Callable[..., Result],
    tasks: Sequence[tuple[Any, ...]],
    num_processes: int,
    *,
    description: str,
    show_progress: bool = True,
    any_error: bool = False,
) -> list[Result | NnunetMoeError | WorkError]:
    """Call a function once per task.

    Args:
        function: a function at the top level of a module, so that other processes find it.
        tasks: the arguments of each call.
        num_processes: below 2, only the calling process works.
        description: text of the progress bar.
        any_error: whether to return unexpected errors, too, so that these do not stop the other calls.

    Returns:
        One entry per task, in their order: the result, or the user's error that the call raised.

    Raises:
        WorkError: a call raised an unexpected error, and `any_error` is false.
    """
    caught = (NnunetMoeError, WorkError) if any_error else (NnunetMoeError,)
    results: list[Result | NnunetMoeError | WorkError] = []
    with (
        Workers(min(num_processes, len(tasks)) if num_processes > 1 else 0) as workers,
        tqdm(desc=description, total=len(tasks), disable=not show_progress) as progress,
    ):
        calls = (workers.submit(function, *task) for task in tasks)
        for call in list(calls) if num_processes > 1 else calls:
            try:
                results.append(call.result())
            except caught as error:
                results.append(error)
            progress.update()
    return results


def _pool(num_processes: int, in_background: bool = False) -> ProcessPoolExecutor:
    try:
        return ProcessPoolExecutor(
            num_processes, mp_context=_CONTEXT, initializer=_begin_worker, initargs=(in_background,)
        )
    except (OSError, NotImplementedError, ImportError) as error:  # in containers without semaphores
        raise SettingsError(f"Cannot start worker processes here: {error}. Run without them: -npp 0 -nps 0.") from error


# The import of torch takes each new process seconds. On Linux, one process imports it and then forks all others, before
# anything runs in it. On macOS such a fork is not safe, as Python's documentation says.
_CONTEXT = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")


def _preload(function: Callable[..., Any]) -> None:
    """Let the process from which the workers are forked import the module of a function."""
    if sys.platform == "linux":
        _CONTEXT.set_forkserver_preload([function.__module__])


def _nothing() -> None:
    """Do nothing. When a worker has done it, it is ready."""


def _call(function: Callable[..., Result], *arguments: Any) -> Result:
    try:
        return function(*arguments)
    except NnunetMoeError:
        raise
    except Exception as error:
        raise WorkError(where_and_why(error)) from error


def where_and_why(error: Exception) -> str:
    """Describe an unexpected error in one line, with the place in the code."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({Path(place.filename).name}:{place.lineno})"


def _begin_worker(in_background: bool) -> None:
    """Prepare a worker process. Ctrl-C ends it without a traceback, because the command prints what matters."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if in_background and hasattr(os, "nice"):
        os.nice(LOW_PRIORITY)
    _end_with_parent()


def _end_with_parent() -> None:
    """Make a worker end with the process that started it, which may be killed without notice."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    Thread(target=wait, daemon=True).start()


def _done(function: Callable[..., Result], arguments: tuple[Any, ...]) -> "Future[Result]":
    future: Future[Result] = Future()
    try:
        future.set_result(_call(function, *arguments))
    except Exception as error:  # kept for the caller, as in an executor's future
        future.set_exception(error)
    return future
