"""Find the cases in a folder with DICOM: a folder for each case, and in it a folder with one series per modality."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from nnunet_moe.commands.predict.cases import CaseFiles
from nnunet_moe.commands.predict.manifest import Failure
from nnunet_moe.errors import ModalityError
from nnunet_moe.images.dicom_files import holds_dicom
from nnunet_moe.runtime.files import folder_name, visible


def find_dicom_cases(
    images: Path, modalities: Sequence[str], previous_stage: Path | None, ending: str
) -> tuple[list[CaseFiles], list[Failure]]:
    """Return the cases, and a failure for each folder or file that is none.

    Args:
        images: folder with `CASE/MODALITY/` for each available modality of each case. Characters that folders cannot
            have are `_` in the names of modalities.
        modalities: names in channel order.
        previous_stage: for a cascade, the folder with the segmentations of the previous stage.
        ending: the file ending of segmentations.

    Raises:
        ModalityError: the folder does not exist, or contains no case.
    """
    if not images.is_dir():
        raise ModalityError(f"{images} is no folder. Check -i.")
    channels = {folder_name(name): channel for channel, name in enumerate(modalities)}
    cases, failures = [], []
    for folder in visible(images.resolve()):
        if not folder.is_dir():
            if holds_dicom(folder):
                failures.append(Failure(folder.name, (str(folder),), f"It lies in no case. {_wanted(channels)}."))
            continue
        name = os.fsencode(folder.name).decode("utf-8", "backslashreplace")
        folders = [path for path in visible(folder) if path.is_dir()]
        found = {path.name: path for path in folders if path.name in channels}
        if (reason := _problem(folder, name, folders, channels)) is not None:
            failures.append(Failure(name, (str(folder.with_name(name)),), reason))
            continue
        notes = tuple(f"{path} is not used. {_wanted(channels)}" for path in folders if path.name not in channels)
        stage = None if previous_stage is None else str(previous_stage / f"{name}{ending}")
        in_order = sorted(found, key=channels.__getitem__)
        paths = tuple(str(found[modality]) for modality in in_order)
        cases.append(CaseFiles(name, paths, stage, tuple(channels[modality] for modality in in_order), notes))
    if not cases and not failures:
        raise ModalityError(f"{images} has no folder of a case. {_wanted(channels)}.")
    return cases, failures


def _wanted(channels: Mapping[str, int]) -> str:
    return f"Each series must lie in a folder CASE/MODALITY, where MODALITY is one of {', '.join(channels)}"


def _problem(folder: Path, name: str, folders: Sequence[Path], channels: Mapping[str, int]) -> str | None:
    """Say why a folder is no case; None if it is one."""
    if name != folder.name:
        return "The name is not UTF-8. Rename the folder."
    by_lower = {channel.lower(): channel for channel in channels}
    for path in folders:
        meant = by_lower.get(path.name.lower())
        if meant is not None and path.name not in channels:
            return f"{path} differs from the modality {meant} in upper and lower case. Rename the folder."
    if holds_dicom(folder):
        return f"{folder} has DICOM images directly in it. {_wanted(channels)}."
    has_modality = any(path.name in channels for path in folders)
    return None if has_modality else f"{folder} has no folder of a modality. {_wanted(channels)}."
