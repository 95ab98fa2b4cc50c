"""Find the cases of a BIDS dataset by the entities and suffixes of its files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nnunet_moe.errors import ModalityError
from nnunet_moe.images.bids_names import SESSION, SUBJECT, BidsName, Filter, read_name
from nnunet_moe.layouts.bids_reasons import no_image, not_bids, not_matched
from nnunet_moe.layouts.found import LABEL, FoundCase
from nnunet_moe.layouts.listing import Listing, Problem, folders_like_images, readable_endings
from nnunet_moe.runtime.files import RESTORE, broken_link

_DESCRIPTION = "dataset_description.json"
_DICOM = "It has DICOM images, which are no part of BIDS. Use -i with patterns for them."


@dataclass(frozen=True)
class _Candidate:
    """A file that a filter matches."""

    path: Path
    name: BidsName
    choice: int
    """The number of the filter's alternative."""


@dataclass
class _Found:
    """What was found so far."""

    candidates: dict[str, dict[str, list[_Candidate]]]
    """Case -> modality -> files."""
    problems: list[Problem]
    spoilt: dict[str, str]
    """Case -> why none of its files is placed."""
    explained: set[str]
    """The spoilt cases of which a file is reported with the reason."""
    wrong_folders: list[str]
    """Subjects, or subjects with sessions, in whose folders lie files of others."""

    def spoil(self, problem: Problem, case: str, why: str) -> None:
        """Report a file, and place no other file of its case."""
        self.problems.append(replace(problem, case=case))
        self.spoilt.setdefault(case, why)
        self.explained.add(case)


def find_bids_cases(
    listing: Listing, filters: Mapping[str, Filter], file_endings: Sequence[str]
) -> tuple[dict[str, FoundCase], list[Problem]]:
    """Find the cases of a BIDS dataset: the sessions of its subjects.

    Args:
        listing: what lies below the dataset's folder.
        filters: modality -> filter, and `LABEL` -> filter of the segmentations.
        file_endings: files with other endings are not placed.

    Returns:
        Case -> files, and everything that could not be placed. If any file of a case is ambiguous, the whole case is
        skipped.
    """
    found = _Found({}, [*listing.problems], {}, set(), [])
    for path in listing.files:
        _sort_in(path, listing.relative(path), filters, file_endings, found)
    found.problems += [Problem(folder, _DICOM, rank=2) for folder in listing.series]
    cases = {case: _case(case, of_case, filters, found) for case, of_case in found.candidates.items()}
    found.problems += folders_like_images(listing, cases)
    for case in cases:
        if any(f"{case}_".startswith(f"{folder}_") for folder in found.wrong_folders):
            found.spoilt.setdefault(case, "in whose folder lies a file of another one")
    for name, why in sorted(found.spoilt.items()):
        files = cases.pop(name, FoundCase()).files
        of = "" if name in found.explained else name
        found.problems += [Problem(file, f"It belongs to {name}, {why}.", case=of) for file in files]
    for name in [name for name, case in cases.items() if not case.images]:
        label = cases.pop(name).label
        found.problems += [] if label is None else [Problem(label, no_image(name, cases))]
    if not (listing.folder / _DESCRIPTION).is_file():
        reason = "BIDS requires this file, but it does not exist. Check that --bids names the dataset's top folder."
        found.problems.append(Problem(listing.folder / _DESCRIPTION, reason))
    return dict(sorted(cases.items())), found.problems


