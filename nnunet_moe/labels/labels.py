"""The labels and regions of a dataset."""

import numbers
from collections.abc import Iterable, Mapping
from typing import Any

from nnunet_moe.errors import ModalityError

BACKGROUND, IGNORE = "background", "ignore"


def label_values(dataset_json: dict[str, Any]) -> dict[str, int | tuple[int, ...]]:
    """Return name -> value of all labels or regions, with the background and the ignore label.

    Values are converted once, as nnU-Net converts them: `"1"` and `1.0` are 1.

    Raises:
        ModalityError: dataset.json has no labels, or a value is not a whole number or a list of them.
    """
    labels = dataset_json.get("labels")
    if not isinstance(labels, Mapping) or not labels:
        raise ModalityError(
            f"'labels' in dataset.json is {labels!r}. It must have names and values: "
            '{"background": 0, "lesion": 1, ...}. Correct it.'
        )
    return {name: _value(name, value) for name, value in labels.items()}


def labels_of(dataset_json: dict[str, Any]) -> dict[str, int | tuple[int, ...]]:
    """Return the labels or regions to segment, name -> value, without the background and the ignore label.

    Raises:
        ModalityError: as in `label_values`.
    """
    values = label_values(dataset_json)
    return {name: value for name, value in values.items() if name != IGNORE and _sorted_values([value]) != [0]}


def voxel_values(dataset_json: dict[str, Any]) -> list[int]:
    """Return the values that voxels of a segmentation may have, sorted: 0, all labels, and the ignore label.

    Raises:
        ModalityError: as in `label_values`.
    """
    return _sorted_values([0, *label_values(dataset_json).values()])


def has_regions(dataset_json: dict[str, Any]) -> bool:
    """Return whether nnU-Net trains on regions, which can overlap, instead of labels."""
    return any(isinstance(value, tuple) and len(value) > 1 for value in label_values(dataset_json).values())


def require_trainable_labels(dataset_json: dict[str, Any]) -> None:
    """Make sure that nnU-Net can train on the labels.

    Raises:
        ModalityError: it cannot; the message names the key in dataset.json and what to do.
    """
    values = label_values(dataset_json)
    _require_background(dataset_json["labels"], values)
    if not labels_of(dataset_json):
        raise ModalityError("'labels' in dataset.json has nothing but the background. Add at least one label.")
    if IGNORE in values:
        _require_ignore_label(dataset_json["labels"][IGNORE], values)
    if has_regions(dataset_json):
        _require_region_values(dataset_json)
    elif (allowed := voxel_values(dataset_json)) != list(range(len(allowed))):
        raise ModalityError(
            f"The labels in dataset.json are {', '.join(map(str, allowed))}. nnU-Net needs 0, 1, 2 and so on, without "
            "gaps. Renumber them there and in the segmentations."
        )


def _require_background(given: Mapping[str, Any], values: Mapping[str, int | tuple[int, ...]]) -> None:
    if BACKGROUND not in values:
        meant = next((name for name in given if name.strip().lower() == BACKGROUND), None)
        turned = [name for name, value in given.items() if str(value).strip().lower() == BACKGROUND]
        if meant is not None:
            remedy = f"Rename {meant!r} to 'background'."
        elif turned:
            remedy = 'Write names as keys and numbers as values: {"background": 0, "lesion": 1, ...}.'
        else:
            remedy = 'Add "background": 0.'
        raise ModalityError(f"'labels' in dataset.json has no 'background', which nnU-Net needs. {remedy}")
    if values[BACKGROUND] != 0:
        raise ModalityError(
            f"'labels' in dataset.json has {given[BACKGROUND]!r} for 'background'. It must be 0. Correct it."
        )


def _require_ignore_label(given: Any, values: Mapping[str, int | tuple[int, ...]]) -> None:
    highest = max(_sorted_values(value for name, value in values.items() if name != IGNORE))
    if type(given) is not int or given != highest + 1:
        raise ModalityError(
            f"'labels' in dataset.json has {given!r} for 'ignore'. nnU-Net needs the number after all other labels, "
            f"{highest + 1}. Correct it there and in the segmentations."
        )


def _require_region_values(dataset_json: dict[str, Any]) -> None:
    """Refuse what nnU-Net's planner takes for regions, but its training or prediction cannot use."""
    for name, value in dataset_json["labels"].items():
        if isinstance(value, list):
            is_usable = all(isinstance(each, numbers.Real) for each in value)
        else:
            is_usable = isinstance(value, int)
        if not is_usable:
            raise ModalityError(
                f"'labels' in dataset.json has {value!r} for {name!r}. Where labels form regions, nnU-Net needs "
                'numbers such as 1, not texts such as "1" or 1.0. Correct it.'
            )
    order, regions = dataset_json.get("regions_class_order"), labels_of(dataset_json)
    if not isinstance(order, list) or len(order) != len(regions) or not all(type(value) is int for value in order):
        raise ModalityError(
            f"'regions_class_order' in dataset.json is {order!r}. It must list one number for each of "
            f"{', '.join(regions)}. Correct it."
        )


def _value(name: str, given: Any) -> int | tuple[int, ...]:
    if isinstance(given, (list, tuple)) and given:
        return tuple(_whole(name, given, value) for value in given)
    return _whole(name, given, given)


def _whole(name: str, given: Any, value: Any) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        number = None
    if number is None or (isinstance(value, float) and number != value):
        raise ModalityError(
            f"'labels' in dataset.json has {given!r} for {name!r}. It must be a whole number, or a list of whole "
            "numbers for a region. Correct it."
        )
    return number


def _sorted_values(values: Iterable[int | tuple[int, ...]]) -> list[int]:
    single: set[int] = set()
    for value in values:
        single.update(value if isinstance(value, tuple) else (value,))
    return sorted(single)
