"""The share of a command's time in which the network runs."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class NetworkTime:
    """Measure it from now on."""

    def __init__(self) -> None:
        self._start, self._seconds = time.perf_counter(), 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count the time inside the block."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds += time.perf_counter() - start

    def sentence(self) -> str:
        """Return the share until now in plain words."""
        total = time.perf_counter() - self._start
        return f"The network ran for {self._seconds:.0f} of {total:.0f} s ({self._seconds / total:.0%})."
