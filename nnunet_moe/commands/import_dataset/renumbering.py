"""Write segmentations with the values 1, 2, 3 and so on, which nnU-Net needs, where the given values have gaps."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_moe.errors import NnunetMoeError
from nnunet_moe.layouts.found import FoundCase
from nnunet_moe.runtime.processes import map_cases


def numbers_of(labels: Mapping[str, int]) -> dict[str, int]:
    """Return name -> value without gaps, in the order of the given values."""
    return {name: number for number, name in enumerate(sorted(labels, key=lambda name: labels[name]), 1)}


def with_new_numbers(
    cases: Mapping[str, FoundCase],
    labels: Mapping[str, int],
    reader_class: Any,
    new: Path,
    ending: str,
    *,
    num_processes: int,
    show_progress: bool,
) -> dict[str, FoundCase]:
    """Write the segmentations of cases with values without gaps, and return the cases with these files.

    Args:
        cases: the cases; each has a segmentation with no other values than 0 and those of `labels`.
        labels: name -> value in the segmentations.
        reader_class: nnU-Net's reader, which also writes.
        new: an existing folder for the new files.
        ending: the file ending of the dataset.
        num_processes: number of processes.
        show_progress: whether to show a progress bar.

    Raises:
        NnunetMoeError: a file cannot be read or written.
    """
    numbers = numbers_of(labels)
    by_value = {value: numbers[name] for name, value in labels.items()}
    files = {name: new / f"{name}_renumbered{ending}" for name in cases}
    tasks = [(str(case.label), str(files[name]), reader_class, by_value) for name, case in cases.items()]
    results = map_cases(_renumber, tasks, num_processes, description="Renumbering labels", show_progress=show_progress)
    for result in results:
        if isinstance(result, NnunetMoeError):
            raise result
    return {name: replace(case, label=files[name]) for name, case in cases.items()}


def _renumber(file: str, target: str, reader_class: Any, by_value: Mapping[int, int]) -> None:
    segmentation, properties = reader_class().read_seg(file)
    voxels = np.rint(segmentation[0]).astype(np.int64)
    written = np.zeros(voxels.shape, dtype=np.uint8 if len(by_value) < 256 else np.uint16)
    for value, number in by_value.items():
        written[voxels == value] = number
    reader_class().write_seg(written, target, properties)
