"""The slices of cases for pictures."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from nnunet_moe.modalities.codes import Code


@dataclass(frozen=True)
class Overlay:
    """A slice of one case for a picture."""

    case: str
    title: str
    images: np.ndarray
    """`(K, *slice)`, NaN for missing modalities."""
    reference: np.ndarray
    """Labels, `(*slice)`."""
    predictions: Mapping[tuple[str, Code], np.ndarray]
    """(Trainer, code) -> labels, `(*slice)`."""
    scores: Mapping[tuple[str, Code], float]
    """(Trainer, code) -> the DSC that is printed below the slice."""
    aspect: float
    """Height over width of a pixel."""


def overlay_index(reference: np.ndarray) -> int:
    """Return the slice along the first axis with most foreground; for an empty reference, the middle one."""
    foreground = (reference > 0).reshape(len(reference), -1).sum(axis=1)
    return int(foreground.argmax()) if foreground.any() else len(reference) // 2