def _sort_in(
    path: Path, relative: str, filters: Mapping[str, Filter], file_endings: Sequence[str], found: _Found
) -> None:
    """Add a file to the candidates of its case, or report it."""
    try:
        name = read_name(relative)
    except ModalityError as error:
        found.problems.append(not_bids(path, str(error)))
        return
    choices = {modality: choice for modality, each in filters.items() if (choice := each.choice(name)) is not None}
    broken = broken_link(path)
    if not choices:
        found.problems.append(not_matched(path, name, filters))
    elif name.misplaced is not None:
        reason = f"It lies in {name.misplaced}, but its name says {name.case}. Move or rename it."
        is_subject = name.misplaced.startswith(f"{SUBJECT}-")
        found.wrong_folders.append(name.misplaced if is_subject else f"{name.subject}_{name.misplaced}")
        found.spoil(Problem(path, reason), name.case, "of which a file lies in a wrong folder")
    elif name.ending.lower() not in [ending.lower() for ending in file_endings]:
        wanted = " or ".join(file_endings)
        what = f"It has the name of {' and '.join(choices)} of {name.case}, but its ending is not {wanted}."
        rank = 0 if readable_endings(path.name) else 1
        found.problems.append(Problem(path, f"{what} If it is an image, convert it.", rank, name.case))
    elif broken is not None:
        found.spoil(Problem(path, f"It is {broken}. {RESTORE}"), name.case, "of which a file is a broken link")
    else:
        _add(_best(choices, filters), path, name, found)


def _best(choices: Mapping[str, int], filters: Mapping[str, Filter]) -> dict[str, int]:
    """Return the modalities whose filters are the most specific ones."""
    named = {modality: filters[modality].choices[choice].num_named for modality, choice in choices.items()}
    return {modality: choices[modality] for modality in choices if named[modality] == max(named.values())}


def _add(choices: Mapping[str, int], path: Path, name: BidsName, found: _Found) -> None:
    if len(choices) > 1:
        reason = f"The filters of {' and '.join(choices)} match. Name more entities in one of them."
        found.spoil(Problem(path, reason), name.case, "which has a file that matches several filters")
        return
    ((modality, choice),) = choices.items()
    of_case = found.candidates.setdefault(name.case, {})
    of_case.setdefault(modality, []).append(_Candidate(path, name, choice))


def _case(
    name: str, candidates: Mapping[str, Sequence[_Candidate]], filters: Mapping[str, Filter], found: _Found
) -> FoundCase:
    """Return the files of a case. If a modality is ambiguous, its files are reported and the case is spoilt."""
    first = next(iter(candidates.values()))[0].name
    case = FoundCase({SUBJECT: first.subject, SESSION: first.session or ""})
    roots: set[str] = set()
    for modality, files in candidates.items():
        chosen = _chosen(files, filters[modality])
        if chosen is None:
            remedy = _remedy(modality, files)
            for file in files:
                reason = f"It is one of {len(files)} files for {modality} of {name}. {remedy}"
                found.spoil(Problem(file.path, reason), name, f"which has several files for {modality}")
            continue
        reason = f"{chosen.path} is {modality} of {name}, because it fits the filter better."
        found.problems += [Problem(file.path, reason, 1, name) for file in files if file is not chosen]
        if not filters[modality].choices[chosen.choice].folder:
            roots.add(chosen.name.root)
        if modality == LABEL:
            case.label = chosen.path
        else:
            case.images[modality] = chosen.path
    if len(roots) > 1:
        have = " and ".join(root or "the top folder" for root in sorted(roots))
        found.spoilt.setdefault(name, f"which has files in {have}. Use each dataset by itself, or name the folders")
    return case


def _chosen(files: Sequence[_Candidate], of: Filter) -> _Candidate | None:
    """Return the file of the first alternative. If there are several, take that without further entities."""
    first = [file for file in files if file.choice == min(file.choice for file in files)]
    exact = [file for file in first if file.name.entities == of.choices[file.choice].entities]
    best = exact or first
    return best[0] if len(best) == 1 else None


def _remedy(modality: str, files: Sequence[_Candidate]) -> str:
    """Return filters that tell the files of a case apart."""
    names = [file.name for file in files]
    one_dataset = len({name.dataset for name in names}) == 1
    texts = [name.filter if one_dataset or name.dataset else f"{name.place}/{name.kind}" for name in names]
    if len(set(texts)) < len(texts):
        texts = [f"{name.place}/{name.kind}" for name in names]
    if len(set(texts)) < len(texts):
        return "Their names have the same entities. Remove or rename all but one."
    option = "-l " if modality == LABEL else f"-m {modality}="
    return f"Choose one with {option}{' or '.join(texts)}, or state an order, with commas between."
