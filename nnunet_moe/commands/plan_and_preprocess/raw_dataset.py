"""A raw dataset in nnU-Net's layout, any of whose cases may lack any of its files."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json
from nnunetv2.paths import nnUNet_raw
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

from nnunet_moe.errors import ModalityError, NnunetMoeError
from nnunet_moe.images.file_names import files_by_channel, list_cases
from nnunet_moe.images.geometry import require_same_geometry
from nnunet_moe.images.reading import read_case, read_segmentation
from nnunet_moe.labels.label_sets import BY_CASE, LabelSets
from nnunet_moe.modalities.availability import Availability
from nnunet_moe.modalities.codes import Code, channel_names
from nnunet_moe.runtime.files import nnunet_folder
from nnunet_moe.runtime.processes import map_cases


@dataclass(frozen=True)
class RawDataset:
    """What `nnUNet_raw` holds of a dataset."""

    folder: Path
    dataset_json: dict[str, Any]
    cases: dict[str, dict[str, Any]]
    """Training case -> `images`, those files that there are, and `label`, as nnU-Net lists them."""

    @property
    def modalities(self) -> tuple[str, ...]:
        return channel_names(self.dataset_json)

    @cached_property
    def reader_class(self) -> Any:
        """The reader that nnU-Net's planner takes, too.

        Raises:
            ModalityError: no reader of nnU-Net's reads the first image, which the planner will want as well.
        """
        example = next(iter(self.cases.values()))["images"][0]
        try:
            return determine_reader_writer_from_dataset_json(self.dataset_json, example, verbose=False)
        except RuntimeError as error:
            raise ModalityError(
                f"{example} cannot be read: {error}. Copy or convert it again, or remove it: a modality may be missing."
            ) from error

    def code_of_files(self, images: Sequence[str]) -> Code:
        """The code that the names of a case's files tell."""
        channels = files_by_channel(images, self.dataset_json)
        return tuple(channel in channels for channel in range(len(self.modalities)))

    def availability(self, codes: Mapping[str, Code] | None = None) -> Availability:
        """Of the training cases; their codes tell which files are not zero everywhere, if that is known."""
        files = {name: self.code_of_files(case["images"]) for name, case in self.cases.items()}
        return Availability(files, self.modalities, codes)

    def unused(self) -> list[str]:
        """Files in `imagesTr` of other endings, and segmentations in `labelsTr` without any image."""
        ending = self.dataset_json["file_ending"]
        images = (path for path in (self.folder / "imagesTr").glob("[!.]*") if not path.name.endswith(ending))
        used = {os.path.realpath(case["label"]) for case in self.cases.values()}
        labels = (path for path in (self.folder / "labelsTr").glob(f"[!.]*{ending}"))
        return sorted(map(str, [*images, *(path for path in labels if os.path.realpath(path) not in used)]))

    def test_availability(self) -> tuple[Availability | None, list[str]]:
        """Of the test cases in `imagesTs` by their files' names, None if there are none; and what is wrong there."""
        folder = self.folder / "imagesTs"
        cases, strays = list_cases(folder, self.dataset_json["file_ending"]) if folder.is_dir() else ({}, [])
        problems = [f"{file} names no channel." for file in strays]
        codes = {}
        for name, images in cases.items():
            try:
                codes[name] = self.code_of_files(images)
            except ModalityError as error:
                problems.append(str(error))
        return Availability(codes, self.modalities) if codes else None, problems


