"""Find the cases in a folder with DICOM: a folder for each case, and in it one for the series of each modality."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_moe.commands.predict.cases import CaseFiles
from nnunet_moe.commands.predict.manifest import Failure
from nnunet_moe.errors import ModalityError
from nnunet_moe.images.dicom_files import holds_dicom
from nnunet_moe.images.file_names import READABLE_ENDINGS
from nnunet_moe.runtime.files import RESTORE, broken_link, folder_name, printable, visible


def find_dicom_cases(
    images: Path, modalities: Sequence[str], previous_stage: Path | None, ending: str
) -> tuple[list[CaseFiles], list[Failure]]:
    """Return the cases, and a failure for each folder or file that is none.

    Args:
        images: folder with `CASE/MODALITY/`, or a file `CASE/MODALITY` with the ending, for each available modality of
            each case. Characters that folders cannot have are `_` in the names of modalities.
        modalities: names in channel order.
        previous_stage: for a cascade, the folder with the segmentations of the previous stage.
        ending: the file ending of images and segmentations.

    Raises:
        ModalityError: the folder does not exist, or contains no case.
    """
    if not images.is_dir():
        raise ModalityError(f"{images} is no folder. Check -i.")
    layout = _Layout({folder_name(name): channel for channel, name in enumerate(modalities)}, ending)
    cases, failures = [], []
    for path in visible(images.resolve()):
        name = printable(path.name)
        try:
            if path.is_dir():
                stage = None if previous_stage is None else str(previous_stage / f"{name}{ending}")
                cases.append(layout.case(path, stage))
            else:
                layout.require_no_image(path)
        except ModalityError as error:
            failures.append(Failure(name, (printable(path),), str(error)))
        except OSError as error:
            reason = f"{printable(error.filename)} cannot be opened: {error.strerror}. Change its permissions."
            failures.append(Failure(name, (printable(path),), reason))
    if not cases and not failures:
        raise ModalityError(f"{images} has no folder of a case. {layout.wanted}.")
    return cases, failures


@dataclass(frozen=True)
class _Layout:
    """How the folder of a case must look."""

    channels: dict[str, int]
    """Name of the folder of a modality -> channel."""
    ending: str

    @property
    def wanted(self) -> str:
        return (
            f"Each modality must be a folder CASE/MODALITY with a series, or a file CASE/MODALITY{self.ending}, where "
            f"MODALITY is one of {', '.join(self.channels)}"
        )

    def case(self, folder: Path, stage: str | None) -> CaseFiles:
        """Return the files of a case.

        Raises:
            ModalityError: the folder is none of a case, or what it holds is not clear.
            OSError: the folder cannot be read.
        """
        if printable(folder) != str(folder):
            raise ModalityError("The path is not UTF-8. Rename the folder.")
        found: dict[int, Path] = {}
        notes = []
        for path in visible(folder):
            if (modality := self._modality(path)) is not None:
                before = found.setdefault(self.channels[modality], path)
                if before != path:
                    raise ModalityError(f"{before} and {path} are both {modality}. Remove one of them.")
            elif path.is_dir() or _may_be_image(path):
                notes.append(f"{printable(path)} is not used. {self.wanted}")
        if holds_dicom(folder):
            raise ModalityError(f"{folder} has DICOM images directly in it. {self.wanted}.")
        if not found:
            raise ModalityError(f"{folder} has no folder or file of a modality. {self.wanted}.")
        channels = tuple(sorted(found))
        return CaseFiles(folder.name, tuple(str(found[each]) for each in channels), stage, channels, tuple(notes))

    def _modality(self, path: Path) -> str | None:
        """Return the modality that a folder or file is named like; None if it is none.

        Raises:
            ModalityError: it is a broken link, or its name differs in upper and lower case.
        """
        broken, stems = broken_link(path), []
        if path.is_dir() or broken is not None:  # the link may have led to a folder
            stems.append(path.name)
        if not path.is_dir() and path.name.lower().endswith(self.ending.lower()):
            stems.append(path.name[: -len(self.ending)])
        modality = next((name for name in self.channels if name in stems), None)
        lower = [each.lower() for each in stems]
        meant = modality or next((name for name in self.channels if name.lower() in lower), None)
        if meant is not None and broken is not None:
            raise ModalityError(f"{path} is {broken}. {RESTORE}")
        if meant != modality:
            raise ModalityError(f"{path} differs from the modality {meant} in upper and lower case. Rename it.")
        return modality

    def require_no_image(self, path: Path) -> None:
        """Refuse an image that lies next to the folders of the cases.

        Raises:
            ModalityError: the path is one, or a broken link, perhaps to a case.
        """
        if (broken := broken_link(path)) is not None:
            raise ModalityError(f"{printable(path)} is {broken}. {RESTORE}")
        if _may_be_image(path):
            raise ModalityError(f"It lies in no case. {self.wanted}.")


def _may_be_image(file: Path) -> bool:
    return file.name.lower().endswith(tuple(READABLE_ENDINGS)) or holds_dicom(file)
