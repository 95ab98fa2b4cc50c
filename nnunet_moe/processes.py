"""Work on many cases in several processes, in which the fault of one is not the end of the others."""

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from tqdm import tqdm

from nnunet_moe.errors import NnunetMoeError, SettingsError

Result = TypeVar("Result")


def on_all(
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
        num_processes: below 2 for the calling process itself, as in containers without shared memory.
        description: stands beside the progress bar.

    Returns:
        What the calls gave, in the tasks' order: a result, or the user's error that it raised.

    Raises:
        SettingsError: a process was killed, usually for want of memory.
    """
    progress = {"desc": description, "total": len(tasks), "disable": not show_progress}
    if num_processes < 2:
        return [_result_or_error(function, task) for task in tqdm(tasks, **progress)]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(num_processes, len(tasks)), mp_context=context) as pool:
        futures = [pool.submit(_result_or_error, function, task) for task in tasks]
        try:
            return [future.result() for future in tqdm(futures, **progress)]
        except BrokenProcessPool as error:
            raise SettingsError(
                f"{description}: one of {num_processes} processes was killed, most likely for want of memory. Use "
                "fewer."
            ) from error


def _result_or_error(function: Callable[..., Result], task: tuple[Any, ...]) -> Result | NnunetMoeError:
    try:
        return function(*task)
    except NnunetMoeError as error:
        return error
