"""Write a raw dataset for nnU-Net from a folder with another layout."""

import io
import json
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from functools import partial
from typing import Any

from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_file_ending
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO
from nnunetv2.paths import nnUNet_raw

from nnunet_moe.commands.import_dataset.cases import NO_PATTERN, FoundCase, find_cases
from nnunet_moe.commands.import_dataset.companions import Spacings, TiffOfSpacing, find_spacings
from nnunet_moe.commands.import_dataset.filled import ReadCase, read_whole
from nnunet_moe.commands.import_dataset.listing import Listing, Problem, list_files, readable_endings
from nnunet_moe.commands.import_dataset.patients import patients_of_cases
from nnunet_moe.commands.import_dataset.patterns import LABEL, Pattern
from nnunet_moe.commands.import_dataset.placing import REPORT, Imported, place_cases, write_report
from nnunet_moe.commands.import_dataset.request import Request
from nnunet_moe.errors import ModalityError, NnunetMoeError, SettingsError
from nnunet_moe.images.file_names import READABLE_ENDINGS
from nnunet_moe.labels.voxels import MOST_EXAMPLES
from nnunet_moe.modalities.availability import Availability
from nnunet_moe.patients import TABLE, write_patients
from nnunet_moe.runtime.files import atomic_folder, nnunet_folder
from nnunet_moe.runtime.processes import map_cases

MOST_ODD = 0.1
"""The largest share of segmentations that may hold other values than -labels. If more do, -labels must be wrong."""


def import_dataset(request: Request) -> Imported:
    """Write `nnUNet_raw/DATASET`, completely or not at all.

    Raises:
        SettingsError: options do not fit together, or the dataset already exists.
        ModalityError: no case has a segmentation, or nnU-Net does not accept the labels. A case whose segmentation has
            other values than the requested labels is skipped, unless these are many.
        ModelError: `nnUNet_raw` is not set.
    """
    folder, names = nnunet_folder(nnUNet_raw) / request.dataset, tuple(request.modalities)
    patterns, listing = _patterns(request), list_files(request.source.resolve())
    ending = _file_ending(request, patterns, listing)
    cases, problems = find_cases(listing, patterns, ending)
    if not cases:
        raise ModalityError(
            f"No file below {request.source} with the ending {ending} could be placed as an image. Correct the "
            f"patterns or -ending.{_examples(problems)}"
        )
    reader = _reader(cases, ending)
    spacings = find_spacings(cases) if reader is Tiff3DIO else None
    read, unreadable = _read(request, cases, reader, spacings)
    problems += unreadable
    odd = _cases_with_other_labels(request, cases, read)
    problems += [Problem(file, reason) for name, reason in odd.items() for file in cases[name].files]
    cases = {name: case for name, case in cases.items() if name in read and name not in odd}
    filled = [
        Problem(case.images[names[channel]], f"{names[channel]} of {name} is {why}.")
        for name, case in cases.items()
        for channel, why in read[name].filled.items()
    ]
    if request.filled_as_absent:
        for name, case in cases.items():
            for channel in read[name].filled:
                del case.images[names[channel]]
    training = {name: case for name, case in cases.items() if case.label is not None}
    test = {name: case for name, case in cases.items() if case.label is None}
    if not request.unlabelled_to_test:
        for name, case in test.items():
            reason = f"{name} has no segmentation. Put such cases into imagesTs with --unlabelled_to_test."
            problems += [Problem(file, reason) for file in case.images.values()]
        test = {}
    if not training:
        raise ModalityError(
            f"No case below {request.source} has a segmentation that could be placed. Correct the pattern of -l."
            f"{_examples(problems)}"
        )
    patients = patients_of_cases(request, {**training, **test})
    labels = _labels(request, training, read)
    imported = Imported(
        folder, _availability(training, read, names), _availability(test, read, names) if test else None
    )
    imported.filled, imported.not_placed = filled, problems
    if spacings is not None:
        imported.without_spacing = _without_spacing({**training, **test}, spacings)
        placed = {file for name, file in spacings.files.items() if name in {**training, **test}}
        told = placed | {problem.file for problem in spacings.unused}
        imported.not_placed = [*(problem for problem in problems if problem.file not in told), *spacings.unused]
    imported.num_patients = len(set(patients.values())) if patients else None
    imported.not_placed.sort(key=lambda problem: problem.rank)
    with atomic_folder(folder) as unfinished:
        place_cases(request, unfinished, ending, spacings, training=training, test=test)
        description = {
            "channel_names": {str(channel): name for channel, name in enumerate(names)},
            "labels": {"background": 0, **labels},
            "numTraining": len(training),
            "file_ending": ending,
        }
        (unfinished / "dataset.json").write_text(json.dumps(description, indent=4), encoding="utf-8")
        if patients:
            write_patients(unfinished / TABLE, patients)
        write_report(unfinished / REPORT, imported, treated_as_absent=request.filled_as_absent)
    return imported


