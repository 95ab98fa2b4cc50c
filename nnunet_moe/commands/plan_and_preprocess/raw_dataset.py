"""A raw dataset in nnU-Net's layout, in which any file of any case may be missing."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO
from nnunetv2.paths import nnUNet_raw
from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

from nnunet_moe.commands.plan_and_preprocess.dataset_json import num_training, read_dataset_json
from nnunet_moe.errors import ModalityError, NnunetMoeError
from nnunet_moe.images.file_names import files_by_channel, list_cases
from nnunet_moe.images.reading import read_case, read_segmentation_of
from nnunet_moe.labels.label_sets import BY_CASE, LabelSets
from nnunet_moe.labels.labels import voxel_values
from nnunet_moe.labels.voxels import require_known
from nnunet_moe.modalities.availability import Availability
from nnunet_moe.modalities.codes import Code, channel_names
from nnunet_moe.runtime.files import is_hidden, nnunet_folder, visible
from nnunet_moe.runtime.processes import map_cases


@dataclass(frozen=True)
class RawDataset:
    """The files of a dataset in `nnUNet_raw`."""

    folder: Path
    dataset_json: dict[str, Any]
    cases: dict[str, dict[str, Any]]
    """Training case -> `images`, the available files, and `label`, as nnU-Net lists them."""

    @property
    def modalities(self) -> tuple[str, ...]:
        return channel_names(self.dataset_json)

    @cached_property
    def reader_class(self) -> Any:
        """Return the reader that nnU-Net's planner uses, too.

        Raises:
            ModalityError: none of nnU-Net's readers can read the first image, which the planner needs as well.
        """
        example = next(iter(self.cases.values()))["images"][0]
        try:
            return determine_reader_writer_from_dataset_json(self.dataset_json, example, verbose=False)
        except RuntimeError as error:
            raise ModalityError(
                f"{example} cannot be read: {error}. Copy or convert it again, or remove it, because "
                "a modality may be missing."
            ) from error

    def code_of_files(self, images: Sequence[str]) -> Code:
        """Return the code of a case from its file names."""
        channels = files_by_channel(images, self.dataset_json)
        return tuple(channel in channels for channel in range(len(self.modalities)))

    def availability(self, codes: Mapping[str, Code] | None = None) -> Availability:
        """Return the availability in the training cases; `codes`, if known, exclude files that are zero everywhere."""
        files = {name: self.code_of_files(case["images"]) for name, case in self.cases.items()}
        return Availability(files, self.modalities, codes)

    def unused(self) -> list[str]:
        """List files in `imagesTr` with other endings, and segmentations in `labelsTr` without any image."""
        ending = self.dataset_json["file_ending"]
        spacings = {f"{case}.json" for case in self.cases} if ending in Tiff3DIO.supported_file_endings else set()
        folders = [folder for name in ("imagesTr", "labelsTr") if (folder := self.folder / name).is_dir()]
        files = [path for folder in folders for path in visible(folder) if path.name not in spacings]
        images = [path for path in files if path.parent.name == "imagesTr" and not path.name.endswith(ending)]
        labels = [path for path in files if path.parent.name == "labelsTr" and path.name.endswith(ending)]
        used = {os.path.realpath(case["label"]) for case in self.cases.values()}
        return sorted(map(str, [*images, *(path for path in labels if os.path.realpath(path) not in used)]))

    def test_availability(self) -> tuple[Availability | None, list[str]]:
        """Return the availability in the test cases by file names, or None without test cases; and the problems."""
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
        name: full name of the dataset.

    Raises:
        ModalityError: there is no dataset.json or no case, a file belongs to no case or channel, or label sets name
            an unknown case.
        NnunetMoeError: dataset.json cannot be used.
    """
    folder = nnunet_folder(nnUNet_raw) / name
    file = folder / "dataset.json"
    if not file.exists():
        raise ModalityError(
            f"{file} does not exist. A raw dataset needs imagesTr, labelsTr and dataset.json. Add the missing ones."
        )
    dataset_json = read_dataset_json(file)
    label_sets = LabelSets.of(dataset_json)
    seen, problems = (set(), []) if "dataset" in dataset_json else _listed_images(folder, dataset_json)
    cases = visible_cases(get_filenames_of_train_images_and_targets(str(folder), dataset_json))
    if unlisted := sorted(seen - {file for files in cases.values() for file in files["images"]}):
        problems.append(
            f"{some(unlisted)}: nnU-Net's training reads only names with exactly the ending "
            f"{dataset_json['file_ending']}. Rename these files."
        )
    if not cases:
        raise ModalityError(f"{file} lists no case under 'dataset'. List the cases, or remove this key.")
    if label_sets is not None and (unknown := sorted(label_sets.by_case.keys() - cases.keys())):
        problems.append(f"{BY_CASE!r} in dataset.json lists {some(unknown)}, but no training case has this name.")
    for case, files in cases.items():
        problems += [f"{case}: {problem}" for problem in _problems_of(files, dataset_json)]
    require_none(problems, f"{folder}, with the modalities {', '.join(channel_names(dataset_json))}")
    return RawDataset(folder, dataset_json, cases)


