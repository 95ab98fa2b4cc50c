"""What is segmented: labels and regions of a dataset."""


def labels_of(dataset_json: dict) -> dict[str, int | tuple[int, ...]]:
    """Name -> label or region, of what is segmented: neither the background nor the ignore label."""
    labels = {
        name: value if isinstance(value, int) else tuple(value)
        for name, value in dataset_json["labels"].items()
        if name != "ignore"
    }
    return {name: value for name, value in labels.items() if value not in (0, (0,))}


def has_regions(dataset_json: dict) -> bool:
    """Whether nnU-Net trains on regions, which may overlap, in the place of labels."""
    return any(isinstance(value, (list, tuple)) and len(value) > 1 for value in dataset_json["labels"].values())
