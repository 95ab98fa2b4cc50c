"""Explain that memory ran out: for what, on which device, and what to do."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from nnunet_moe.errors import NnunetMoeError, OutOfMemoryError

if TYPE_CHECKING:
    import torch

ON_CPUS = ("not enough memory", "can't allocate memory", "Cannot allocate memory")
"""Parts of the messages with which torch and the system say that a CPU's memory ran out, which have no own class."""
ON_GPUS = ("out of memory", "ALLOC_FAILED")
"""The same for GPUs: of torch, MPS, cuDNN and cuBLAS."""
REMEDIES = {
    "cpu": "Close other programs, use fewer processes, or use a machine with more memory.",
    "gpu": "Close other programs that use it, or use the device cpu, which is slower.",
}


@contextmanager
def memory_for(case: str, code: str, device: "str | torch.device") -> Iterator[None]:
    """Explain an error about memory that the block raises.

    Args:
        case: the name of the case that needs the memory.
        code: its modalities, as text.
        device: the device that computes. A message about the memory of CPUs names the CPU, also if a GPU computes.

    Raises:
        OutOfMemoryError: memory ran out. Any other error stays as it is.
    """
    try:
        yield
    except NnunetMoeError:
        raise
    except Exception as error:
        where = short_of_memory(error, device)
        if where is None:
            raise
        reason = ". ".join(str(error).strip().split("\n")[0].split(". ")[:2]) or type(error).__name__
        raise OutOfMemoryError(
            f"{case} ({code}): the memory of the device {where} does not suffice: {reason.rstrip('.')}. "
            f"{REMEDIES.get(where, REMEDIES['gpu'])}"
        ) from error


def short_of_memory(error: Exception, device: "str | torch.device") -> str | None:
    """Return the device whose memory ran out according to an error; None if the error is about something else."""
    import torch

    text = str(error)
    if isinstance(error, MemoryError) or any(part in text for part in ON_CPUS):
        return "cpu"
    is_of_gpu = isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(part in text for part in ON_GPUS)
    )
    return str(device) if is_of_gpu else None
