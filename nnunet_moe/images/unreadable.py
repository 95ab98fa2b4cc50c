"""Say why a file cannot be read, because the libraries that read images report most problems in other words."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nnunet_moe.errors import ModalityError, NnunetMoeError
from nnunet_moe.images.headers import separate_voxels
from nnunet_moe.runtime.files import broken_link, printable

BEGINNINGS = {
    b"version https://git-lfs": "a Git LFS pointer, not the image itself",
    b"<": "a web page or another text, not an image",
    b"\x1c\x02\0\0": "in the format NIfTI-2, which nnU-Net's reader does not know",
}
"""How files begin that are mistaken for images, and what they are."""
CUT_OFF = ("No such file or directory", "got only", "but received", "hit end of header", "couldn't open")
"""What ITK says about an existing MetaImage or NRRD that is cut off, or whose voxels lie in a missing file."""
UNKNOWN = "Unable to determine ImageIO reader"
"""What ITK says about a file whose beginning it does not know."""
SHEARED = "orthonormal direction cosines"
"""What ITK says about a file with a sheared header."""


@contextmanager
def reading(file: str, remedy: str) -> Iterator[None]:
    """Make any error of the block one of the file; the readers' libraries raise errors of many classes.

    Raises:
        ModalityError: the file cannot be read.
    """
    if (name := printable(file)) != file:  # ITK ends the process
        raise ModalityError(f"{name} cannot be read: its path is not in UTF-8. Rename the file or its folder.")
    try:
        if not os.path.exists(file) or os.path.isdir(file):  # ITK's libraries print pages about them
            raise OSError
        yield
    except (NnunetMoeError, MemoryError):
        raise
    except Exception as error:
        raise ModalityError(f"{file} cannot be read: {_why(file, error)}. {remedy}") from error


def _why(file: str, error: Exception) -> str:
    """Return why a file cannot be read, because the readers report most problems as a file that does not exist."""
    if not os.path.exists(file):
        broken = broken_link(Path(file))
        return "it does not exist" if broken is None else f"it is {broken}"
    with suppress(OSError), open(file, "rb") as opened:
        beginning = opened.read(64)
        for start, what in BEGINNINGS.items():
            if beginning.startswith(start) or not beginning:
                return f"it is {what}" if beginning else "it is empty"
    if os.path.isdir(file):
        return "it is a folder"
    if not os.access(file, os.R_OK):
        return "there is no permission"
    if UNKNOWN in str(error):
        return f"its content is not in the format {Path(file).suffix}, nor in another one that ITK knows"
    if SHEARED in str(error):
        return (
            "the axes in its header are not at right angles, which ITK does not take. Perhaps an affine registration "
            "wrote this header. Resample the image onto a grid with right angles, or correct the header"
        )
    return _cut_off(file, error) or f"{error}".strip() or type(error).__name__


def _cut_off(file: str, error: Exception) -> str | None:
    """Return what is missing of a MetaImage or NRRD, which ITK calls a file that does not exist."""
    if not any(said in str(error) for said in CUT_OFF):
        return None
    voxels = separate_voxels(file)
    if voxels is None:
        return "it is cut off, or its header is damaged"
    if voxels == "LIST" or "%" in voxels:
        return "its voxels lie in several files, and one is missing or cut off, or its header is damaged"
    if Path(file).with_name(voxels).exists():
        return f"its voxels lie in {voxels}, which is cut off, or its header is damaged"
    return f"its voxels lie in {voxels}, which does not exist"
