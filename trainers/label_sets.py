"""Label sets in a training: written into the plans, checked against the references, and the loss over them."""

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
    """Plans that tell the label sets to the network of a configuration, which never sees dataset.json."""
    if label_sets is None:
        return plans
    settings = PlansManager(plans).get_configuration(configuration).configuration.get(PLANS_KEY, {})
    own = {**plans["configurations"][configuration], PLANS_KEY: {**settings, "label_sets": label_sets.setting}}
    return {**plans, "configurations": {**plans["configurations"], configuration: own}}


def label_set_loss(loss: Any, *, deep_supervision: bool) -> LabelSetLoss:
    """nnU-Net's loss, of each item in its own set.

    Args:
        loss: as nnU-Net's trainer builds it; it is changed.
        deep_supervision: whether it is one for several levels.
    """
    of_level = loss.loss if deep_supervision else loss
    # each group of items has a shape of its own, for all of which nnU-Net's compiled Dice would be compiled
    of_level.dc = getattr(of_level.dc, "_orig_mod", of_level.dc)
    # the processes of a distributed training have items of other sets: what they sum over batches cannot be added
    of_level.dc.ddp = False
    return LabelSetLoss(loss)


def annotation_lines(label_sets: LabelSets, labels: list[str], modalities: tuple[str, ...]) -> list[str]:
    """For the log: what is annotated in each modality, and in the cases with a set of their own.

    Args:
        labels: names of the labels or regions that are scored, in nnU-Net's order.
        modalities: their names.
    """
    of_names = (*zip(modalities, label_sets.by_modality, strict=True), *label_sets.by_case.items())
    # the background comes before the labels, if it is an output
    return [
        f"Annotated in {name}: "
        + ", ".join(labels[number] for number in of_name[-len(labels) :].nonzero().flatten().tolist())
        for name, of_name in of_names
    ]


def require_known_cases(label_sets: LabelSets, cases: Collection[str]) -> None:
    """Make sure that the cases with a set of their own are among those of the dataset.

    Raises:
        ModalityError: they are not.
    """
    if unknown := sorted(label_sets.by_case.keys() - set(cases)):
        raise ModalityError(
            f"{BY_CASE!r} in dataset.json names {', '.join(unknown)}, which is no training case. Correct the name."
        )


def require_annotated(
    label_sets: LabelSets, case: str, content: CaseContent, foreground: Mapping[str, Any], modalities: tuple[str, ...]
) -> None:
    """Make sure that a case's reference shows no labels but those of its set.

    A region that shares labels with one of the set may show: its other labels cannot be told from here.

    Args:
        foreground: name -> value of the labels or regions that are scored, in nnU-Net's order.
        modalities: their names.

    Raises:
        ModalityError: it does.
    """
    labels, values = list(foreground), [set(np.atleast_1d(value).tolist()) for value in foreground.values()]
    inside = label_sets.of_items(torch.tensor([content.code]), [case])[0][-len(labels) :].tolist()
    known = set().union(*(value for value, is_in in zip(values, inside, strict=True) if is_in))
    if strange := [labels[n] for n in sorted(content.labels) if not inside[n] and not values[n] & known]:
        raise ModalityError(
            f"Case {case} has voxels of {', '.join(strange)}. By dataset.json, what is annotated in it, which "
            f"has {code_text(content.code, modalities)}, is "
            f"{', '.join(label for label, is_in in zip(labels, inside, strict=True) if is_in)}. "
            + (
                f"Correct its list in {BY_CASE!r} there."
                if case in label_sets.by_case
                else f"Correct {BY_MODALITY!r} there, or give the case its own list in {BY_CASE!r}."
            )
        )
