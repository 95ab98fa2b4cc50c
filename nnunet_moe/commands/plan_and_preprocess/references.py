"""The copies of the segmentations with which nnU-Net's validation compares, in `gt_segmentations`."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from nnunet_moe.commands.plan_and_preprocess.raw_dataset import RawDataset, require_none
from nnunet_moe.errors import NnunetMoeError
from nnunet_moe.images.reading import read_segmentation
from nnunet_moe.runtime.files import atomic_write
from nnunet_moe.runtime.processes import map_cases

FLOATS = (sitk.sitkFloat32, sitk.sitkFloat64)


def copy_references(dataset: RawDataset, preprocessed: Path, num_processes: int) -> None:
    """Copy the segmentations of a dataset, and correct the copies whose labels have rounding errors.

    nnU-Net's validation takes only exactly 1 for the label 1. nnU-Net's own copying would keep a copy that is newer
    than a corrected segmentation, and copy hidden files.

    Args:
        dataset: the raw dataset.
        preprocessed: its folder in `nnUNet_preprocessed`.
        num_processes: number of processes that read segmentations.

    Raises:
        ModalityError: a segmentation cannot be used.
    """
    ending = dataset.dataset_json["file_ending"]
    copies = {case: preprocessed / "gt_segmentations" / f"{case}{ending}" for case in dataset.cases}
    for case, copy in copies.items():
        copy.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(copy) as unfinished:
            shutil.copy2(dataset.cases[case]["label"], unfinished)
    tasks = [(copy, dataset.reader_class) for copy in copies.values() if _may_have_fractions(copy)]
    results = map_cases(round_labels, tasks, num_processes, description="Checking labels", show_progress=False)
    require_none([str(result) for result in results if isinstance(result, NnunetMoeError)], str(dataset.folder))


def round_labels(file: Path, reader_class: Any) -> None:
    """Write a segmentation again if its labels have rounding errors.

    Raises:
        ModalityError: it cannot be read, or has other voxels than whole numbers.
    """
    reader = reader_class()
    labels, properties = read_segmentation(str(file), reader)
    if not np.array_equal(labels, reader.read_seg(str(file))[0][0]):
        with atomic_write(file) as unfinished:
            reader.write_seg(labels, str(unfinished), properties)


def _may_have_fractions(file: Path) -> bool:
    """Return whether a file stores floating-point numbers or scales its integers; also if ITK does not know it."""
    header = sitk.ImageFileReader()
    header.SetFileName(str(file))
    try:
        header.ReadImageInformation()
    except RuntimeError:
        return True
    return header.GetPixelID() in FLOATS
