"""Write a raw dataset for nnU-Net from a folder with another layout."""

import io
import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_file_ending
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO
from nnunetv2.paths import nnUNet_raw

from nnunet_moe.commands.import_dataset.bids_filters import with_bids_filters
from nnunet_moe.commands.import_dataset.cases import NO_PATTERN, find_cases
from nnunet_moe.commands.import_dataset.companions import Spacings, TiffOfSpacing, find_spacings
from nnunet_moe.commands.import_dataset.filled import ReadCase
from nnunet_moe.commands.import_dataset.labels import cases_with_other_labels, labels_of
from nnunet_moe.commands.import_dataset.new_files import TABLE as ALIGNMENT_TABLE
from nnunet_moe.commands.import_dataset.new_files import read_with_new_files, with_new_files, write_table
from nnunet_moe.commands.import_dataset.patients import patients_of_cases, sessions_of_cases
from nnunet_moe.commands.import_dataset.placing import REPORT, Imported, place_cases, write_report
from nnunet_moe.commands.import_dataset.renumbering import with_new_numbers
from nnunet_moe.commands.import_dataset.request import Request
from nnunet_moe.errors import ModalityError, NnunetMoeError, SettingsError
from nnunet_moe.images.alignment.settings import KEY as ALIGNMENT
from nnunet_moe.images.alignment.settings import AlignmentSettings
from nnunet_moe.images.alignment.volumes import require_positions_for_dicom, require_positions_in
from nnunet_moe.images.bids_names import KEY as BIDS
from nnunet_moe.images.bids_names import Filter
from nnunet_moe.images.file_names import READABLE_ENDINGS
from nnunet_moe.labels.regions import regions_in_dataset_json
from nnunet_moe.layouts.bids import find_bids_cases
from nnunet_moe.layouts.bids_kinds import kinds_of
from nnunet_moe.layouts.found import LABEL, FoundCase
from nnunet_moe.layouts.listing import Listing, Problem, list_files, readable_endings
from nnunet_moe.modalities.availability import Availability
from nnunet_moe.patients import TABLE, write_patients
from nnunet_moe.runtime.files import atomic_folder, nnunet_folder, remove_leftovers, working_folder
from nnunet_moe.runtime.patterns import Pattern
from nnunet_moe.runtime.processes import WorkError, map_cases

OF_SERIES = ".nii.gz"
"""The file ending of a dataset of DICOM series only."""


def import_dataset(request: Request) -> Imported:
    """Write `nnUNet_raw/DATASET`, completely or not at all.

    Raises:
        SettingsError: options do not fit together, or the dataset already exists.
        ModalityError: no case has a segmentation, or nnU-Net does not accept the labels. A case whose segmentation has
            other values than the requested labels is skipped, unless these are many.
        ModelError: `nnUNet_raw` is not set.
    """
    raw = nnunet_folder(nnUNet_raw)
    raw.mkdir(parents=True, exist_ok=True)
    remove_leftovers(raw)
    with working_folder(raw) as new:
        return _imported(request, raw / request.dataset, new)


def _imported(request: Request, folder: Path, new: Path) -> Imported:
    """Write the dataset.

    Args:
        request: the options.
        folder: the folder of the dataset.
        new: an empty folder for new files.
    """
    request, cases, problems, ending = _found(request)
    names = tuple(request.modalities)
    alignment = request.alignment.for_dataset({}, names)
    if not cases:
        raise ModalityError(
            f"No file below {request.source} with the ending {ending} could be placed as an image. Correct the "
            f"{request.searched_by} or -ending.{_examples(problems)}"
        )
    require_positions_in(ending, alignment)
    if any(file.is_dir() for case in cases.values() for file in case.files):
        require_positions_for_dicom(ending)
    reader = _reader(cases, ending)
    spacings = find_spacings(cases) if reader is Tiff3DIO else None
    read, unreadable = _read(request, cases, reader, spacings, alignment, new, ending)
    odd = cases_with_other_labels(request, cases, read)
    problems += unreadable
    problems += [Problem(file, reason) for name, reason in odd.items() for file in cases[name].files]
    cases = {name: case for name, case in cases.items() if name in read and name not in odd}
    filled = _placeholders(request, cases, read)
    training, test, unlabelled = _parts(request, cases)
    problems += unlabelled
    if not training:
        raise ModalityError(
            f"No case below {request.source} has a segmentation that could be placed. Correct -l.{_examples(problems)}"
        )
    placed = {**training, **test}
    patients, labels = patients_of_cases(request, placed), labels_of(request, training, read)
    imported = Imported(
        folder, _availability(training, read, names), _availability(test, read, names) if test else None, filled
    )
    imported.suspect = _suspect(placed, read)
    imported.without_spacing, imported.not_placed = _reported(problems, placed, spacings)
    imported.num_patients = len(set(patients.values())) if patients else None
    imported.kinds = kinds_of(placed.values(), request.source.resolve()) if request.is_bids else {}
    with atomic_folder(folder) as unfinished:
        to_place = {"training": with_new_files(training, read), "test": with_new_files(test, read)}
        if request.renumber and request.labels is not None:
            processes = {"num_processes": request.num_processes, "show_progress": request.show_progress}
            to_place["training"] = with_new_numbers(
                to_place["training"], request.labels, reader, new, ending, **processes
            )
        place_cases(request, unfinished, ending, spacings, **to_place, new=new)
        regions, order = (labels, None) if request.regions is None else regions_in_dataset_json(request.regions, labels)
        description = {
            "channel_names": {str(channel): name for channel, name in enumerate(names)},
            "labels": {"background": 0, **regions},
            **({} if order is None else {"regions_class_order": order}),
            "numTraining": len(training),
            "file_ending": ending,
        }
        if request.is_bids:
            description[BIDS] = dict(request.modalities)
        if alignment.is_on:
            description[ALIGNMENT] = alignment.description()
            write_table(unfinished / ALIGNMENT_TABLE, placed, read)
            imported.alignments = Counter(how for name in placed for how in _ways(read[name]))
            imported.alignment_notes = _alignment_notes(placed, read)
        (unfinished / "dataset.json").write_text(json.dumps(description, indent=4), encoding="utf-8")
        if patients:
            write_patients(unfinished / TABLE, patients, sessions_of_cases(placed) if request.is_bids else {})
        write_report(unfinished / REPORT, imported, treated_as_absent=request.filled_as_absent)
    return imported


