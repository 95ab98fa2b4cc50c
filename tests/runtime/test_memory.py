"""What is said when memory runs out."""

import numpy as np
import pytest
import torch

from facts import facts
from nnunet_moe.errors import ModalityError, OutOfMemoryError
from nnunet_moe.runtime.memory import memory_for

CUDA = "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 10.00 GiB of which 5 are free."


def allocate_by_numpy():
    np.zeros(1 << 52)


def allocate_by_torch():
    torch.zeros(1 << 52)


def fail(error):
    def work():
        raise error

    return work


@pytest.mark.parametrize(
    ("work", "device", "said"),
    [
        (allocate_by_numpy, "cuda", ("device cpu", "allocate", "more memory")),
        (allocate_by_torch, torch.device("cuda"), ("device cpu", "allocate", "more memory")),
        (fail(MemoryError()), "cpu", ("device cpu", "MemoryError", "more memory")),
        (fail(OSError(12, "Cannot allocate memory")), "cpu", ("device cpu", "Cannot allocate memory")),
        (fail(torch.OutOfMemoryError(CUDA)), "cuda", ("device cuda", "Tried to allocate 20.00 GiB.", "the device cpu")),
        (fail(torch.OutOfMemoryError(CUDA)), torch.device("cuda", 1), ("device cuda:1", "CUDA out of memory")),
        (fail(RuntimeError("MPS backend out of memory")), "mps", ("device mps", "the device cpu")),
        (
            fail(RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")),
            "cuda",
            ("device cuda", "CUDNN_STATUS_ALLOC_FAILED"),
        ),
    ],
)
def test_the_message_names_case_modalities_device_and_remedy(work, device, said):
    with (
        pytest.raises(OutOfMemoryError, match=facts("p01", "T1w+FLAIR", *said)) as raised,
        memory_for("p01", "T1w+FLAIR", device),
    ):
        work()
    assert raised.value.__cause__ is not None and "total capacity" not in str(raised.value)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Expected all tensors to be on the same device"),
        ModalityError("p01 is out of memory"),
        ValueError("out of memory"),
        KeyboardInterrupt(),
    ],
)
def test_other_errors_stay_as_they_are(error):
    with pytest.raises(type(error)) as raised, memory_for("p01", "T1w", "cuda"):
        raise error
    assert raised.value is error
