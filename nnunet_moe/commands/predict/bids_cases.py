"""Find the cases of a BIDS dataset to predict: the sessions of its subjects."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from nnunet_moe.commands.predict.bids_output import segmentation
from nnunet_moe.commands.predict.cases import CaseFiles
from nnunet_moe.commands.predict.manifest import Failure
from nnunet_moe.errors import ModalityError, SettingsError
from nnunet_moe.images.bids_names import KEY, SUBJECT, BidsName, Filter
from nnunet_moe.layouts.bids import find_bids_cases
from nnunet_moe.layouts.bids_kinds import images_of, images_without_subject, kinds_text
from nnunet_moe.layouts.listing import Listing, Problem, list_files

ENDINGS = (".nii.gz", ".nii")
"""The file endings of images in BIDS."""
_MOST_NAMED = 5
"""At most so many sessions are named in a message."""


def require_ending_of_bids(ending: str) -> None:
    """Refuse models whose segmentations have another file ending than BIDS allows.

    Raises:
        SettingsError: it is another one.
    """
    if ending not in ENDINGS:
        raise SettingsError(
            f"--bids: the model writes {ending}, but BIDS allows only {' and '.join(ENDINGS)}. Convert the images, and "
            "predict without --bids."
        )


def filters_of(given: Mapping[str, str], dataset_json: Mapping[str, Any], modalities: Sequence[str]) -> dict[str, str]:
    """Return modality -> filter: what the user gives, or as in the training cases, or the name as suffix.

    Args:
        given: modality -> filter of some modalities.
        dataset_json: the content of the model's dataset.json.
        modalities: names in channel order.

    Raises:
        SettingsError: a modality is unknown, or a filter cannot be understood.
    """
    if unknown := [name for name in given if name not in modalities]:
        raise SettingsError(
            f"-m {unknown[0]}={given[unknown[0]]}: the model does not know this modality. Choose from "
            f"{', '.join(modalities)}."
        )
    trained = dataset_json.get(KEY, {})
    if not isinstance(trained, Mapping) or not all(isinstance(text, str) for text in trained.values()):
        raise SettingsError(f"{KEY!r} in dataset.json is {trained!r}. It must be a table of modalities and filters.")
    filters = {name: given.get(name) or trained.get(name) or name for name in modalities}
    for name, text in filters.items():
        try:
            _filter(name, text)
        except SettingsError as error:
            if name in given or name in trained:
                raise
            raise SettingsError(
                f"The modality {name!r} has no filter, and its name is no suffix of BIDS. Choose its files with "
                f"-m '{name}=FILTER', such as -m '{name}=ce-gadolinium_T1w'."
            ) from error
    return filters


def find_bids_cases_to_predict(
    images: Path, filters: Mapping[str, str], previous_stage: Path | None, ending: str
) -> tuple[list[CaseFiles], list[Failure]]:
    """Return the cases, and a failure for each case, and each folder like one, whose files are not clear.

    Args:
        images: the BIDS dataset.
        filters: modality -> filter, in channel order.
        previous_stage: for a cascade, the derivative dataset with the segmentations of the previous stage.
        ending: the file ending of segmentations.

    Raises:
        ModalityError: the folder does not exist, or no filter matches an image.
    """
    if not images.is_dir():
        raise ModalityError(f"{images} is no folder. Check -i.")
    listing = list_files(images.resolve())
    by_modality = {name: _filter(name, text) for name, text in filters.items()}
    names = _names(images, listing, by_modality)
    found, problems = find_bids_cases(listing, by_modality, ENDINGS)
    of_cases: dict[str, list[Problem]] = {}
    for problem in problems:
        if problem.case:
            of_cases.setdefault(problem.case, []).append(problem)
    for owner, path, reason in images_without_subject(listing):
        for case in [case for case in found if case.startswith(f"{owner}_")] or [owner]:
            of_cases.setdefault(case, []).append(Problem(path, reason, case=case))
    _report_without_images(names, {*found, *of_cases})
    channels, cases = {name: channel for channel, name in enumerate(filters)}, []
    for name, case in found.items():
        in_order = sorted(case.images, key=channels.__getitem__)
        paths = tuple(str(case.images[modality]) for modality in in_order)
        stage = None if previous_stage is None else f"{segmentation(previous_stage.resolve(), name)}{ending}"
        notes = tuple(f"{problem.file} is not used. {problem.reason}" for problem in of_cases.get(name, []))
        cases.append(CaseFiles(name, paths, stage, tuple(channels[modality] for modality in in_order), notes))
    failures = [_failure(name, each) for name, each in of_cases.items() if name not in found]
    return cases, [*failures, *_not_searched(listing)]


def _filter(modality: str, text: str) -> Filter:
    return Filter(text, f"-m {modality}=", derivatives=False)


def _report_without_images(names: Sequence[BidsName], known: Collection[str]) -> None:
    """Print which sessions have only images of other kinds."""
    raw = {name.case for name in names if name.is_raw and name.not_searched is None}
    if others := sorted(raw - set(known)):
        number = "1 session has" if len(others) == 1 else f"{len(others)} sessions have"
        more = f" and {len(others) - _MOST_NAMED} more" if len(others) > _MOST_NAMED else ""
        print(f"{number} no image that a filter matches: {', '.join(others[:_MOST_NAMED])}{more}", flush=True)


def _names(images: Path, listing: Listing, filters: Mapping[str, Filter]) -> list[BidsName]:
    """Return the names of all images, and print which modalities are missing in all cases.

    Raises:
        ModalityError: all of them are.
    """
    names = images_of(listing)
    if not names:
        raise ModalityError(
            f"{images} has no image with a name like sub-01_T1w.nii.gz. In a BIDS dataset, each subject has a folder "
            "sub-LABEL. Check -i."
        )
    unmatched = {
        modality: of.text for modality, of in filters.items() if all(of.choice(name) is None for name in names)
    }
    if not unmatched:
        return names
    there_are = kinds_text(names, {choice.suffix.lower() for name in unmatched for choice in filters[name].choices})
    said = ", ".join(f"{name} ({text})" for name, text in unmatched.items())
    if len(unmatched) == len(filters):
        raise ModalityError(f"{images} has no image for {said}. There are{there_are}\nChoose with -m NAME=FILTER.")
    print(
        f"WARNING: no case has {said}, because no image matches the filter. There are{there_are}\n"
        "If one of them is meant, choose it with -m NAME=FILTER.",
        flush=True,
    )
    return names


def _failure(case: str, problems: Sequence[Problem]) -> Failure:
    """Return why a case is not predicted: each reason once, with the first file to which it applies."""
    worst = [problem for problem in problems if problem.rank == min(problem.rank for problem in problems)]
    reasons: dict[str, Path] = {}
    for problem in worst:
        reasons.setdefault(problem.reason, problem.file)
    text = " ".join(f"{file.name}: {reason}" for reason, file in reasons.items())
    return Failure(case, tuple(str(problem.file) for problem in worst), text)


def _not_searched(listing: Listing) -> list[Failure]:
    """Return a failure for all in the folders of subjects that cannot be searched, because images may be in it."""
    failures = []
    for problem in listing.problems:
        first = listing.relative(problem.file).partition("/")[0]
        if problem.rank == 0 and first.lower().startswith(f"{SUBJECT}-"):
            failures.append(Failure(problem.file.name, (str(problem.file),), problem.reason))
    return failures
