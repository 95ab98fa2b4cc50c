"""Why files of a BIDS dataset are not placed, and what to do about it."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from nnunet_moe.images.bids_names import FREE, SUBJECT, BidsName, Choice, Filter
from nnunet_moe.layouts.listing import Problem, readable_endings


def no_image(name: str, cases: Iterable[str]) -> str:
    """Return why a segmentation is not placed."""
    reason = f"{name} has a segmentation, but no image that a filter of -m matches."
    subject, _, session = name.partition("_")
    others = [case for case in cases if case.partition("_")[0] == subject]
    if not others:
        return reason
    have = ", ".join(others[:3]) + (" and more" if len(others) > 3 else "")
    what = "names no session" if not session else f"names {session}"
    return f"{reason} Its name {what}, but the images belong to {have}. Rename it, if it was drawn on one of these."


def not_bids(path: Path, why: str) -> Problem:
    """Report a file whose name is not that of a subject's file."""
    if not readable_endings(path.name):
        return Problem(path, "It is not the image of a subject.", rank=3)
    of_subject = any(parent.name.startswith(f"{SUBJECT}-") for parent in path.parents)
    return Problem(path, f"{why} Or import with -i and patterns.", rank=0 if of_subject else 2)


def not_matched(path: Path, name: BidsName, filters: Mapping[str, Filter]) -> Problem:
    """Say why a file of a subject was not placed, and what it may have been meant for."""
    if not name.has_voxels:
        return Problem(path, "It is no volume, but describes one or holds a surface.", rank=3)
    if name.not_searched is not None:
        return Problem(path, f"Files in {name.not_searched} are used only if a filter names the folder.", rank=3)
    alternatives = [(modality, choice) for modality, of in filters.items() for choice in of.choices]
    for modality, choice in alternatives:
        if choice.fits(name):
            return Problem(path, _nearly(modality, choice, name), rank=1)
    for modality, choice in alternatives:
        if choice.fits(name, ignore_case=True):
            reason = f"{_filter_of(modality, choice)} differs from it in upper and lower case. Change either."
            return Problem(path, reason, case=name.case)
    return Problem(path, f"No filter matches {name.filter}.", rank=2)


def _nearly(modality: str, choice: Choice, name: BidsName) -> str:
    """Say why a filter does not match a file that has its suffix and entities."""
    if more := choice.not_named(name):
        reason = f"It has {' and '.join(more)}. {_filter_of(modality, choice)} does not name this."
        needed = [f"{key}-{value}" for key, value in name.entities.items() if key not in FREE or key in choice.entities]
        text = "_".join([*needed, name.suffix])
        return f"{reason} If it is wanted, use {f'{name.dataset}/{text}' if name.dataset else text}."
    where = choice.folder or "what is outside derivatives"
    return f"{_filter_of(modality, choice)} searches only {where}. If it is wanted, use {name.filter}."


def _filter_of(modality: str, choice: Choice) -> str:
    return f"The filter of {modality}" + ("" if choice.text == modality else f" ({choice.text})")
