"""What is segmented: labels and regions of a dataset, and the space they lie in."""

from collections.abc import Sequence

NO_AXIS = 900  # nnU-Net's readers give 2D images a first axis of one slice, 999 times as thick as a pixel is wide


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


def axes_in_space(shape: Sequence[int], spacing: Sequence[float]) -> tuple[float, ...]:
    """The spacing of the axes that lie in space, in mm: all of them, or the last two of a 2D image.

    Args:
        shape: `(*space)` as nnU-Net's readers give it; a 2D image has a first axis of one slice.
        spacing: mm, as the reader gave it.
    """
    is_flat = shape[0] == 1 and spacing[0] >= NO_AXIS * max(spacing[1:])
    return tuple(spacing[1:] if is_flat else spacing)
