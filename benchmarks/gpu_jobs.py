"""What `gpu.py` measures: the plans, the methods and the order of the measurements. It imports nothing heavy."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

STOCK, REFERENCE, MOESD, LCKD, M4OE = "nnU-Net", "modality dropout", "MoE-SD", "LCKD", "M4oE"
WAYS = {f"{MOESD}, {way}": way for way in ("loop", "grouped", "sum")}
"""MoE-SD with each of its ways to convolve items that differ in their kernels. `MoE-SD` itself chooses one of them."""
TRAINERS: dict[str, tuple[str, dict[str, Any]]] = {
    STOCK: ("nnUNetTrainer", {}),
    REFERENCE: ("nnUNetTrainerModalityDropout", {}),
    MOESD: ("nnUNetTrainerMoESD", {}),
    LCKD: ("nnUNetTrainerLCKD", {}),
    M4OE: ("nnUNetTrainerM4oE", {}),
    **{name: ("nnUNetTrainerMoESD", {"item_kernels": way}) for name, way in WAYS.items()},
}
"""Method -> its trainer, and settings in the plans."""
FROM_THE_START = {"warm_up_fraction": 0.0, "ramp_up_fraction": 0.0}
"""LCKD drops modalities, and MoE-SD distills with the full weight, from the first iteration on."""

MAIN = (REFERENCE, STOCK, MOESD, LCKD, M4OE)
PARTS = ("eager", "compiled", "curves")
STAGES = (
    (MAIN, "eager"),
    (MAIN, "curves"),
    (tuple(WAYS), "eager"),
    ((REFERENCE, MOESD), "compiled"),
    ((STOCK, LCKD, M4OE), "compiled"),
    (tuple(WAYS), "compiled"),
    (tuple(WAYS), "curves"),
)
"""What matters most comes first, because time may run out; modality dropout is what others are compared with."""


@dataclass(frozen=True)
class Plan:
    """A configuration of nnU-Net's plain U-Net."""

    patch_size: tuple[int, ...]
    batch_size: int
    features: tuple[int, ...]
    """Channels of each stage."""


def halved(plan: Plan) -> Plan:
    """Return a plan whose patches have half the sides, and at most 4 items: for curves, which float32 must fit."""
    return Plan(tuple(side // 2 for side in plan.patch_size), min(4, plan.batch_size), plan.features)


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    plans: dict[str, Plan]
    warm_up: int
    """Steps before anything is measured; LCKD's convolutions have other shapes for each number of modalities."""
    repetitions: tuple[int, int]
    """The fewest and the most."""
    curve: int
    """Steps of a curve."""
    width: int
    """Channels of M4oE's first stage."""
    backend: str | None
    """Compiles instead of inductor, which takes too long where only the command is tried."""


FULL = Sizes(
    {
        "2D": Plan((512, 512), 12, (32, 64, 128, 256, 512, 512, 512, 512)),
        "3D": Plan((128, 128, 128), 2, (32, 64, 128, 256, 320, 320)),
    },
    warm_up=4,
    repetitions=(3, 40),
    curve=30,
    width=96,
    backend=None,
)
TINY = Sizes(
    {"2D": Plan((32, 32), 3, (4, 4, 4)), "3D": Plan((16, 16, 16), 2, (4, 4, 4))},
    warm_up=1,
    repetitions=(2, 2),
    curve=2,
    width=12,
    backend="aot_eager",
)


class Job(NamedTuple):
    """One measurement."""

    plan: str
    method: str
    part: str

    def __str__(self) -> str:
        return f"{self.plan}, {self.method}, {self.part}"


def jobs(plans: Collection[str], methods: Collection[str], parts: Collection[str], *, tiny: bool) -> Iterator[Job]:
    """Yield the measurements in their order; M4oE is a 2D network, and tiny runs compile only one network."""
    for of_stage, part in STAGES:
        for plan in FULL.plans:
            for method in of_stage:
                is_possible = method != M4OE or plan == "2D"
                is_wanted = plan in plans and method in methods and part in parts
                too_long = tiny and part == "compiled" and (plan, method) != ("2D", REFERENCE)
                if is_possible and is_wanted and not too_long:
                    yield Job(plan, method, part)
