"""What a preprocessed training case has: its modalities, and the labels that its reference shows."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnunet_moe.modalities.codes import Code, code_text


@dataclass(frozen=True)
class CaseContent:
    """What a training case has."""

    code: Code
    """Its modalities."""
    labels: frozenset[int]
    """The numbers of the labels or regions that its reference shows."""

    @classmethod
    def of(cls, image: Any, properties: Mapping[str, Any], foreground: Iterable[Any]) -> "CaseContent":
        """Of a case as nnU-Net preprocesses it.

        Args:
            image: `(K, *space)`.
            properties: what is stored with it.
            foreground: the labels or regions that are scored, in nnU-Net's order.
        """
        locations = properties["class_locations"]
        return cls(
            code_of(image), frozenset(number for number, value in enumerate(foreground) if len(locations[value]))
        )

    @property
    def pairs(self) -> set[tuple[int, int]]:
        """Each of its modalities with each of its labels."""
        return {(modality, label) for modality, there in enumerate(self.code) if there for label in self.labels}


def code_of(image: Any) -> Code:
    """What a preprocessed image has: an absent channel is NaN in every voxel, so one will tell."""
    return tuple(np.isfinite(image[(slice(None), *[0] * (len(image.shape) - 1))]).tolist())


def availability_lines(counts: Mapping[Code, int], names: tuple[str, ...]) -> list[str]:
    """For the log: which codes the training cases have, and what is wrong with that; nothing if all are complete.

    Args:
        counts: code -> number of cases.
        names: of the modalities.
    """
    if all(map(all, counts)):
        return []
    ordered = sorted(counts.items(), key=lambda entry: (-sum(entry[0]), entry[0]))
    text = ", ".join(f"{code_text(code, names)} {count}" for code, count in ordered)
    lines = [f"What the training cases of this fold have: {text}"]
    if unseen := [name for channel, name in enumerate(names) if not any(code[channel] for code in counts)]:
        lines.append(
            f"WARNING: no training case of this fold has {', '.join(unseen)}: what the model will make of it is "
            "arbitrary. Train another fold, or write splits_final.json so that every fold has some."
        )
    return lines