def _patterns(request: Request) -> dict[str, Pattern]:
    patterns = {name: Pattern(text) for name, text in {**request.modalities, LABEL: request.label}.items()}
    first = next(iter(patterns.values()))
    for name, pattern in patterns.items():
        if set(pattern.fields) != set(first.fields):
            raise SettingsError(
                f"The pattern of {name} identifies a case by {', '.join(pattern.fields)}, but the first pattern by "
                f"{', '.join(first.fields)}. Use the same names in braces in all patterns."
            )
    return patterns


def _file_ending(request: Request, patterns: Mapping[str, Pattern], listing: Listing) -> str:
    """Return the requested file ending, or the ending that all files that match a pattern share."""
    known = sorted(READABLE_ENDINGS, key=lambda ending: (len(ending), ending))
    if request.file_ending is not None:
        if request.file_ending not in known:
            raise SettingsError(
                f"-ending {request.file_ending} is not supported. nnU-Net reads {', '.join(known)}. Choose one of them."
            )
        return request.file_ending
    found = set()
    for path in listing.files:
        relative, endings = path.relative_to(listing.folder).as_posix(), readable_endings(path.name)
        if endings and any(pattern.match(relative) is not None for pattern in patterns.values()):
            found.add(endings[-1])
    if len(found) != 1:
        raise SettingsError(
            f"The files below {request.source} that match the patterns have these endings: "
            f"{', '.join(sorted(found)) or 'none'}. A dataset must have one ending that nnU-Net reads "
            f"({', '.join(known)}). Choose it with -ending, or correct the patterns."
        )
    return found.pop()


def _reader(cases: Mapping[str, FoundCase], ending: str) -> Any:
    """Return nnU-Net's reader for the images: the one that reads the first image that any reader can read.

    Raises:
        ModalityError: no image can be read.
    """
    images = [image for case in cases.values() for image in case.images.values()]
    for image in images:
        try:
            with redirect_stderr(io.StringIO()):  # nnU-Net prints a traceback for each reader that it tries
                return determine_reader_writer_from_file_ending(ending, str(image), verbose=False)
        except RuntimeError:
            continue
    raise ModalityError(f"nnU-Net can read none of the {len(images)} images, such as {images[0]}. Repair them.")


def _read(
    request: Request, cases: Mapping[str, FoundCase], reader: Any, spacings: Spacings | None
) -> tuple[dict[str, ReadCase], list[Problem]]:
    """Read all cases, and report the files of those that cannot be used."""
    names = tuple(request.modalities)
    originals = [names.index(name) for name in dict.fromkeys((*request.originals, *names))]
    tasks = [
        (
            {names.index(modality): str(file) for modality, file in case.images.items()},
            None if case.label is None else str(case.label),
            reader
            if spacings is None or name not in spacings.of_cases
            else partial(TiffOfSpacing, spacings.of_cases[name]),
            names,
            originals,
        )
        for name, case in cases.items()
    ]
    results = map_cases(
        read_whole, tasks, request.num_processes, description="Reading cases", show_progress=request.show_progress
    )
    read, problems = {}, []
    for (name, case), result in zip(cases.items(), results, strict=True):
        problem = {} if spacings is None else spacings.unusable
        if isinstance(result, NnunetMoeError) or name in problem:
            reason = f"It belongs to {name}, which cannot be used: {problem.get(name, result)}"
            problems += [Problem(file, reason) for file in case.files]
        else:
            read[name] = result
    return read, problems


