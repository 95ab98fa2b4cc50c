"""The settings of the metrics."""

import math
from dataclasses import dataclass

from nnunet_moe.errors import SettingsError
from nnunet_moe.runtime.options import option

CONNECTIVITIES = {6: 1, 18: 2, 26: 3}
"""Number of neighbors of a voxel in 3D -> number of axes in which they may differ."""


@dataclass(frozen=True, kw_only=True)
class MetricSettings:
    """The settings that the definitions of the metrics leave open.

    Raises:
        SettingsError: a value is out of range.
    """

    connectivity: int = option(
        "-connectivity",
        type=int,
        choices=(*CONNECTIVITIES,),
        default=26,
        group="metrics",
        help="join voxels to one lesion if they share a face (6), also an edge (18), or also a corner (26) "
        "(default: %(default)s)",
    )
    """Neighbors that belong to the same lesion: 6 (faces), 18 (edges) or 26 (corners). In 2D: 4 for 6, else 8."""
    min_lesion_mm3: float = option(
        "-min_lesion",
        type=float,
        default=0.0,
        group="metrics",
        help="ignore lesions smaller than this volume in mm3 (default: %(default)s)",
    )
    """Smaller lesions are not counted, neither in the reference nor in the prediction (mm2 in 2D)."""
    tolerance_mm: float = option(
        "-tolerance",
        type=float,
        default=1.0,
        group="metrics",
        help="accept surface distances up to this many mm in the surface Dice (default: %(default)s)",
    )
    """Distance in mm up to which two surfaces agree in the surface Dice."""

    def __post_init__(self) -> None:
        if self.connectivity not in CONNECTIVITIES:
            raise SettingsError(f"connectivity is {self.connectivity}. It must be 6, 18 or 26.")
        for name in ("min_lesion_mm3", "tolerance_mm"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise SettingsError(f"{name} is {value}. It must be a finite number, 0 or larger.")
