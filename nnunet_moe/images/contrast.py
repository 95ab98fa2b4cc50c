"""Check what the normalization leaves of an image: one voxel that is far too large flattens all others.

Z-scoring divides by the standard deviation, which a single voxel of 1e9 dominates. The network would see a constant.
"""

from typing import NamedTuple

import numpy as np

from nnunet_moe.errors import ModalityError
from nnunet_moe.images.placeholders import single_value

FLAT = 0.01
"""The range of normalized voxels below which the network sees a constant. In z-scored images, it is 2 or more."""
WEAK, WEAK_BY_OUTLIERS = 0.05, 0.5
"""The ranges of normalized voxels below which an image is noted: in general, and if it has outliers."""
FAR = 50
"""A voxel is an outlier if it lies so many times the range of the others away from them. The brightest voxels of 50 PET
images lie 15 times away or less."""
PERCENTILES = (1, 99)
"""The range of voxels is that between these percentiles of the voxels that are not zero."""
SAMPLE = 100_000
"""At most so many voxels are looked at."""


class Contrast(NamedTuple):
    """How voxels differ in a channel before it is normalized."""

    where: np.ndarray
    """Indices into the flat channel `(voxels,)`, of voxels that are not zero."""
    lowest: float
    highest: float
    """Of the voxels that are not zero."""
    range: tuple[float, float]
    """Their `PERCENTILES`."""
    is_constant: bool
    """Whether the channel has a single value."""

    @classmethod
    def of(cls, channel: np.ndarray) -> "Contrast | None":
        """Look at a channel `(*space)` before its normalization; return None if it is zero everywhere."""
        flat = channel.reshape(-1)
        where = np.flatnonzero(flat)
        if not where.size:
            return None
        lowest, highest = float(flat[where].min()), float(flat[where].max())
        where = where[:: -(-where.size // SAMPLE)]
        return cls(where, lowest, highest, _range(flat[where]), single_value(channel) is not None)

    def note(self, normalized: np.ndarray, name: str) -> str | None:
        """Return a message if little is left of the channel.

        Args:
            normalized: the same channel after its normalization, `(*space)`.
            name: its file or modality.

        Raises:
            ModalityError: single voxels that are far from all others have made the channel flat.
        """
        if self.is_constant:
            return (
                f"{name} has a single value in the region in which the images are not zero, so the network sees a "
                "constant: perhaps a placeholder for a missing modality"
            )
        low, high = self.range
        if single_value(np.array(self.range)) is not None:
            return None  # such as a mask
        normalized_low, normalized_high = _range(normalized.reshape(-1)[self.where])
        left = normalized_high - normalized_low
        outlier = self.highest if self.highest - high >= low - self.lowest else self.lowest
        is_far = max(self.highest - high, low - self.lowest) > FAR * (high - low)
        if not left < (WEAK_BY_OUTLIERS if is_far else WEAK):  # NaN is an error elsewhere
            return None
        found = (
            f"{name}: 98 % of the voxels that are not zero have values from {low:.7g} to {high:.7g}"
            + (f", but single voxels reach {outlier:.4g}" if is_far else "")
            + f". After the normalization, these 98 % differ by only {left:.2g}"
        )
        if is_far and left < FLAT:
            raise ModalityError(
                f"{found}, so the network would see a constant. A range of {FLAT} or more is needed. Correct the "
                "single voxels (for example, clip them), or remove the file, because a modality may be missing."
            )
        remedy = "Correct the single voxels (for example, clip them)" if is_far else "Check its values and their unit"
        return f"{found}, so the network sees little contrast. {remedy}"


def _range(values: np.ndarray) -> tuple[float, float]:
    """Return `PERCENTILES` of values; of a few values, without the smallest and the largest."""
    low, high = PERCENTILES
    return float(np.percentile(values, low, method="higher")), float(np.percentile(values, high, method="lower"))
