"""The cases of a folder of images, and what in it is none."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_moe.commands.predict.manifest import Failure
from nnunet_moe.errors import ModalityError
from nnunet_moe.images.file_names import READABLE_ENDINGS, case_and_channel, list_cases


@dataclass(frozen=True)
class CaseFiles:
    """The files of a case."""

    name: str
    images: tuple[str, ...]
    previous_stage: str | None
    """The segmentation that a cascade's second stage takes."""


def find_cases(
    images: Path, ending: str, previous_stage: Path | None, *, num_parts: int, part_id: int
) -> tuple[list[CaseFiles], list[Failure]]:
    """One part's cases; and, in the first part, a failure for each file that belongs to no case.

    Args:
        images: the folder.
        ending: of the dataset's files.
        previous_stage: of a cascade, the folder of the previous stage's segmentations.
        num_parts: into how many parts the cases are divided.
        part_id: from 0.

    Raises:
        ModalityError: no such folder, or no image in it.
    """
    folder = images.resolve()
    files, strays = list_cases(folder, ending)
    if not files and not strays:
        raise ModalityError(f"{images} holds no images CASE_XXXX{ending}, where XXXX is the channel.")
    cases = [
        CaseFiles(name, tuple(paths), None if previous_stage is None else str(previous_stage / f"{name}{ending}"))
        for name, paths in list(files.items())[part_id::num_parts]
    ]
    return cases, _failures(folder, set(files), strays, ending) if part_id == 0 else []


def _failures(folder: Path, cases: set[str], strays: Sequence[str], ending: str) -> list[Failure]:
    wanted = f"Images are named CASE_XXXX{ending}, where XXXX is the channel."
    failures = [
        Failure(Path(file).name, (file,), f"The name tells no channel, or is not in UTF-8. {wanted}") for file in strays
    ]
    for name, others in _of_other_endings(folder, cases, ending).items():
        failures.append(Failure(name, tuple(others), f"No file of the case ends in {ending}. {wanted}"))
    return failures


def _of_other_endings(folder: Path, cases: set[str], ending: str) -> dict[str, list[str]]:
    """Cases all of whose files have another ending than the dataset's, of those that nnU-Net reads; and these files."""
    found: dict[str, list[str]] = {}
    others = READABLE_ENDINGS - {ending}
    for path in sorted(folder.glob("[!.]*")):
        names = {told[0] for other in others if (told := case_and_channel(path.name, other)) is not None} - cases
        if names and case_and_channel(path.name, ending) is None:
            found.setdefault(names.pop(), []).append(str(path))
    return found