def _listed_images(folder: Path, dataset_json: dict[str, Any]) -> tuple[set[str], list[str]]:
    """Return the images in `imagesTr`, and problems with folders that have the name of an image.

    Raises:
        ModalityError: there is no image, or the name of a file has no channel.
    """
    images, strays = list_cases(folder / "imagesTr", dataset_json["file_ending"])
    if strays:
        raise ModalityError(
            f"{some(strays)}: images must be named CASE_XXXX{dataset_json['file_ending']}, where XXXX is the "
            "channel. Rename or remove these files."
        )
    if not images:
        raise ModalityError(
            f"{folder / 'imagesTr'} has no images CASE_XXXX{dataset_json['file_ending']}. Add or rename them."
        )
    seen = {file for files in images.values() for file in files}
    folders = sorted(file for file in seen if Path(file).is_dir())
    problems = [f"{path} is a folder, but must be an image. Move the image out of it." for path in folders]
    return seen - set(folders), problems


def _problems_of(files: Mapping[str, Any], dataset_json: dict[str, Any]) -> list[str]:
    """Return what is wrong with the names of the files of a case."""
    problems = [f"{path} does not exist." for path in (*files["images"], files["label"]) if not os.path.exists(path)]
    try:
        channels = list(files_by_channel(files["images"], dataset_json))
    except ModalityError as error:
        return [*problems, str(error)]
    if channels != sorted(channels):
        problems.append(
            f"'dataset' in dataset.json lists the channels in the order {channels}. List the files in the order of "
            "_XXXX in their names."
        )
    return problems


def visible_cases(cases: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the cases without those that nnU-Net makes of hidden files, such as `._CASE_0000.nii.gz` of macOS."""
    return {name: files for name, files in cases.items() if not is_hidden(name)}


def verify_integrity(
    dataset: RawDataset, num_processes: int, *, refuse_copies: bool = False, show_progress: bool = True
) -> None:
    """Check what nnU-Net's `--verify_dataset_integrity` checks, in cases that may have missing files.

    Images and segmentation must lie on the same grid. nnU-Net only warns if their origins or directions differ.

    Raises:
        ModalityError: there are problems; the message lists all of them.
    """
    problems = []
    if (number := num_training(dataset.dataset_json)) != len(dataset.cases):
        problems.append(f"dataset.json says {number} training cases (numTraining), but there are {len(dataset.cases)}.")
    allowed = voxel_values(dataset.dataset_json)
    if allowed != list(range(len(allowed))):
        problems.append(f"The labels in dataset.json are {allowed}. nnU-Net needs 0, 1, 2 and so on.")
    tasks = [
        (case["images"], case["label"], dataset.reader_class, dataset.dataset_json, refuse_copies)
        for case in dataset.cases.values()
    ]
    results = map_cases(verify_case, tasks, num_processes, description="Verifying cases", show_progress=show_progress)
    problems += [str(result) for result in results if isinstance(result, NnunetMoeError)]
    require_none(problems, str(dataset.folder))


def verify_case(
    images: Sequence[str], label: str, reader_class: Any, dataset_json: dict[str, Any], refuse_copies: bool
) -> None:
    """Read all files of a case, and compare its segmentation with its images and with the labels.

    Raises:
        ModalityError: a file cannot be used, the grids differ, or dataset.json does not have one of the labels.
    """
    reader = reader_class()
    read = read_case(images, reader, dataset_json)
    if refuse_copies:
        read.require_no_copies()
    segmentation, _ = read_segmentation_of(label, reader, min(images), read)
    require_known(segmentation, label, dataset_json)


def require_none(problems: Sequence[str], where: str) -> None:
    """Raise one error for all problems.

    Raises:
        ModalityError: there is at least one problem.
    """
    if problems:
        listed = "\n  ".join(problems)
        raise ModalityError(f"{where}: fix these problems, or remove the cases.\n  {listed}")


def some(names: Sequence[str]) -> str:
    """Return the first five names, and how many more there are."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
