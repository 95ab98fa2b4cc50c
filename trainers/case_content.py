"""The content of a preprocessed training case: its modalities, and the labels in its segmentation."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnunet_moe.modalities.codes import Code, code_text


@dataclass(frozen=True)
class CaseContent:
    """The modalities and labels of a training case."""

    code: Code
    """The available modalities, K bools."""
    labels: frozenset[int]
    """The positions, in nnU-Net's order, of the labels or regions that occur in the segmentation."""

    @classmethod
    def of(cls, image: Any, properties: Mapping[str, Any], foreground: Iterable[Any]) -> "CaseContent":
        """Read the content of a case that nnU-Net has preprocessed.

        Args:
            image: `(K, *space)`; missing channels are NaN.
            properties: the properties that nnU-Net stores with the case.
            foreground: the labels or regions that are scored, in nnU-Net's order.
        """
        locations = properties["class_locations"]
        return cls(
            code_of(image), frozenset(number for number, value in enumerate(foreground) if len(locations[value]))
        )

    @property
    def pairs(self) -> set[tuple[int, int]]:
        """All pairs of an available modality and a label of the case."""
        return {(modality, label) for modality, there in enumerate(self.code) if there for label in self.labels}


def code_of(image: Any) -> Code:
    """Return the code of a preprocessed image `(K, *space)`.

    A missing channel is NaN in every voxel, so it is enough to look at the first voxel.
    """
    return tuple(np.isfinite(image[(slice(None), *[0] * (len(image.shape) - 1))]).tolist())


def availability_lines(counts: Mapping[Code, int], names: tuple[str, ...]) -> list[str]:
    """Return the lines for the log that list the codes of the training cases, with a warning if one is needed.

    If all cases are complete, there are no lines.

    Args:
        counts: code -> number of cases.
        names: the K modality names in channel order.
    """
    if all(map(all, counts)):
        return []
    ordered = sorted(counts.items(), key=lambda entry: (-sum(entry[0]), entry[0]))
    text = ", ".join(f"{code_text(code, names)} {count}" for code, count in ordered)
    lines = [f"Modalities of this fold's training cases: {text}"]
    if unseen := [name for channel, name in enumerate(names) if not any(code[channel] for code in counts)]:
        lines.append(
            f"WARNING: no training case of this fold has {', '.join(unseen)}. The model's output for it will be "
            "arbitrary. Train another fold, or change splits_final.json so that every fold has such cases."
        )
    return lines
