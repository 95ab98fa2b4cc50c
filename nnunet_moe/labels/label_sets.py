"""Label sets: the labels that were annotated in each modality or case, from `label_sets` in dataset.json.

If annotators used different labels for different modalities, a label that they did not look for is not background.

Source: Jiang, Shen, "M4oE: A foundation model for medical multimodal image segmentation with mixture of experts",
MICCAI 2024 (dynamic selection). Decisions: docs/how_to/label_sets.md.
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
"""The logit of a label outside the set.

Its softmax and sigmoid are 0 in half precision. nnU-Net sums logits over overlapping windows with weights of up to 10;
this sum stays in the range of half precision for window steps down to a tenth of a patch.
"""


@dataclass(frozen=True)
class LabelSets:
    """The outputs of a network that the annotation of a modality or a case covers.

    The outputs are nnU-Net's: background and labels sorted by value, or the regions in the order of dataset.json.
    """

    by_modality: Tensor
    """`(K, C)` bool, true where the annotation of a modality covers an output."""
    by_case: Mapping[str, Tensor]
    """Case -> `(C,)` bool, for the cases with their own set in dataset.json."""

    @classmethod
    def of(cls, dataset_json: dict[str, Any]) -> "LabelSets | None":
        """Read the label sets from dataset.json.

        - `label_sets` has a list of labels for each modality that was not annotated with all labels.
        - `label_sets_of_cases` has a list of labels for each case whose annotation differs from that of its modalities.

        Returns:
            The label sets; None if dataset.json contains neither key.

        Raises:
            ModalityError: a modality or label does not exist, a list is empty, two labels have one value, or one
                has no name.
            SettingsError: a key is probably a misspelled form of these keys.
        """
        for key in dataset_json.keys() - {BY_MODALITY, BY_CASE}:
            if meant := get_close_matches(key.lower(), (BY_MODALITY, BY_CASE), n=1, cutoff=0.85):
                raise SettingsError(
                    f"dataset.json has the key {key!r}, which is similar to {meant[0]!r}. Correct or remove it."
                )
        if not (BY_MODALITY in dataset_json or BY_CASE in dataset_json):
            return None
        names = channel_names(dataset_json)
        _require_own_values(dataset_json)
        by_modality = _sets(dataset_json, BY_MODALITY)
        if unknown := sorted(by_modality.keys() - set(names)):
            raise ModalityError(
                f"{BY_MODALITY!r} in dataset.json has {', '.join(map(repr, unknown))}. The modalities are "
                f"{', '.join(names)}. Correct the name."
            )
        everything = torch.ones(len(output_names(dataset_json)), dtype=torch.bool)
        return cls(torch.stack([by_modality.get(name, everything) for name in names]), _sets(dataset_json, BY_CASE))

    def of_items(self, available: Tensor, cases: Sequence[str]) -> Tensor:
        """Return the label sets of a batch's items: the case's own set, or else the union over its modalities.

        Args:
            available: `(B, K)` bool, the modalities of the cases before any is dropped.
            cases: the B names of the cases.

        Returns:
            `(B, C)` bool.
        """
        sets = covered(available, self.by_modality.to(available.device))
        for item, case in enumerate(cases):
            if case in self.by_case:
                sets[item] = self.by_case[case]
        return sets

    @property
    def setting(self) -> tuple[tuple[int, ...], ...]:
        """The sets by modality as a setting, because a network is built from plans without dataset.json."""
        return tuple(map(tuple, self.by_modality.int().tolist()))


def covered(available: Tensor, by_modality: Tensor) -> Tensor:
    """Return the outputs that are covered by at least one available modality.

    Args:
        available: `(B, K)` bool.
        by_modality: `(K, C)` bool.

    Returns:
        `(B, C)` bool.
    """
    return (available[:, :, None] & by_modality).any(dim=1)


def restricted(logits: Tensor, sets: Tensor) -> Tensor:
    """Set logits outside the label sets to `OUTSIDE`, so that these labels and regions are never predicted.

    Args:
        logits: `(B, C, *space)`.
        sets: `(B, C)` bool.

    Returns:
        `(B, C, *space)`.
    """
    return torch.where(sets[(..., *[None] * (logits.ndim - 2))], logits, OUTSIDE)


def output_names(dataset_json: dict[str, Any]) -> list[str]:
    """Return the names of a network's outputs, labels or regions; the background has an empty name."""
    labels = labels_of(dataset_json)
    if has_regions(dataset_json):
        return list(labels)
    return ["", *sorted(labels, key=lambda name: np.atleast_1d(labels[name])[0])]


def labels_in(dataset_json: dict[str, Any], outputs: Tensor) -> dict[str, int | tuple[int, ...]]:
    """Return the labels or regions, name -> value, of those outputs that are true in `outputs` `(C,)` bool."""
    labels, names = labels_of(dataset_json), output_names(dataset_json)
    return {name: labels[name] for name, is_in in zip(names, outputs.tolist(), strict=True) if name and is_in}


def _require_own_values(dataset_json: dict[str, Any]) -> None:
    """Refuse two names for one label, because a set with only one of them would have no meaning, and empty names."""
    names: dict[int | tuple[int, ...], str] = {}
    for name, given in labels_of(dataset_json).items():
        if not name:
            raise ModalityError(
                f"'labels' in dataset.json has an empty name for {given}. With label sets, each label needs a name. "
                "Name it."
            )
        value = given[0] if isinstance(given, tuple) and len(given) == 1 else given
        if (other := names.setdefault(value, name)) != name and not has_regions(dataset_json):
            raise ModalityError(
                f"'labels' in dataset.json has {value} for {other!r} and for {name!r}. With label sets, each label "
                "needs its own value. Remove one of them."
            )


def _sets(dataset_json: dict[str, Any], key: str) -> dict[str, Tensor]:
    """Read one key of dataset.json: name of a modality or case -> `(C,)` bool."""
    given, outputs = dataset_json.get(key, {}), output_names(dataset_json)
    if not isinstance(given, dict):
        raise ModalityError(
            f"{key!r} in dataset.json is {given!r}. It must be an object with a list of labels for each name. "
            "Correct it."
        )
    sets = {}
    for name, labels in given.items():
        foreground = ", ".join(output for output in outputs if output)
        if not isinstance(labels, list) or not labels or not all(label and label in outputs for label in labels):
            raise ModalityError(
                f"{key!r} in dataset.json has {labels!r} for {name}. It must be a list with at least one of "
                f"{foreground}. Correct it."
            )
        sets[name] = torch.tensor([not output or output in labels for output in outputs])
    return sets
