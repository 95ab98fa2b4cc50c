"""Label sets in training: they are written into the plans, checked against the segmentations and used in the loss."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_moe.errors import ModalityError
from nnunet_moe.labels.label_sets import BY_CASE, BY_MODALITY, LabelSets
from nnunet_moe.losses.label_sets import LabelSetLoss
from nnunet_moe.modalities.codes import code_text
from nnunet_moe.settings.plans import PLANS_KEY
from nnunet_moe.trainers.case_content import CaseContent


def with_label_sets(plans: dict, configuration: str, label_sets: LabelSets | None) -> dict:
    """Return plans that contain the label sets, because the network is built from plans without dataset.json.

    Args:
        plans: they are not changed.
        configuration: the configuration whose settings get the label sets.
        label_sets: None leaves the plans as they are.
    """
    if label_sets is None:
        return plans
    settings = PlansManager(plans).get_configuration(configuration).configuration.get(PLANS_KEY, {})
    own = {**plans["configurations"][configuration], PLANS_KEY: {**settings, "label_sets": label_sets.setting}}
    return {**plans, "configurations": {**plans["configurations"], configuration: own}}


def label_set_loss(loss: Any, *, deep_supervision: bool) -> LabelSetLoss:
    """Wrap nnU-Net's loss so that it is computed for each item in its own label set.

    Args:
        loss: as nnU-Net's trainer builds it; it is changed in place.
        deep_supervision: whether the loss is for several resolutions.
    """
    of_level = loss.loss if deep_supervision else loss
    # groups of items differ in shape, and torch would compile nnU-Net's compiled Dice again for each shape
    of_level.dc = getattr(of_level.dc, "_orig_mod", of_level.dc)
    # in distributed training, processes have items with different label sets, so their sums cannot be added
    of_level.dc.ddp = False
    return LabelSetLoss(loss)


def annotation_lines(label_sets: LabelSets, labels: list[str], modalities: tuple[str, ...]) -> list[str]:
    """Return the lines for the log that list the annotated labels of each modality and of cases with their own set.

    Args:
        label_sets: the label sets of dataset.json.
        labels: names of the labels or regions that are scored, in nnU-Net's order.
        modalities: the K modality names in channel order.
    """
    of_names = (*zip(modalities, label_sets.by_modality, strict=True), *label_sets.by_case.items())
    # the background comes before the labels, if it is an output
    return [
        f"Annotated in {name}: "
        + ", ".join(labels[number] for number in of_name[-len(labels) :].nonzero().flatten().tolist())
        for name, of_name in of_names
    ]


def require_known_cases(label_sets: LabelSets, cases: Collection[str]) -> None:
    """Make sure that all cases with their own label set are training cases of the dataset.

    Raises:
        ModalityError: dataset.json has a label set for another case.
    """
    if unknown := sorted(label_sets.by_case.keys() - set(cases)):
        raise ModalityError(
            f"{BY_CASE!r} in dataset.json names {', '.join(unknown)}, but there is no training case of this name. "
            "Correct the name."
        )


def require_annotated(
    label_sets: LabelSets, case: str, content: CaseContent, foreground: Mapping[str, Any], modalities: tuple[str, ...]
) -> None:
    """Make sure that a case's segmentation contains only labels of its label set.

    A region outside the set is allowed if it shares labels with a region of the set, because the preprocessed case does
    not say which of a region's labels occur.

    Args:
        label_sets: the label sets of dataset.json.
        case: name of the case, for the message.
        content: its modalities, and the labels in its segmentation.
        foreground: name -> value of the labels or regions that are scored, in nnU-Net's order.
        modalities: the K modality names in channel order.

    Raises:
        ModalityError: the segmentation contains a label outside the set.
    """
    labels, values = list(foreground), [set(np.atleast_1d(value).tolist()) for value in foreground.values()]
    inside = label_sets.of_items(torch.tensor([content.code]), [case])[0][-len(labels) :].tolist()
    known = set().union(*(value for value, is_in in zip(values, inside, strict=True) if is_in))
    if strange := [labels[n] for n in sorted(content.labels) if not inside[n] and not values[n] & known]:
        raise ModalityError(
            f"The segmentation of case {case} has voxels of {', '.join(strange)}. The case has "
            f"{code_text(content.code, modalities)}, and dataset.json allows only "
            f"{', '.join(label for label, is_in in zip(labels, inside, strict=True) if is_in)} for it. "
            + (
                f"Correct the list of this case in {BY_CASE!r}."
                if case in label_sets.by_case
                else f"Correct {BY_MODALITY!r}, or give the case its own list in {BY_CASE!r}."
            )
        )