def read_raw_dataset(name: str) -> RawDataset:
    """List the training cases of a dataset.

    Args:
        name: its full name.

    Raises:
        ModalityError: no dataset.json, no cases, or files that belong to no case or to no channel; label sets of what
            there is not.
    """
    folder = nnunet_folder(nnUNet_raw) / name
    file = folder / "dataset.json"
    if not file.exists():
        raise ModalityError(f"{file} is not there. A raw dataset has imagesTr, labelsTr and dataset.json.")
    try:
        dataset_json = json.loads(file.read_text())
        names, _ = channel_names(dataset_json), [dataset_json[key] for key in ("numTraining", "file_ending")]
        LabelManager(dataset_json["labels"], dataset_json.get("regions_class_order"))
    except (ModalityError, ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
        raise ModalityError(
            f"{file} cannot be used ({type(error).__name__}: {error}). It needs labels, "
            "channel_names, numTraining and file_ending."
        ) from error
    label_sets = LabelSets.of(dataset_json)
    problems, seen = [], set()
    if "dataset" not in dataset_json:
        images, strays = list_cases(folder / "imagesTr", dataset_json["file_ending"])
        if strays:
            raise ModalityError(
                f"{_some(strays)}: images are named CASE_XXXX{dataset_json['file_ending']}, where XXXX is the channel. "
                "Rename or remove these files."
            )
        if not images:
            raise ModalityError(f"{folder / 'imagesTr'} holds no images CASE_XXXX{dataset_json['file_ending']}.")
        seen = {file for files in images.values() for file in files}
    cases = get_filenames_of_train_images_and_targets(str(folder), dataset_json)
    if unlisted := sorted(seen - {file for files in cases.values() for file in files["images"]}):
        problems.append(
            f"{_some(unlisted)}: nnU-Net's training takes names in {dataset_json['file_ending']}, spelt so, alone."
        )
    if not cases:
        raise ModalityError(f"{file} lists no case under 'dataset'.")
    if label_sets is not None and (unknown := sorted(label_sets.by_case.keys() - cases.keys())):
        problems.append(f"{BY_CASE!r} in dataset.json names {_some(unknown)}, which is no training case.")
    for case, files in cases.items():
        there = [*files["images"], files["label"]]
        problems += [f"{case}: {path} does not exist." for path in there if not Path(path).exists()]
        try:
            channels = list(files_by_channel(files["images"], dataset_json))
        except ModalityError as error:
            problems.append(f"{case}: {error}")
        else:
            if channels != sorted(channels):
                problems.append(
                    f"{case}: 'dataset' in dataset.json lists the channels {channels}. Files are told apart by the "
                    "_XXXX in their names: list them in that order."
                )
    require_none(problems, f"{folder}, with the modalities {', '.join(names)}")
    return RawDataset(folder, dataset_json, cases)


def verify_integrity(dataset: RawDataset, num_processes: int, *, show_progress: bool = True) -> None:
    """What nnU-Net's `--verify_dataset_integrity` checks, where any case may lack any of its files.

    Images and segmentation must lie on one grid; where their origins or directions differ, nnU-Net warns alone.

    Raises:
        ModalityError: all problems that were found.
    """
    problems = []
    if dataset.dataset_json["numTraining"] != len(dataset.cases):
        problems.append(
            f"dataset.json says {dataset.dataset_json['numTraining']} training cases (numTraining), there are "
            f"{len(dataset.cases)}."
        )
    labels = LabelManager(dataset.dataset_json["labels"], dataset.dataset_json.get("regions_class_order"))
    ignore = [] if labels.ignore_label is None else [labels.ignore_label]
    allowed = sorted(int(label) for label in [*labels.all_labels, *ignore])
    if allowed != list(range(len(allowed))):
        problems.append(f"The labels in dataset.json are {allowed}; nnU-Net wants 0, 1, 2 and so on.")
    tasks = [
        (case["images"], case["label"], dataset.reader_class, dataset.dataset_json, frozenset(allowed))
        for case in dataset.cases.values()
    ]
    results = map_cases(verify_case, tasks, num_processes, description="Verifying cases", show_progress=show_progress)
    problems += [str(result) for result in results if isinstance(result, NnunetMoeError)]
    require_none(problems, str(dataset.folder))


def verify_case(
    images: Sequence[str], label: str, reader_class: Any, dataset_json: dict[str, Any], allowed: frozenset[int]
) -> None:
    """Read a case whole, and compare its segmentation with its images and the labels.

    Raises:
        ModalityError: files that cannot be used, on different grids, or with labels that dataset.json does not name.
    """
    reader = reader_class()
    read = read_case(images, reader, dataset_json)
    image, properties = read.image, read.properties
    segmentation, label_properties = read_segmentation(label, reader)
    require_same_geometry(min(images), label, (image.shape[1:], properties), (segmentation.shape, label_properties))
    if unexpected := [value for value in np.unique(segmentation).tolist() if value not in allowed]:
        raise ModalityError(
            f"{label} holds {', '.join(f'{value:g}' for value in unexpected)}; the labels in dataset.json are "
            f"{', '.join(map(str, sorted(allowed)))}. Correct one of both."
        )


def require_none(problems: Sequence[str], where: str) -> None:
    """Raise all problems at once.

    Raises:
        ModalityError: there is one.
    """
    if problems:
        listed = "\n  ".join(problems)
        raise ModalityError(f"{where}: repair these first, or take the cases out.\n  {listed}")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
