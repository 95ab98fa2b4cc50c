"""Regions, which are unions of labels, e.g. the whole tumor. nnU-Net can train on them instead of on labels."""

from collections.abc import Mapping, Sequence

from nnunet_moe.errors import SettingsError


def regions_in_dataset_json(
    regions: Mapping[str, Sequence[str]], labels: Mapping[str, int]
) -> tuple[dict[str, int | list[int]], list[int]]:
    """Return what dataset.json needs for regions: name -> values of its labels, and `regions_class_order`.

    nnU-Net writes a predicted segmentation region by region in this order. So each region stands for its one label that
    no later region contains, and large regions must come before the small ones inside them.

    Args:
        regions: name -> names of its labels, large regions first.
        labels: name -> value.

    Raises:
        SettingsError: a label is unknown or in no region, or a region has no or several labels of its own.
    """
    order, used = [], {label for names in regions.values() for label in names}
    if unknown := sorted(used - labels.keys()):
        raise SettingsError(f"-regions names {unknown[0]!r}. The labels are {', '.join(labels)}. Use these names.")
    if missing := [label for label in labels if label not in used]:
        raise SettingsError(f"-regions: the label {missing[0]!r} is in no region. Add it to one.")
    names = list(regions)
    for place, name in enumerate(names):
        later = {label for other in names[place + 1 :] for label in regions[other]}
        own = [label for label in regions[name] if label not in later]
        if len(own) != 1:
            raise SettingsError(
                f"-regions: {name!r} has {len(own)} labels that no later region has ({', '.join(own) or 'none'}). It "
                "must have one. Name large regions before the regions inside them."
            )
        order.append(labels[own[0]])
    values = {name: [labels[label] for label in regions[name]] for name in names}
    return {name: value[0] if len(value) == 1 else value for name, value in values.items()}, order