def _found(request: Request) -> tuple[Request, dict[str, FoundCase], list[Problem], str]:
    """Return the request with its modalities, the cases, what was not placed, and the file ending."""
    listing = list_files(request.source.resolve())
    if request.is_bids:
        request, filters = with_bids_filters(request, listing)
        ending = _file_ending(request, filters, listing)
        return request, *find_bids_cases(listing, filters, [ending]), ending
    patterns = _patterns(request)
    ending = _file_ending(request, patterns, listing)
    return request, *find_cases(listing, patterns, ending), ending


def _ways(case: ReadCase) -> list[str]:
    return [] if case.aligned is None else [alignment.how for alignment in case.aligned.alignments.values()]


def _alignment_notes(placed: Mapping[str, FoundCase], read: Mapping[str, ReadCase]) -> list[str]:
    """Return the messages on the alignment of all cases."""
    aligned = ((name, read[name].aligned) for name in placed)
    return [f"{name}: {note}" for name, case in aligned if case is not None for note in case.notes]


def _placeholders(request: Request, cases: Mapping[str, FoundCase], read: Mapping[str, ReadCase]) -> list[Problem]:
    """Report files that seem to be placeholders for a missing modality, and remove them from cases if requested."""
    names, found = tuple(request.modalities), []
    for name, case in cases.items():
        for channel, why in read[name].filled.items():
            found.append(Problem(case.images[names[channel]], f"{names[channel]} of {name} is {why}."))
            if request.filled_as_absent:
                del case.images[names[channel]]
    return found


def _suspect(placed: Mapping[str, FoundCase], read: Mapping[str, ReadCase]) -> list[Problem]:
    """Report the placed files that look wrong for another reason."""
    return [
        Problem(Path(file), f"{name}: {note.replace(file, Path(file).name)}.")
        for name, case in placed.items()
        for file, note in read[name].suspect
        if Path(file) in case.files
    ]


def _parts(
    request: Request, cases: Mapping[str, FoundCase]
) -> tuple[dict[str, FoundCase], dict[str, FoundCase], list[Problem]]:
    """Return the training cases, the test cases, and the files of cases that are neither."""
    training = {name: case for name, case in cases.items() if case.label is not None}
    test = {name: case for name, case in cases.items() if case.label is None}
    if request.unlabelled_to_test:
        return training, test, []
    problems = [
        Problem(file, f"{name} has no segmentation. Put such cases into imagesTs with --unlabelled_to_test.")
        for name, case in test.items()
        for file in case.images.values()
    ]
    return training, {}, problems


def _reported(
    problems: Sequence[Problem], placed: Mapping[str, FoundCase], spacings: Spacings | None
) -> tuple[list[Problem], list[Problem]]:
    """Return the images that are placed without a spacing, and all files that are not placed."""
    without_spacing: list[Problem] = []
    if spacings is not None:
        without_spacing = _without_spacing(placed, spacings)
        known = {file for name, file in spacings.files.items() if name in placed}
        known |= {problem.file for problem in spacings.unused}
        skipped = [
            Problem(file, f"It holds the spacing of {name}, which was not placed.", rank=1)
            for name, file in spacings.files.items()
            if name not in placed
        ]
        known |= {problem.file for problem in skipped}
        problems = [*(problem for problem in problems if problem.file not in known), *skipped, *spacings.unused]
    return without_spacing, sorted(problems, key=lambda problem: problem.rank)


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


