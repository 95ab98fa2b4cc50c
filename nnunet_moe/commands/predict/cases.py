"""Find the cases in a folder of images, and the files that belong to no case."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_moe.commands.predict.manifest import Failure
from nnunet_moe.errors import ModalityError
from nnunet_moe.images.file_names import READABLE_ENDINGS, case_and_channel, files_of, list_cases
from nnunet_moe.runtime.files import visible


@dataclass(frozen=True)
class CaseFiles:
    """The files of a case."""

    name: str
    images: tuple[str, ...]
    previous_stage: str | None
    """The segmentation of a cascade's previous stage, or None."""

    @property
    def read(self) -> list[str]:
        """Return all files from which the case is predicted."""
        return files_of(self.images, self.previous_stage)


def find_cases(
    images: Path, ending: str, previous_stage: Path | None, *, num_parts: int, part_id: int
) -> tuple[list[CaseFiles], list[Failure]]:
    """Return the cases of one part and, for the first part, a failure for each file that belongs to no case.

    Args:
        images: folder of the images.
        ending: file ending of the dataset.
        previous_stage: for a cascade, the folder with the segmentations of the previous stage.
        num_parts: number of parts into which the cases are divided.
        part_id: number of the part, from 0.

    Raises:
        ModalityError: the folder does not exist, or contains no image.
    """
    folder = images.resolve()
    files, strays = list_cases(folder, ending)
    if not files and not strays:
        raise ModalityError(
            f"{images} has no images CASE_XXXX{ending}, where XXXX is the channel. Check -i and the file names."
        )
    cases = [
        CaseFiles(name, tuple(paths), None if previous_stage is None else str(previous_stage / f"{name}{ending}"))
        for name, paths in list(files.items())[part_id::num_parts]
    ]
    return cases, _failures(folder, set(files), strays, ending) if part_id == 0 else []


def _failures(folder: Path, cases: set[str], strays: Sequence[str], ending: str) -> list[Failure]:
    wanted = f"Images must be named CASE_XXXX{ending}, where XXXX is the channel."
    failures = [
        Failure(Path(file).name, (file,), f"The name has no channel, or is not UTF-8. {wanted}") for file in strays
    ]
    for name, others in _of_other_endings(folder, cases, ending).items():
        failures.append(Failure(name, tuple(others), f"No file of the case ends in {ending}. {wanted}"))
    return failures


def _of_other_endings(folder: Path, cases: set[str], ending: str) -> dict[str, list[str]]:
    """Return case -> files, for cases that only have files with other endings that nnU-Net reads."""
    found: dict[str, list[str]] = {}
    others = READABLE_ENDINGS - {ending}
    for path in visible(folder):
        names = {told[0] for other in others if (told := case_and_channel(path.name, other)) is not None} - cases
        if names and case_and_channel(path.name, ending) is None:
            found.setdefault(names.pop(), []).append(str(path))
    return found
