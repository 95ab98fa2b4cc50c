"""What the definitions of the metrics leave open."""

import math
from dataclasses import dataclass

from nnunet_moe.errors import SettingsError
from nnunet_moe.runtime.options import option

CONNECTIVITIES = {6: 1, 18: 2, 26: 3}
"""Voxels that touch a voxel in 3D -> how many axes they may differ in."""


@dataclass(frozen=True, kw_only=True)
class MetricSettings:
    """What the definitions leave open.

    Raises:
        SettingsError: a value out of range.
    """

    connectivity: int = option(
        "-connectivity",
        type=int,
        choices=(*CONNECTIVITIES,),
        default=26,
        group="metrics",
        help="join voxels to one lesion if they share a face (6), an edge (18) or a corner (26) (default: %(default)s)",
    )
    """Neighbours that belong to the same lesion: 6 (faces), 18 (edges) or 26 (corners); in 2D 4 for 6, else 8."""
    min_lesion_mm3: float = option(
        "-min_lesion",
        type=float,
        default=0.0,
        group="metrics",
        help="ignore lesions smaller than this volume in mm3 (default: %(default)s)",
    )
    """Smaller lesions are not counted, in the reference nor in the prediction (mm2 in 2D)."""
    tolerance_mm: float = option(
        "-tolerance",
        type=float,
        default=1.0,
        group="metrics",
        help="accept surface distances up to this many mm in the surface Dice (default: %(default)s)",
    )
    """Distance up to which two surfaces agree in the surface Dice."""

    def __post_init__(self) -> None:
        if self.connectivity not in CONNECTIVITIES:
            raise SettingsError(f"The connectivity is {self.connectivity}; it must be 6, 18 or 26.")
        for name in ("min_lesion_mm3", "tolerance_mm"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise SettingsError(f"{name} is {value}; it must be a finite number from 0.")
