"""The kinds of files in a BIDS dataset, such as `acq-3D_T1w`."""

from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path

from nnunet_moe.errors import ModalityError
from nnunet_moe.images.bids_names import DERIVATIVES, NOT_SEARCHED, SUBJECT, BidsName, read_name
from nnunet_moe.images.file_names import READABLE_ENDINGS
from nnunet_moe.layouts.found import LABEL, FoundCase
from nnunet_moe.layouts.listing import Listing, readable_endings
from nnunet_moe.runtime.files import RESTORE, broken_link

_MOST_NAMED = 12
"""At most so many kinds of files are named in a message."""


def kinds_of(cases: Iterable[FoundCase], folder: Path) -> dict[str, Counter[str]]:
    """Return modality -> how many files of each kind, such as `acq-3D_T1w`, the cases have."""
    kinds: dict[str, Counter[str]] = {}
    for case in cases:
        files = case.images if case.label is None else {**case.images, LABEL: case.label}
        for modality, file in files.items():
            name = read_name(file.relative_to(folder).as_posix())
            kinds.setdefault(modality, Counter())[name.filter] += 1
    return kinds


def images_of(listing: Listing) -> list[BidsName]:
    """Return the names of all images and segmentations of subjects."""
    found = []
    for path in listing.files:
        try:
            name = read_name(path.relative_to(listing.folder).as_posix())
        except ModalityError:
            continue
        if name.ending.lower() in READABLE_ENDINGS:
            found.append(name)
    return found


def images_without_subject(listing: Listing) -> list[tuple[str, Path, str]]:
    """Return the images and broken links outside derivatives whose names are not those of a subject's files.

    Returns:
        For each one, the name of the folder that stands for its subject, otherwise its own; the path; and the reason.
    """
    found = []
    for path in listing.files:
        *folders, name = listing.relative(path).split("/")
        if {DERIVATIVES, *NOT_SEARCHED} & set(folders):
            continue
        of_subject = [folder for folder in folders if folder.lower().startswith(f"{SUBJECT}-")]
        owner = (of_subject or folders[:1] or [name])[-1]
        broken = broken_link(path)
        if broken is not None and not path.suffix:  # perhaps to a folder
            found.append((owner, path, f"It is {broken}. {RESTORE}"))
        elif readable_endings(name):
            try:
                read_name(listing.relative(path))
            except ModalityError as error:
                found.append((owner, path, str(error)))
    return found


def kinds_text(names: Iterable[BidsName], wanted: Collection[str] = ()) -> str:
    """Return how many files there are of each kind, one per line: first the wanted suffixes, then raw images."""
    kinds = Counter((name.suffix.lower() not in wanted, not name.is_raw, name.filter) for name in names)
    order = sorted(kinds, key=lambda kind: (*kind[:2], -kinds[kind], kind[2]))
    lines = [f"\n  {kind[2]}: {_files(kinds[kind])}" for kind in order[:_MOST_NAMED]]
    return ":" + "".join(lines) + (f"\n  and {len(kinds) - _MOST_NAMED} more" if len(kinds) > _MOST_NAMED else "")


def _files(number: int) -> str:
    return "1 file" if number == 1 else f"{number} files"