def _without_spacing(cases: Mapping[str, FoundCase], spacings: Spacings) -> list[Problem]:
    """Report the TIFFs for which nnU-Net will assume a spacing of 1."""
    reason = 'It has no spacing file, so nnU-Net assumes 1 x 1 x 1. Add CASE.json with {"spacing": [...]} next to it.'
    return [Problem(file, reason) for name, case in cases.items() if name not in spacings.files for file in case.files]


def _cases_with_other_labels(
    request: Request, cases: Mapping[str, FoundCase], read: Mapping[str, ReadCase]
) -> dict[str, str]:
    """Return the cases whose segmentations hold other values than -labels, with the reason.

    Raises:
        ModalityError: these are so many that rather -labels must be wrong.
    """
    if request.labels is None:
        return {}
    allowed, labeled = {0, *request.labels.values()}, [name for name in read if cases[name].label is not None]
    odd = {name: values for name in labeled if (values := sorted(read[name].labels - allowed))}
    reasons = {
        name: f"It belongs to {name}, which cannot be used: {cases[name].label} holds {_some(values)}. The labels of "
        f"-labels are {', '.join(f'{label}={value}' for label, value in request.labels.items())}. Correct the "
        "segmentation or -labels."
        for name, values in odd.items()
    }
    if len(odd) > max(1, MOST_ODD * len(labeled)):
        text = "".join(f"\n  {cases[name].label}: {_some(values)}" for name, values in list(odd.items())[:5])
        raise ModalityError(
            f"{len(odd)} of {len(labeled)} segmentations hold other values than -labels {dict(request.labels)}, such as"
            f"{text}\nCorrect -labels or the segmentations."
        )
    return reasons


def _labels(request: Request, cases: Mapping[str, FoundCase], read: Mapping[str, ReadCase]) -> dict[str, int]:
    """Return name -> value of the requested labels, or of the labels in the segmentations.

    Raises:
        ModalityError: the values in the segmentations have gaps, or there is only the background.
    """
    if request.labels is not None:
        return dict(request.labels)
    by_value: dict[int, list[str]] = {}
    for name in cases:
        for value in read[name].labels - {0}:
            by_value.setdefault(value, []).append(str(cases[name].label))
    values = sorted(by_value)
    if not values:
        raise ModalityError("The segmentations hold only 0. If that is correct, name the labels with -labels.")
    missing = sorted(set(range(1, len(values) + 1)) - by_value.keys())
    if missing:
        rarest = sorted(values, key=lambda value: (len(by_value[value]), value))[:5]
        text = "".join(
            f"\n  {value} is in {len(by_value[value])} of {len(cases)}, such as {by_value[value][0]}"
            for value in rarest
        )
        raise ModalityError(
            f"The segmentations hold {_some(values)}, but not {_some(missing)}. nnU-Net needs 1, 2, 3 and so on, "
            f"without gaps. The rarest values:{text}\nIf some are mistakes, name the right labels with -labels, and "
            "the few cases with other values are not placed. If labels just do not occur in these cases, name all of "
            "them with -labels. Otherwise change the labels."
        )
    return {f"label_{value}": value for value in values}


def _some(values: Sequence[int]) -> str:
    more = f" and {len(values) - MOST_EXAMPLES} other values" if len(values) > MOST_EXAMPLES else ""
    return ", ".join(map(str, values[:MOST_EXAMPLES])) + more


def _availability(cases: Mapping[str, FoundCase], read: Mapping[str, ReadCase], names: Sequence[str]) -> Availability:
    files = {case: tuple(name in found.images for name in names) for case, found in cases.items()}
    codes = {case: tuple(map(all, zip(code, read[case].code, strict=True))) for case, code in files.items()}
    return Availability(files, names, codes)


def _examples(problems: Sequence[Problem]) -> str:
    """Return one example for each reason; files that match no pattern come last."""
    by_reason = {problem.reason: f"\n  {problem.file}: {problem.reason}" for problem in reversed(problems)}
    return "".join(sorted(reversed(by_reason.values()), key=lambda text: NO_PATTERN in text)[:5])
