"""bfloat16 on CPUs that have matrix units for it.

nnU-Net uses autocast only on GPUs. On a CPU with AMX or AVX512-BF16, a U-Net runs several times faster in bfloat16.
Therefore our networks turn on autocast themselves on such a CPU, also in nnU-Net's commands. The environment variable
`nnunet_moe_bf16=0` turns it off.
"""

import os
from contextlib import AbstractContextManager, nullcontext

import torch


def cpu_autocast(device: torch.device) -> AbstractContextManager:
    """Return bfloat16 autocast for a CPU that gains from it; it does nothing on other devices or for float64."""
    if device.type == "cpu" and _is_wanted():
        return torch.autocast("cpu", torch.bfloat16, enabled=_cpu_has_bfloat16_units())
    return nullcontext()


def uses_cpu_bfloat16(device: torch.device) -> bool:
    """Return whether our networks turn on bfloat16 by themselves on this device."""
    return device.type == "cpu" and _is_wanted() and _cpu_has_bfloat16_units()


def _is_wanted() -> bool:
    return os.environ.get("nnunet_moe_bf16", "1").lower() not in ("0", "false", "f")


@torch.compiler.assume_constant_result
def _cpu_has_bfloat16_units() -> bool:
    # torch asks the processor. Older releases of torch and other processors get no bfloat16.
    questions = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, question, lambda: False)() for question in questions)