def _file_ending(request: Request, patterns: Mapping[str, Pattern | Filter], listing: Listing) -> str:
    """Return the requested file ending, or the ending that all files that match a pattern or filter share.

    DICOM series become files with this ending. If nothing else matches, it is the usual one.
    """
    known = sorted(READABLE_ENDINGS, key=lambda ending: (len(ending), ending))
    if request.file_ending is not None:
        if request.file_ending not in known:
            raise SettingsError(
                f"-ending {request.file_ending} is not supported. nnU-Net reads {', '.join(known)}. Choose one of them."
            )
        return request.file_ending
    found, others = set(), set()

    def matches(path: Path) -> bool:
        return any(pattern.match(listing.relative(path)) is not None for pattern in patterns.values())

    for path in filter(matches, listing.files):
        endings = readable_endings(path.name)
        found.update(endings[-1:])
        others.update(() if endings else (path.suffix or "no ending",))
    if not found and any(map(matches, listing.series)):
        found.add(OF_SERIES)
    if len(found) != 1:
        raise SettingsError(
            f"The files below {request.source} that match the {request.searched_by} have these endings: "
            f"{', '.join(sorted(found)) or 'none'} that nnU-Net reads{_also(others)}. A dataset must have one ending "
            f"({', '.join(known)}). Choose it with -ending, or correct the {request.searched_by}."
        )
    return found.pop()


def _also(others: Collection[str]) -> str:
    return f", but {', '.join(sorted(others))}, which must be converted first" if others else ""


def _reader(cases: Mapping[str, FoundCase], ending: str) -> Any:
    """Return nnU-Net's reader for the images: the one that reads the first image that any reader can read.

    If there are only DICOM series, it is nnU-Net's first reader for the files that they become.

    Raises:
        ModalityError: no image can be read.
    """
    images = [image for case in cases.values() for image in case.images.values() if not image.is_dir()]
    if not images:
        return determine_reader_writer_from_file_ending(ending, verbose=False)
    for image in images:
        try:
            # nnU-Net prints a traceback for each reader that it tries, and that it knows no spacing
            with redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
                return determine_reader_writer_from_file_ending(ending, str(image), verbose=False)
        except RuntimeError:
            continue
    raise ModalityError(f"nnU-Net can read none of the {len(images)} images, such as {images[0]}. Repair them.")


def _read(
    request: Request,
    cases: Mapping[str, FoundCase],
    reader: Any,
    spacings: Spacings | None,
    alignment: AlignmentSettings,
    new: Path,
    ending: str,
) -> tuple[dict[str, ReadCase], list[Problem]]:
    """Read all cases, and report the files of those that cannot be used."""
    names = tuple(request.modalities)
    originals = [names.index(name) for name in dict.fromkeys((*request.originals, *names))]
    tasks = [
        (
            {modality: str(case.images[modality]) for modality in names if modality in case.images},
            None if case.label is None else str(case.label),
            reader
            if spacings is None or name not in spacings.of_cases
            else partial(TiffOfSpacing, spacings.of_cases[name]),
            names,
            originals,
            alignment,
            new / name,
            ending,
        )
        for name, case in cases.items()
    ]
    results = map_cases(
        read_with_new_files,
        tasks,
        request.num_processes,
        description="Aligning cases" if alignment.is_on else "Reading cases",
        show_progress=request.show_progress,
        any_error=True,
    )
    read, problems = {}, []
    for (name, case), result in zip(cases.items(), results, strict=True):
        problem = {} if spacings is None else spacings.unusable
        if isinstance(result, (NnunetMoeError, WorkError)) or name in problem:
            reason = f"It belongs to {name}, which cannot be used: {problem.get(name, result)}"
            problems += [Problem(file, reason) for file in case.files]
        else:
            read[name] = result
    return read, problems


def _without_spacing(cases: Mapping[str, FoundCase], spacings: Spacings) -> list[Problem]:
    """Report the TIFFs for which nnU-Net will assume a spacing of 1."""
    reason = 'It has no spacing file, so nnU-Net assumes 1 x 1 x 1. Add CASE.json with {"spacing": [...]} next to it.'
    return [Problem(file, reason) for name, case in cases.items() if name not in spacings.files for file in case.files]


def _availability(cases: Mapping[str, FoundCase], read: Mapping[str, ReadCase], names: Sequence[str]) -> Availability:
    files = {case: tuple(name in found.images for name in names) for case, found in cases.items()}
    codes = {case: tuple(map(all, zip(code, read[case].code, strict=True))) for case, code in files.items()}
    return Availability(files, names, codes)


def _examples(problems: Sequence[Problem]) -> str:
    """Return one example for each reason; files that match no pattern come last."""
    by_reason = {problem.reason: f"\n  {problem.file}: {problem.reason}" for problem in reversed(problems)}
    return "".join(sorted(reversed(by_reason.values()), key=lambda text: NO_PATTERN in text)[:5])
