"""bfloat16 on CPUs that have matrix units for it.

nnU-Net uses autocast on GPUs only. On a CPU with AMX or AVX512-BF16 a U-Net runs several times faster in bfloat16, so
our networks enter autocast themselves there, under nnU-Net's commands too. `nnunet_moe_bf16=0` turns it off.
"""

import os
from contextlib import AbstractContextManager, nullcontext

import torch


def cpu_autocast(device: torch.device) -> AbstractContextManager:
    """Bfloat16 autocast on a CPU that gains from it; nothing on other devices, and nothing for float64 tensors."""
    if device.type == "cpu" and _is_wanted():
        return torch.autocast("cpu", torch.bfloat16, enabled=_cpu_has_bfloat16_units())
    return nullcontext()


def uses_cpu_bfloat16(device: torch.device) -> bool:
    """Whether our networks compute in bfloat16 of their own accord on this device."""
    return device.type == "cpu" and _is_wanted() and _cpu_has_bfloat16_units()


def _is_wanted() -> bool:
    return os.environ.get("nnunet_moe_bf16", "1").lower() not in ("0", "false", "f")


@torch.compiler.assume_constant_result
def _cpu_has_bfloat16_units() -> bool:
    # torch asks the processor itself; releases without these questions, and other processors, go without
    questions = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, question, lambda: False)() for question in questions)
