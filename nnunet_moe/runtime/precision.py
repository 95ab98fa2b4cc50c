"""bfloat16 on CPUs that have matrix units for it.

nnU-Net uses autocast only on GPUs. On a CPU with AMX or AVX512-BF16, a U-Net runs several times faster in bfloat16.
Therefore our networks turn on autocast themselves on such a CPU, also in nnU-Net's commands. The environment variable
`nnunet_moe_bf16=0` turns it off.
"""

import os
import warnings
from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import torch

from nnunet_moe.runtime.bfloat16_products import Observed, Product, wrong_products

T = TypeVar("T")


class CpuPrecision:
    """The choice between bfloat16 and float32 for one network on a CPU.

    bfloat16 is used only where this CPU computes each convolution and matrix product of the network correctly. This is
    checked the first time that the network gets an input of a certain size. Otherwise the network computes in float32
    for images of this size.
    """

    def __init__(self) -> None:
        self._right: set[Hashable] = set()
        """The situations in which bfloat16 is right."""
        self.notes: dict[tuple[int, ...], str] = {}
        """Size of the images -> why the network computes in float32 for them."""

    def run(self, compute: Callable[[], T], size: tuple[int, ...], situation: Hashable) -> T:
        """Compute in bfloat16 if the user wants it and the CPU can do it, else in the precision of the network.

        Args:
            compute: runs the network. The first time in a situation it is called twice; for the second call, torch's
                random generator is set back.
            size: size of the images in voxels.
            situation: all on which the shapes inside the network depend.
        """
        if not is_used() or size in self.notes:
            return compute()
        situation = (size, situation, torch.is_grad_enabled(), torch.get_num_threads())
        if situation not in self._right:
            if wrong := wrong_products(_products_of(compute), with_gradients=torch.is_grad_enabled()):
                self.notes[size] = _note(size, wrong)
                warnings.warn(self.notes[size], stacklevel=2)
                return compute()
            self._right.add(situation)
        with torch.autocast("cpu", torch.bfloat16):
            return compute()


def cpu_autocast(device: torch.device) -> AbstractContextManager:
    """Return bfloat16 autocast for a CPU that has units for it, without a check; it does nothing on other devices."""
    return torch.autocast("cpu", torch.bfloat16) if device.type == "cpu" and is_used() else nullcontext()


def is_used() -> bool:
    """Return whether networks on a CPU try bfloat16: it has units for it, and the user did not turn it off."""
    wanted = os.environ.get("nnunet_moe_bf16", "1").lower() not in ("0", "false", "f")
    return wanted and _cpu_has_bfloat16_units()


def _products_of(compute: Callable[[], object]) -> list[Product]:
    """Run a network in bfloat16, and return its products."""
    generator = torch.get_rng_state()
    with Observed() as observed, torch.autocast("cpu", torch.bfloat16):
        compute()
    torch.set_rng_state(generator)
    return list(observed.products)


def _note(size: tuple[int, ...], wrong: list[Product]) -> str:
    more = f" and {len(wrong) - 1} others" if len(wrong) > 1 else ""
    return (
        f"This CPU with torch {torch.__version__} returns wrong numbers in bfloat16 for {wrong[0]}{more}. So the "
        f"network computes in float32 for images of {' x '.join(map(str, size))} voxels, which takes longer. Another "
        "version of torch or another patch size may avoid it."
    )


def _cpu_has_bfloat16_units() -> bool:
    # torch asks the processor. Older releases of torch and other processors get no bfloat16.
    questions = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, question, lambda: False)() for question in questions)
