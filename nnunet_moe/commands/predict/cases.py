"""Find the cases in a folder of images, and the files that belong to no case."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_moe.commands.predict.manifest import Failure
from nnunet_moe.errors import ModalityError
from nnunet_moe.images.file_names import READABLE_ENDINGS, case_and_channel, files_by_channel, files_of, list_cases
from nnunet_moe.modalities.codes import channel_names
from nnunet_moe.runtime.files import visible


@dataclass(frozen=True)
class CaseFiles:
    """The files of a case."""

    name: str
    images: tuple[str, ...]
    """Files, or folders with a DICOM series."""
    previous_stage: str | None
    """The segmentation of a cascade's previous stage, or None."""
    channels: tuple[int, ...] | None = None
    """The channels of the images; None if they are in the names of the files."""
    notes: tuple[str, ...] = ()
    """Messages on files and folders of the case that are not used."""

    @property
    def folder(self) -> Path | None:
        """The folder in which other files may have names of the case; None if names do not contain the channels."""
        return Path(self.images[0]).parent if self.channels is None else None

    @property
    def read(self) -> list[str]:
        """Return all files and folders from which the case is predicted."""
        return files_of(self.images, self.previous_stage)

    def by_modality(self, dataset_json: dict[str, Any]) -> dict[str, str]:
        """Return modality -> file or folder, in channel order.

        Raises:
            ModalityError: as in `files_by_channel`.
        """
        files = (
            files_by_channel(self.images, dataset_json)
            if self.channels is None
            else dict(zip(self.channels, self.images, strict=True))
        )
        names = channel_names(dataset_json)
        return {names[channel]: files[channel] for channel in sorted(files)}


def find_cases(
    images: Path, dataset_json: Mapping[str, Any], previous_stage: Path | None
) -> tuple[list[CaseFiles], list[Failure]]:
    """Return the cases, and a failure for each file whose case is not clear.

    Args:
        images: folder of the images.
        dataset_json: the content of dataset.json.
        previous_stage: for a cascade, the folder with the segmentations of the previous stage.

    Raises:
        ModalityError: the folder does not exist, or contains no image.
    """
    folder, ending = images.resolve(), dataset_json["file_ending"]
    files, strays = list_cases(folder, ending)
    if not files and not strays:
        raise ModalityError(
            f"{images} has no images CASE_XXXX{ending}, where XXXX is the channel. Check -i and the file names."
        )
    failures = [_no_channel(file, dataset_json) for file in strays]
    failures += [
        Failure(name, tuple(others), f"No file of the case ends in {ending}. {_wanted(dataset_json)}")
        for name, others in _of_other_endings(folder, set(files), ending).items()
    ]
    unclear = {**_without_channel(files, dataset_json), **_in_other_case(files)}
    failures += [Failure(name, tuple(files[name]), reason) for name, reason in unclear.items()]
    clear = {name: paths for name, paths in files.items() if name not in unclear}
    cases = [
        CaseFiles(name, tuple(paths), None if previous_stage is None else str(previous_stage / f"{name}{ending}"))
        for name, paths in clear.items()
    ]
    return cases, failures


def part_of(
    cases: Sequence[CaseFiles], failures: Sequence[Failure], *, num_parts: int, part_id: int
) -> tuple[list[CaseFiles], list[Failure]]:
    """Return one part of the cases and, for the first part, all failures.

    Args:
        cases, failures: all of them.
        num_parts: number of parts into which the cases are divided.
        part_id: number of the part, from 0.
    """
    return [*cases[part_id::num_parts]], [*failures] if part_id == 0 else []


def _wanted(dataset_json: Mapping[str, Any]) -> str:
    names = ", ".join(f"{channel:04d} ({name})" for channel, name in enumerate(channel_names(dict(dataset_json))))
    return f"Images must be named CASE_XXXX{dataset_json['file_ending']}, where XXXX is one of {names}."


def _no_channel(file: str, dataset_json: Mapping[str, Any]) -> Failure:
    """Say what is wrong with a name that is not that of an image of a case."""
    name, wanted, ending = Path(file).name, _wanted(dataset_json), dataset_json["file_ending"]
    if not Path(file).exists():  # `list_cases` returns these names in a form that can be printed
        return Failure(name, (file,), f"The name is not UTF-8, so it may have no channel. {wanted} Rename it.")
    text = f"The name has no channel. {wanted}"
    if (digits := re.fullmatch(r"(.+?)[-_. ](\d{1,3})", name[: -len(ending)], re.ASCII)) is not None:
        text += f" If {digits[2]} is the channel, rename the file to {digits[1]}_{int(digits[2]):04d}{ending}."
    return Failure(name, (file,), f"{text} If {name[: -len(ending)]} is the case, add the channel to the name.")


def _without_channel(files: Mapping[str, Sequence[str]], dataset_json: Mapping[str, Any]) -> dict[str, str]:
    """Return the cases whose files rather are other cases without a channel: `Pat_0002` next to `Pat_0001_0000`."""
    ending, found = dataset_json["file_ending"], {}
    numbered: dict[str, str] = {}
    for name in files:
        if (number := re.fullmatch(r"(.+)_\d{4}", name, re.DOTALL | re.ASCII)) is not None:
            numbered.setdefault(number[1], name)
    for name in files.keys() & numbered.keys():
        first = Path(files[name][0]).name
        stem = first[: -len(ending)]
        found[name] = (
            f"{first} would be channel {int(stem[-4:])} of the case {name}, but it looks like the case {stem} without "
            f"its channel, because another case is named {numbered[name]}. {_wanted(dataset_json)} If {stem} is the "
            f"case, add the channel to the name, such as {stem}_0000{ending}. If {name} is the case, predict it from a "
            "folder of its own."
        )
    return found


def _in_other_case(files: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Return the cases whose names differ only in upper and lower case, which perhaps are one case."""
    by_name: dict[str, list[str]] = {}
    for name in files:
        by_name.setdefault(name.lower(), []).append(name)
    return {
        name: f"The cases {' and '.join(names)} differ only in upper and lower case. If they are one case, give all "
        "its files the same name. If not, rename one of them."
        for names in by_name.values()
        if len(names) > 1
        for name in names
    }


def _of_other_endings(folder: Path, cases: set[str], ending: str) -> dict[str, list[str]]:
    """Return case -> files, for cases that only have files with other endings that nnU-Net reads."""
    found: dict[str, list[str]] = {}
    others = READABLE_ENDINGS - {ending}
    for path in visible(folder):
        names = {told[0] for other in others if (told := case_and_channel(path.name, other)) is not None} - cases
        if names and case_and_channel(path.name, ending) is None:
            found.setdefault(names.pop(), []).append(str(path))
    return found
