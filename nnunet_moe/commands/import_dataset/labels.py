"""The labels of a dataset: those that the user names, or the values in the segmentations."""

from collections.abc import Mapping, Sequence

from nnunet_moe.commands.import_dataset.filled import ReadCase
from nnunet_moe.commands.import_dataset.renumbering import numbers_of
from nnunet_moe.commands.import_dataset.request import Request
from nnunet_moe.errors import ModalityError
from nnunet_moe.labels.voxels import MOST_EXAMPLES
from nnunet_moe.layouts.found import FoundCase

MOST_ODD = 0.1
"""The largest share of segmentations that may hold other values than -labels. If more do, -labels must be wrong."""


def cases_with_other_labels(
    request: Request, cases: Mapping[str, FoundCase], read: Mapping[str, ReadCase]
) -> dict[str, str]:
    """Return the cases whose segmentations hold other values than -labels, with the reason.

    Raises:
        ModalityError: these are so many that rather -labels must be wrong.
    """
    if request.labels is None:
        return {}
    allowed, labeled = {0, *request.labels.values()}, [name for name in read if cases[name].label is not None]
    odd = {name: values for name in labeled if (values := sorted(read[name].labels - allowed))}
    reasons = {
        name: f"It belongs to {name}, which cannot be used: {cases[name].label} holds {_some(values)}. The labels of "
        f"-labels are {', '.join(f'{label}={value}' for label, value in request.labels.items())}. Correct the "
        "segmentation or -labels."
        for name, values in odd.items()
    }
    if len(odd) > max(1, MOST_ODD * len(labeled)):
        text = "".join(f"\n  {cases[name].label}: {_some(values)}" for name, values in list(odd.items())[:5])
        raise ModalityError(
            f"{len(odd)} of {len(labeled)} segmentations hold other values than -labels {dict(request.labels)}, such as"
            f"{text}\nCorrect -labels or the segmentations."
        )
    return reasons


def labels_of(request: Request, cases: Mapping[str, FoundCase], read: Mapping[str, ReadCase]) -> dict[str, int]:
    """Return name -> value of the requested labels as they are written, or of the labels in the segmentations.

    Raises:
        ModalityError: the values in the segmentations have gaps, or there is only the background.
    """
    if request.labels is not None:
        return numbers_of(request.labels) if request.renumber else dict(request.labels)
    by_value: dict[int, list[str]] = {}
    for name in cases:
        for value in read[name].labels - {0}:
            by_value.setdefault(value, []).append(str(cases[name].label))
    values = sorted(by_value)
    if not values:
        raise ModalityError("The segmentations hold only 0. If that is correct, name the labels with -labels.")
    missing = sorted(set(range(1, len(values) + 1)) - by_value.keys())
    if missing:
        rarest = sorted(values, key=lambda value: (len(by_value[value]), value))[:5]
        text = "".join(
            f"\n  {value} is in {len(by_value[value])} of {len(cases)}, such as {by_value[value][0]}"
            for value in rarest
        )
        raise ModalityError(
            f"The segmentations hold {_some(values)}, but not {_some(missing)}. nnU-Net needs 1, 2, 3 and so on, "
            f"without gaps. The rarest values:{text}\nIf some are mistakes, name the right labels with -labels, and "
            "the few cases with other values are not placed. If labels just do not occur in these cases, name all of "
            f"them with -labels. Otherwise change the labels{_masks(values)}."
        )
    return {f"label_{value}": value for value in values}


def _masks(values: Sequence[int]) -> str:
    """Return how to change the labels of masks with a single value, such as 255."""
    return f" in the files: write 1 where they hold {values[0]}" if len(values) == 1 else ""


def _some(values: Sequence[int]) -> str:
    more = f" and {len(values) - MOST_EXAMPLES} other values" if len(values) > MOST_EXAMPLES else ""
    return ", ".join(map(str, values[:MOST_EXAMPLES])) + more
