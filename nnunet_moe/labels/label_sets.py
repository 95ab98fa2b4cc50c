"""Label sets: which labels were annotated in which cases, as `label_sets` in dataset.json tells.

Where cases of one modality were annotated with other labels than those of another, a label that nobody looked for is
not background. Jiang, Shen, "M4oE: A foundation model for medical multimodal image segmentation with mixture of
experts", MICCAI 2024 (dynamic selection); decisions: docs/how_to/label_sets.md.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nnunet_moe.errors import ModalityError, SettingsError
from nnunet_moe.labels.labels import has_regions, labels_of
from nnunet_moe.modalities.codes import channel_names

BY_MODALITY, BY_CASE = "label_sets", "label_sets_of_cases"

OUTSIDE = -100.0
"""The logit of a label outside the set: no softmax or sigmoid in half precision makes anything of it, and nnU-Net's sum
over overlapping windows, whose weights reach 10, stays within half precision for steps down to a tenth of a patch."""


@dataclass(frozen=True)
class LabelSets:
    """Which of a network's outputs the annotation of a case covers.

    The outputs are nnU-Net's: background and labels by their values, or the regions in the order of dataset.json.
    """

    by_modality: Tensor
    """`(K, C)` bool."""
    by_case: Mapping[str, Tensor]
    """Case -> `(C,)` bool, of the cases that dataset.json names."""

    @classmethod
    def of(cls, dataset_json: dict[str, Any]) -> "LabelSets | None":
        """What dataset.json says, None if it says nothing.

        `label_sets` has a list of labels for each modality that was not annotated with all, `label_sets_of_cases` one
        for each case whose annotation differs from that of its modalities.

        Raises:
            ModalityError: a modality or label that does not exist, or an empty list.
            SettingsError: a key that looks like one of these.
        """
        for key in dataset_json.keys() - {BY_MODALITY, BY_CASE}:
            if meant := get_close_matches(key.lower(), (BY_MODALITY, BY_CASE), n=1, cutoff=0.85):
                raise SettingsError(f"dataset.json has the key {key!r}. If {meant[0]!r} is meant, write it so.")
        if not (BY_MODALITY in dataset_json or BY_CASE in dataset_json):
            return None
        names = channel_names(dataset_json)
        by_modality = _sets(dataset_json, BY_MODALITY)
        if unknown := sorted(by_modality.keys() - set(names)):
            raise ModalityError(
                f"{BY_MODALITY!r} in dataset.json has {', '.join(map(repr, unknown))}; the modalities are "
                f"{', '.join(names)}."
            )
        everything = torch.ones(len(output_names(dataset_json)), dtype=torch.bool)
        return cls(torch.stack([by_modality.get(name, everything) for name in names]), _sets(dataset_json, BY_CASE))

    def of_items(self, available: Tensor, cases: Sequence[str]) -> Tensor:
        """The sets `(B, C)` of a batch's items: that of the case, or what its modalities have between them.

        Args:
            available: `(B, K)` bool, what the cases have, whatever is dropped of it.
            cases: their names.
        """
        sets = covered(available, self.by_modality.to(available.device))
        for item, case in enumerate(cases):
            if case in self.by_case:
                sets[item] = self.by_case[case]
        return sets

    @property
    def setting(self) -> tuple[tuple[int, ...], ...]:
        """The setting by which a network knows them: dataset.json is not there when it is built."""
        return tuple(map(tuple, self.by_modality.int().tolist()))


def covered(available: Tensor, by_modality: Tensor) -> Tensor:
    """`(B, C)` bool, the outputs that any available modality covers.

    Args:
        available: `(B, K)` bool.
        by_modality: `(K, C)` bool.
    """
    return (available[:, :, None] & by_modality).any(dim=1)


def restricted(logits: Tensor, sets: Tensor) -> Tensor:
    """Logits `(B, C, *space)` in which no output outside the items' sets `(B, C)` can win, or be more than half."""
    return torch.where(sets[(..., *[None] * (logits.ndim - 2))], logits, OUTSIDE)


def output_names(dataset_json: dict[str, Any]) -> list[str]:
    """The labels or regions of a network's outputs, an empty name for the background."""
    labels = labels_of(dataset_json)
    if has_regions(dataset_json):
        return list(labels)
    return ["", *sorted(labels, key=lambda name: np.atleast_1d(labels[name])[0])]


def labels_in(dataset_json: dict[str, Any], outputs: Tensor) -> dict[str, int | tuple[int, ...]]:
    """The labels or regions, name -> value, of the outputs `(C,)` bool that are true."""
    labels, names = labels_of(dataset_json), output_names(dataset_json)
    return {name: labels[name] for name, is_in in zip(names, outputs.tolist(), strict=True) if name and is_in}


def _sets(dataset_json: dict[str, Any], key: str) -> dict[str, Tensor]:
    """Name -> `(C,)` bool."""
    given, outputs = dataset_json.get(key, {}), output_names(dataset_json)
    if not isinstance(given, dict):
        raise ModalityError(f"{key!r} in dataset.json is {given!r}; it must be an object with a list of labels a name.")
    sets = {}
    for name, labels in given.items():
        foreground = ", ".join(output for output in outputs if output)
        if not isinstance(labels, list) or not labels or not all(label and label in outputs for label in labels):
            raise ModalityError(
                f"{key!r} in dataset.json has {labels!r} for {name}; it must be a list of at least one of {foreground}."
            )
        sets[name] = torch.tensor([not output or output in labels for output in outputs])
    return sets
