"""Find the cases of a folder by the patterns of their files."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from nnunet_moe.layouts.found import LABEL, FoundCase
from nnunet_moe.layouts.listing import Listing, Problem, folders_like_images, readable_endings
from nnunet_moe.runtime.files import RESTORE, broken_link
from nnunet_moe.runtime.patterns import Pattern

NO_PATTERN = "No pattern matches."
NO_IMAGE = " has a segmentation, but no image. Check the patterns."


def find_cases(
    listing: Listing, patterns: Mapping[str, Pattern], file_ending: str
) -> tuple[dict[str, FoundCase], list[Problem]]:
    """Find the cases of a folder by patterns.

    Args:
        listing: what lies below the folder.
        patterns: modality -> pattern, and `LABEL` -> pattern of the segmentations.
        file_ending: files with other endings are not placed. Folders with DICOM series have none.

    Returns:
        Case -> files, and everything that could not be placed. If any file of a case is ambiguous, the whole case is
        skipped.
    """
    first = next(iter(patterns.values())).fields
    cases: dict[str, FoundCase] = {}
    problems, spoilt = [*listing.problems], {}
    for path in sorted((*listing.files, *listing.series)):
        relative = listing.relative(path)
        has_ending = path in listing.series or relative.lower().endswith(file_ending.lower())
        matches = {name: match for name, pattern in patterns.items() if (match := pattern.match(relative)) is not None}
        if not matches or not has_ending:
            is_series = path in listing.series
            problems.append(
                _no_series(path, listing, patterns)
                if is_series
                else _not_matched(path, relative, patterns, file_ending)
            )
            continue
        if len(matches) > 1:
            matches = _most_specific(matches, patterns)
        names = {"_".join(match[part] for part in first) for match in matches.values()}
        if len(matches) > 1:
            spoilt |= dict.fromkeys(names, "which has a file that matches several patterns")
            problems.append(
                Problem(path, f"The patterns of {' and '.join(matches)} match. Make the patterns more specific.")
            )
            continue
        (name,), ((modality, match),) = names, matches.items()
        case = cases.setdefault(name, FoundCase(match))
        if case.fields != match:
            spoilt.setdefault(name, "a name that several cases would get")
        before = case.label if modality == LABEL else case.images.get(modality)
        if before is not None:
            spoilt.setdefault(name, "which has two files for one modality")
            reason = f"{before} is {modality} of {name}, too. Make the pattern match only one of them."
            problems.append(Problem(path, reason))
        elif modality == LABEL:
            case.label = path
        else:
            case.images[modality] = path
    problems += folders_like_images(listing, cases)
    for name in sorted(spoilt):
        problems += _left_out(cases.pop(name, FoundCase()), f"It belongs to {name}, {spoilt[name]}.")
    for name in [name for name, case in cases.items() if not case.images]:
        problems += _left_out(cases.pop(name), f"{name}{NO_IMAGE}")
    return dict(sorted(cases.items())), problems


def _most_specific(matches: Mapping[str, dict], patterns: Mapping[str, Pattern]) -> dict[str, dict]:
    """Return the match of the pattern with the most fixed text; all matches if several patterns have as much."""
    most = max(patterns[name].num_fixed for name in matches)
    best = {name: match for name, match in matches.items() if patterns[name].num_fixed == most}
    return best if len(best) == 1 else dict(matches)


def _not_matched(path: Path, relative: str, patterns: Mapping[str, Pattern], file_ending: str) -> Problem:
    """Say why a file was not placed, and what it may have been meant for."""
    if (broken := broken_link(path)) is not None:
        return Problem(path, f"It is {broken}. {RESTORE}")
    endings = readable_endings(path.name)
    for name, pattern in patterns.items():
        for ending in {*endings, path.suffix}:
            match = pattern.match(relative[: len(relative) - len(ending)] + file_ending) or pattern.match(relative)
            if match is not None:
                case = "_".join(match.values())
                reason = f"It has the name of {name} of {case}, but its ending is not {file_ending}. "
                return Problem(path, f"{reason}If it is an image, convert it.", rank=0 if endings else 1)
        if pattern.matches_in_other_case(relative):
            return _other_case(path, name)
    return Problem(path, NO_PATTERN, rank=2)


def _no_series(folder: Path, listing: Listing, patterns: Mapping[str, Pattern]) -> Problem:
    """Say why a folder with a DICOM series was not placed."""
    relative, inside = map(listing.relative, (folder, listing.series[folder]))
    for name, pattern in patterns.items():
        if pattern.match(inside) is not None:
            return Problem(folder, f"The pattern of {name} matches DICOM images in it. It must match the folder.")
        if pattern.matches_in_other_case(relative):
            return _other_case(folder, name)
    return Problem(folder, f"It has DICOM images. {NO_PATTERN}", rank=2)


def _other_case(path: Path, name: str) -> Problem:
    reason = f"It differs from the pattern of {name} in upper and lower case. Change the pattern or the name."
    return Problem(path, reason)


def _left_out(case: FoundCase, reason: str) -> Sequence[Problem]:
    return [Problem(file, reason) for file in case.files]
