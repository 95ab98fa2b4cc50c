"""Work on many cases in several processes, in which the fault of one is not the end of the others."""

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
    """What went wrong in a call, in words: not every exception finds its way from one process to another."""


@dataclass(frozen=True)
class Call(Generic[Result]):
    """A call that was handed over."""

    future: "Future[Result]"
    again: Callable[[], Result]
    """Makes the call in a process of its own."""

    def done(self) -> bool:
        return self.future.done()

    def result(self) -> Result:
        """Wait for the call.

        Raises:
            NnunetMoeError: what the call raised; or its process was killed, and so was the one of its own in which it
                was tried again.
            WorkError: the call raised anything else.
        """
        try:
            return self.future.result()
        except BrokenProcessPool:  # whichever of the calls under way it was
            return self.again()


class Workers:
    """Processes to hand calls to. Arguments should be small, results may be large.

    Args:
        num_processes: 0 for none: calls are made at once, in the calling process, and nothing is shared with others,
            as in containers without shared memory.

    Raises:
        SettingsError: there can be no other processes here.
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
        """Hand a call over; the function must be one of a module, so that other processes find it."""

        def again() -> Result:
            with _pool(1) as pool:
                try:
                    return pool.submit(_call, function, *arguments).result()
                except BrokenProcessPool as error:
                    raise SettingsError(
                        "The process at work on it was killed, most likely for want of memory. Use fewer processes, "
                        "or a machine with more."
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
    """Call a function once a task.

    Args:
        function: of a module, so that other processes find it.
        tasks: its arguments.
        num_processes: below 2 for the calling process alone.
        description: stands beside the progress bar.

    Returns:
        What the calls gave, in the tasks' order: a result, or the user's error that it raised.
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
        raise SettingsError(f"No processes can be had here ({error}). Do without: -npp 0 -nps 0.") from error


def _call(function: Callable[..., Result], *arguments: Any) -> Result:
    try:
        return function(*arguments)
    except NnunetMoeError:
        raise
    except Exception as error:
        raise WorkError(f"{type(error).__name__}: {error}") from error


def _end_with_parent() -> None:
    """In a worker: do not outlive the process that started it, which may be killed without a chance to say so."""
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
    except Exception as error:  # as an executor's future keeps it for the one who asks
        future.set_exception(error)
    return future
