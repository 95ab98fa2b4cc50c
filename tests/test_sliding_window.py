"""Prediction by sliding window where memory runs out, with nnU-Net's own predictor on a CPU.

nnU-Net never keeps results on a device that is a CPU. Here it is told to, so that its attempt and its fallback run.
"""

import threading
import weakref

import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import nn

from made_plans import DATASET_JSON, made_plans
from nnunet_moe.sliding_window import SlidingWindowPredictor

CPU, NUM_PATCHES = torch.device("cpu"), 1 * 3 * 4
SIZE = (8, 16, 20)


class ShortOfMemory(nn.Conv3d):
    """A network that runs out of memory in some of its calls, and holds an activation then."""

    def __init__(self, *failing):
        super().__init__(3, 2, 1, bias=False)
        self.failing, self.num_calls, self.held = failing, 0, []
        self.alive_at_each_call = []

    def forward(self, x):
        self.num_calls += 1
        self.alive_at_each_call.append(sum(activation() is not None for activation in self.held))
        activation = x + 1
        if self.num_calls in self.failing:
            self.held.append(weakref.ref(activation))
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return super().forward(x)


class CopiesFail(SlidingWindowPredictor):
    """Runs out of memory when its thread copies some of the patches to the device."""

    failing, num_copies = (), 0

    @property
    def device(self):
        if threading.current_thread() is not threading.main_thread():
            self.num_copies += 1
            if self.num_copies in self.failing:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB.")
        return CPU

    @device.setter
    def device(self, device):
        assert device == CPU


@pytest.fixture
def ready(tmp_path):
    """Make a predictor ready, with the same weights each time."""
    plans = PlansManager(made_plans(tmp_path, [8, 8, 8], {}))

    def make(predictor_class, network, on_device=True, mirrored=None):
        predictor = predictor_class(device=CPU, use_mirroring=mirrored is not None, allow_tqdm=False)
        predictor.manual_initialization(
            network, plans, plans.get_configuration("small"), None, DATASET_JSON, "nnUNetTrainer", mirrored
        )
        predictor.perform_everything_on_device = on_device
        torch.manual_seed(1)
        nn.init.normal_(network.weight)
        return predictor

    return make


def image():
    return torch.randn(3, *SIZE, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("mirrored", [None, (0, 2)])
@pytest.mark.parametrize("on_device", [True, False])
def test_the_results_are_those_of_nnunets_predictor_bit_for_bit(ready, on_device, mirrored):
    stock, ours = (
        ready(predictor_class, ShortOfMemory(), on_device, mirrored).predict_sliding_window_return_logits(image())
        for predictor_class in (nnUNetPredictor, SlidingWindowPredictor)
    )
    assert torch.equal(stock, ours) and ours.isfinite().all() and ours.unique().numel() > 1000


@pytest.mark.parametrize("failing", [1, 2, 11, NUM_PATCHES])
def test_a_network_that_runs_out_of_memory_predicts_again_with_nothing_left_of_the_first_attempt(ready, failing):
    whole = ShortOfMemory()
    expected = ready(SlidingWindowPredictor, whole).predict_sliding_window_return_logits(image())
    assert whole.num_calls == NUM_PATCHES
    network, threads, hook = ShortOfMemory(failing), threading.active_count(), threading.excepthook
    data = image()
    assert torch.equal(ready(SlidingWindowPredictor, network).predict_sliding_window_return_logits(data), expected)
    assert network.num_calls == failing + NUM_PATCHES
    assert len(network.held) == 1 and not any(network.alive_at_each_call), "the second attempt has all memory"
    assert (threading.active_count(), threading.excepthook) == (threads, hook)


@pytest.mark.parametrize("on_device", [True, False])
def test_without_enough_memory_for_the_second_attempt_either_the_error_comes_and_no_thread_stays(ready, on_device):
    network, threads = ShortOfMemory(1, 2), threading.active_count()
    predictor = ready(SlidingWindowPredictor, network, on_device)
    with pytest.raises(torch.OutOfMemoryError, match=r"allocate 2\.00 GiB"):
        predictor.predict_sliding_window_return_logits(image())
    assert network.num_calls == 1 + on_device and threading.active_count() == threads
    assert not any(activation() is not None for activation in network.held)
    network.failing = ()
    expected = ready(SlidingWindowPredictor, ShortOfMemory()).predict_sliding_window_return_logits(image())
    assert torch.equal(predictor.predict_sliding_window_return_logits(image()), expected), "the next case is predicted"


@pytest.mark.parametrize("failing", [1, 2, 9, NUM_PATCHES])
def test_a_copy_that_runs_out_of_memory_does_not_wait_forever(ready, failing):
    """In nnU-Net's own predictor the thread dies, and the caller waits for it."""
    expected = ready(SlidingWindowPredictor, ShortOfMemory()).predict_sliding_window_return_logits(image())
    predictor, threads = ready(CopiesFail, ShortOfMemory()), threading.active_count()
    predictor.failing = (failing,)
    assert torch.equal(predictor.predict_sliding_window_return_logits(image()), expected)
    assert predictor.num_copies == failing + NUM_PATCHES
    predictor.failing = (predictor.num_copies + 1, predictor.num_copies + 2)
    with pytest.raises(torch.OutOfMemoryError, match=r"allocate 1\.00 GiB"):
        predictor.predict_sliding_window_return_logits(image())
    assert threading.active_count() == threads


def test_errors_of_other_threads_go_where_they_went(ready, monkeypatch):
    seen = []
    monkeypatch.setattr(threading, "excepthook", lambda failed: seen.append(str(failed.exc_value)))

    class StartsAThread(ShortOfMemory):
        def forward(self, x):
            other = threading.Thread(target=lambda: [][1])
            other.start()
            other.join()
            return super().forward(x)

    ready(SlidingWindowPredictor, StartsAThread()).predict_sliding_window_return_logits(image()[:, :8, :8, :8])
    assert seen == ["list index out of range"]
