"""Process many cases in several processes, so that an error in one case does not stop the others."""

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from threading import Thread
from typing import Any, Generic, TypeVar

from tqdm import tqdm

from nnunet_moe.errors import NnunetMoeError, SettingsError

Result = TypeVar("Result")


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
        num_processes: with 0, calls run immediately in the calling process. Use it in containers without shared memory.

    Raises:
        SettingsError: this machine cannot start worker processes.
    """

    def __init__(self, num_processes: int) -> None:
        self._num_processes = num_processes
        self._pool = _pool(num_processes) if num_processes else None

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def submit(self, function: Callable[..., Result], *arguments: Any) -> Call[Result]:
        """Submit a call; the function must be at the top level of a module, so that other processes find it."""

        def again() -> Result:
            with _pool(1) as pool:
                try:
                    return pool.submit(_call, function, *arguments).result()
                except BrokenProcessPool as error:
                    raise SettingsError(
                        "The worker process was killed, most likely because memory ran out. Use fewer processes, or a "
                        "machine with more memory."
                    ) from error

        if self._pool is None:
            return Call(_done(function, arguments), again)
        try:
            return Call(self._pool.submit(_call, function, *arguments), again)
        except BrokenProcessPool:
            self._pool = _pool(self._num_processes)
            return Call(self._pool.submit(_call, function, *arguments), again)


def map_cases(
    function: Callable[..., Result],
    tasks: Sequence[tuple[Any, ...]],
    num_processes: int,
    *,
    description: str,
    show_progress: bool = True,
) -> list[Result | NnunetMoeError]:
    """Call a function once per task.

    Args:
        function: a function at the top level of a module, so that other processes find it.
        tasks: the arguments of each call.
        num_processes: below 2, only the calling process works.
        description: text of the progress bar.

    Returns:
        One entry per task, in their order: the result, or the user's error that the call raised.
    """
    results: list[Result | NnunetMoeError] = []
    with (
        Workers(min(num_processes, len(tasks)) if num_processes > 1 else 0) as workers,
        tqdm(desc=description, total=len(tasks), disable=not show_progress) as progress,
    ):
        calls = (workers.submit(function, *task) for task in tasks)
        for call in list(calls) if num_processes > 1 else calls:
            try:
                results.append(call.result())
            except NnunetMoeError as error:
                results.append(error)
            progress.update()
    return results


def _pool(num_processes: int) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")
    try:
        return ProcessPoolExecutor(num_processes, mp_context=context, initializer=_end_with_parent)
    except (OSError, NotImplementedError, ImportError) as error:  # in containers without semaphores
        raise SettingsError(f"Cannot start worker processes here: {error}. Run without them: -npp 0 -nps 0.") from error


def _call(function: Callable[..., Result], *arguments: Any) -> Result:
    try:
        return function(*arguments)
    except NnunetMoeError:
        raise
    except Exception as error:
        raise WorkError(f"{type(error).__name__}: {error}") from error


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
