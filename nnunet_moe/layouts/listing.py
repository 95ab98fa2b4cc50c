"""List all that lies below a folder: the files to place, and what is not used, with the reason."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from nnunet_moe.images.dicom_files import holds_dicom
from nnunet_moe.images.file_names import READABLE_ENDINGS
from nnunet_moe.layouts.found import FoundCase
from nnunet_moe.runtime.files import is_hidden, printable


@dataclass(frozen=True)
class Problem:
    """A file or folder that was not placed, or that looks suspect."""

    file: Path
    reason: str
    rank: int = 0
    """The screen shows the lowest ranks first: 0 for what a user should look at, more for what is expected."""
    case: str = ""
    """The case that has no such file, or that cannot be used because of it; empty if that is not known."""


@dataclass(frozen=True)
class Listing:
    """All that lies below a folder."""

    folder: Path
    files: list[Path] = field(default_factory=list)
    """The files to place, in alphabetical order."""
    series: dict[Path, Path] = field(default_factory=dict)
    """Folders with DICOM images, which are placed as a whole -> one of the images. These are no `files`."""
    image_folders: list[Path] = field(default_factory=list)
    """Folders with names like those of images; some archives contain them."""
    problems: list[Problem] = field(default_factory=list)
    """Everything else."""

    def relative(self, path: Path) -> str:
        """Return a path below the folder as patterns match it, with `/` between folders; empty for the folder."""
        return "" if path == self.folder else path.relative_to(self.folder).as_posix()


def list_files(folder: Path) -> Listing:
    """List all that lies below a folder. Links to folders are not followed."""
    found = Listing(folder)

    def cannot_open(error: OSError) -> None:
        found.problems.append(Problem(Path(os.fsdecode(error.filename)), f"It cannot be opened: {error.strerror}."))

    for parent, folders, names in os.walk(folder, onerror=cannot_open):
        refused = [problem for name in (*folders, *names) if (problem := _problem(Path(parent, name))) is not None]
        refused_names = {problem.file.name for problem in refused}
        folders[:] = sorted(name for name in folders if name not in refused_names)  # only these are searched
        found.image_folders.extend(Path(parent, name) for name in folders if readable_endings(name))
        files = [Path(parent, name) for name in sorted(names) if name not in refused_names]
        others = [file for file in files if not readable_endings(file.name)]
        if (image := next(filter(holds_dicom, others), None)) is not None:
            found.series[Path(parent)] = image
            files = [file for file in files if readable_endings(file.name)]
        found.files.extend(files)
        found.problems.extend(replace(problem, file=Path(printable(problem.file))) for problem in refused)
    found.files.sort()
    found.problems.sort(key=lambda problem: problem.file)
    return found


def folders_like_images(listing: Listing, cases: Mapping[str, FoundCase]) -> list[Problem]:
    """Report folders with names of images, unless a file inside was placed."""
    used = {path for case in cases.values() for file in case.files for path in (file, *file.parents)}
    return [
        Problem(path, "It is a folder with the name of an image. Move the image out of it, or add it to the pattern.")
        for path in listing.image_folders
        if path not in used
    ]


def readable_endings(name: str) -> list[str]:
    """Return the file endings of a name that nnU-Net reads, the longest one last."""
    return sorted((ending for ending in READABLE_ENDINGS if name.lower().endswith(ending)), key=len)


def _problem(path: Path) -> Problem | None:
    """Return why a file cannot be placed, or why a folder is not searched; None if nothing is wrong."""
    if is_hidden(path.name):
        return Problem(path, "Hidden files and folders are not used.", rank=3)
    if printable(path) != str(path):
        return Problem(path, "The name is not in UTF-8. Rename it.")
    if path.is_dir():
        if path.is_symlink():
            return Problem(path, "It is a link to a folder, which is not searched. Replace it with the folder.")
        return None
    if path.exists() and not path.is_file():
        return Problem(path, "It is neither a file nor a folder.")
    return None
