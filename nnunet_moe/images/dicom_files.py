"""Find the DICOM images in a folder."""

from pathlib import Path

from nnunet_moe.errors import ModalityError
from nnunet_moe.runtime.files import RESTORE, broken_link, printable, visible

PREFIX = b"DICM"
"""What DICOM files have at byte 128 (DICOM PS3.10, 7.1)."""
ENDINGS = (".dcm", ".ima")
"""The usual endings of DICOM files. Most have none of their own."""
INDEX = "DICOMDIR"
"""The name of the file that lists all others of an exported study (DICOM PS3.10, 8.6). It has no image."""
_FIRST_GROUPS = (b"\x02\0", b"\x08\0")
"""The groups with which a header begins if nothing is before it, as in files of the time before PS3.10."""
_FIRST_TYPES = (b"AE", b"CS", b"DA", b"OB", b"SH", b"TM", b"UI", b"UL")
"""The types of values of the first elements in these groups."""
_LONGEST_FIRST = 256
"""The first value is shorter, in bytes."""


def holds_dicom(path: Path) -> bool:
    """Return whether a file is a DICOM image, or whether a folder has one directly in it.

    A broken link with the name of a DICOM file counts, because a slice is missing there. What cannot be opened does not
    count.
    """
    try:
        if path.is_dir():
            return any(holds_dicom(inside) for inside in visible(path) if not inside.is_dir())
        if broken_link(path) is not None:
            return path.suffix.lower() in ENDINGS
        return path.is_file() and _is_dicom(path)
    except OSError:
        return False


def files_of_series(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the DICOM images directly in a folder, and everything else that is visible in it, but for a DICOMDIR.

    Raises:
        ModalityError: a file cannot be opened, or one of no other kind than the images is no image, so that it may be
            a damaged slice.
    """
    try:
        paths = [path for path in visible(folder) if path.name.upper() != INDEX]
        for path in paths:
            _require_usable(path)
        images = [path for path in paths if path.is_file() and _is_dicom(path)]
    except OSError as error:
        raise ModalityError(
            f"{printable(error.filename)} cannot be opened: {error.strerror}. It may be a slice. Change its "
            "permissions."
        ) from error
    others = [path for path in paths if path not in set(images)]
    endings = {path.suffix.lower() for path in images if not path.suffix[1:].isdigit()}
    if damaged := [path for path in others if path.suffix.lower() in endings and not path.is_dir()]:
        raise ModalityError(
            f"{damaged[0]} is not DICOM, but is named like the slices in {folder}. Copy it again if it is a slice. "
            "Otherwise move it to another folder."
        )
    if not images:
        raise ModalityError(
            f"{folder} has no DICOM images. Put the files of one series directly into it, or remove the folder."
        )
    return images, others


def _require_usable(path: Path) -> None:
    """Refuse what may be a slice, but cannot be given to GDCM."""
    if (name := printable(path)) != str(path):
        raise ModalityError(f"{name}: the name is not in UTF-8. Rename it.")
    if (broken := broken_link(path)) is not None:
        raise ModalityError(f"{path} is {broken}. It may be a slice. {RESTORE}")


def _is_dicom(path: Path) -> bool:
    if path.name.upper() == INDEX:
        return False
    with path.open("rb") as opened:
        beginning = opened.read(128 + len(PREFIX))
    return beginning[128:] == PREFIX or _is_header(beginning)


def _is_header(beginning: bytes) -> bool:
    """Return whether a file begins with the first element of a DICOM header: group, element, type and length."""
    if beginning[:2] not in _FIRST_GROUPS or len(beginning) <= 128:
        return False
    length = int.from_bytes(beginning[4:8], "little")
    return beginning[4:6] in _FIRST_TYPES or length < _LONGEST_FIRST
