"""Locks on files, so that two processes do not do the same work at the same time.

The system frees a lock when its process ends, also if the process is killed. This module imports little, because each
job of a study starts with it.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def hold(file: Path) -> int | None:
    """Lock a file for this process and its child processes.

    Returns:
        The open file; None if another process holds the lock.

    Raises:
        OSError: the file cannot be opened.
    """
    import fcntl  # only on POSIX systems, while other parts of a study also run elsewhere

    file.parent.mkdir(parents=True, exist_ok=True)
    opened = os.open(file, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(opened)
        return None
    except OSError:  # the file system has no locks, so nobody holds one
        pass
    os.set_inheritable(opened, True)
    return opened


@contextmanager
def held_alone(file: Path) -> Iterator[bool]:
    """Lock a file for this process inside the block, but not for its child processes.

    So a killed process leaves no lock behind, even if its workers still run. Systems other than POSIX have no such
    locks.

    Yields:
        Whether no other process holds the lock.
    """
    if os.name != "posix":
        yield True
        return
    opened = hold(file)
    if opened is None:
        yield False
        return
    os.set_inheritable(opened, False)
    own = [opened]  # a forked child process closes its copy, which frees nothing
    os.register_at_fork(after_in_child=lambda: [os.close(own.pop()) for _ in own[:]])
    try:
        yield True
    finally:
        os.close(own.pop())
