"""nnU-Net's prediction by sliding window, which frees what it used where memory runs out."""

import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from queue import Queue
from typing import Any

from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from torch import Tensor


class SlidingWindowPredictor(nnUNetPredictor):
    """nnU-Net's predictor with the same results, for runs in which one case may need more memory than there is.

    On a GPU, nnU-Net first keeps the image and the logits of a case in the GPU's memory. If memory runs out, it
    predicts the case again and keeps them in the CPU's memory. In nnU-Net 2.8.1 a thread prepares the patches. This
    class adds what is missing there when an attempt fails:

    - The thread ends. Otherwise it would wait forever and keep the image in the GPU's memory, also for later cases.
    - The error keeps no activations of the network alive while the case is predicted again.
    - An error in the thread reaches the caller. Otherwise the caller would wait forever for the next patch.
    """

    _patches: "_Patches | None" = None

    def _internal_predict_sliding_window_return_logits(
        self, data: Tensor, slicers: list[tuple], do_on_device: bool = True
    ) -> Tensor:
        self._patches = patches = _Patches(slicers)
        try:
            with patches.errors_reach_the_caller():
                return super()._internal_predict_sliding_window_return_logits(data, patches, do_on_device)
        except Exception as error:
            traceback.clear_frames(error.__traceback__)
            raise
        finally:
            self._patches = None
            patches.stop()

    def _internal_maybe_mirror_and_predict(self, x: Tensor) -> Tensor:
        if self._patches is not None:
            self._patches.count_one()
        return super()._internal_maybe_mirror_and_predict(x)


class _Patches(list):
    """The places of the patches of a case, in the order in which nnU-Net's thread prepares them.

    The thread gets a place only once the network has begun with the patch before. So nnU-Net's queue is never full, and
    the thread never waits for the queue.
    """

    def __init__(self, places: list[tuple]) -> None:
        super().__init__(places)
        self._changed = threading.Condition()
        self._num_begun, self._is_stopped = 0, False
        self._thread: threading.Thread | None = None

    def __iter__(self) -> Iterator[tuple]:
        self._thread = threading.current_thread()
        for number, place in enumerate(super().__iter__()):
            if not self._is_wanted(number):
                return
            yield place

    def count_one(self) -> None:
        """Note that the network begins with the next patch."""
        with self._changed:
            self._num_begun += 1
            self._changed.notify_all()

    def stop(self) -> None:
        """End the thread."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    @contextmanager
    def errors_reach_the_caller(self) -> Iterator[None]:
        """During the block, put an error of the thread into nnU-Net's queue, where the caller waits for a patch."""
        before = threading.excepthook

        def report(failed: Any) -> None:
            if failed.thread is self._thread:
                _queue_of(failed.exc_traceback).put(_Failure(failed.exc_value))
            else:
                before(failed)

        threading.excepthook = report
        try:
            yield
        finally:
            threading.excepthook = before

    def _is_wanted(self, number: int) -> bool:
        """Wait until the network has begun with the patch before; return False if it needs no more patches."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_stopped or number <= self._num_begun)
            return not self._is_stopped


class _Failure:
    """An error in place of a patch. It is raised where nnU-Net unpacks the patch and its place."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __iter__(self) -> Iterator[Any]:
        raise self._error


def _queue_of(failed: Any) -> Queue:
    """Return the queue that the failed function of a traceback fills."""
    frames = [frame for frame, _ in traceback.walk_tb(failed)]
    return next(value for frame in frames for value in frame.f_locals.values() if isinstance(value, Queue))
