"""Slices of cases for pictures."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from nnunet_moe.modalities.codes import Code


@dataclass(frozen=True)
class Overlay:
    """One case's slice for pictures."""

    case: str
    title: str
    images: np.ndarray
    """`(K, *slice)`, NaN where a modality is absent."""
    reference: np.ndarray
    """Labels, `(*slice)`."""
    predictions: Mapping[tuple[str, Code], np.ndarray]
    """(Trainer, code) -> labels, `(*slice)`."""
    scores: Mapping[tuple[str, Code], float]
    """The DSC that stands below."""
    aspect: float
    """Height over width of a pixel."""


def overlay_index(reference: np.ndarray) -> int:
    """The slice along the first axis with most foreground, or the middle one of an empty reference."""
    foreground = (reference > 0).reshape(len(reference), -1).sum(axis=1)
    return int(foreground.argmax()) if foreground.any() else len(reference) // 2
