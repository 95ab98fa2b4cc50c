"""The labels and regions of a dataset."""


def labels_of(dataset_json: dict) -> dict[str, int | tuple[int, ...]]:
    """Return the labels or regions to segment, name -> value, without the background and the ignore label."""
    labels = {
        name: value if isinstance(value, int) else tuple(value)
        for name, value in dataset_json["labels"].items()
        if name != "ignore"
    }
    return {name: value for name, value in labels.items() if value not in (0, (0,))}


def has_regions(dataset_json: dict) -> bool:
    """Return whether nnU-Net trains on regions, which can overlap, instead of labels."""
    return any(isinstance(value, (list, tuple)) and len(value) > 1 for value in dataset_json["labels"].values())
