"""Write a raw dataset for nnU-Net from a folder with another layout."""

import csv
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_file_ending
from nnunetv2.paths import nnUNet_raw

from nnunet_moe.commands.import_dataset.filled import ZEROS, ReadCase, read_whole
from nnunet_moe.commands.import_dataset.patterns import LABEL, NO_PATTERN, FoundCase, Pattern, Problem, find_cases
from nnunet_moe.commands.import_dataset.request import Request
from nnunet_moe.errors import ModalityError, NnunetMoeError, SettingsError
from nnunet_moe.images.file_names import READABLE_ENDINGS
from nnunet_moe.modalities.availability import Availability
from nnunet_moe.runtime.files import atomic_folder, nnunet_folder
from nnunet_moe.runtime.processes import map_cases

REPORT = "import_report.csv"


@dataclass
class Imported:
    """The result of an import."""

    folder: Path
    training: Availability
    test: Availability | None
    filled: list[Problem] = field(default_factory=list)
    """Files that seem to be placeholders for a missing modality."""
    not_placed: list[Problem] = field(default_factory=list)

    @property
    def report(self) -> Path:
        return self.folder / REPORT


def import_dataset(request: Request) -> Imported:
    """Write `nnUNet_raw/DATASET`, completely or not at all.

    Raises:
        SettingsError: options do not fit together, or the dataset already exists.
        ModalityError: no case has a segmentation, or nnU-Net does not accept the labels.
        ModelError: `nnUNet_raw` is not set.
    """
    folder, names = nnunet_folder(nnUNet_raw) / request.dataset, tuple(request.modalities)
    patterns = _patterns(request)
    ending = _file_ending(request, patterns)
    cases, problems = find_cases(request.source.resolve(), patterns, ending)
    if not cases:
        raise ModalityError(
            f"No file below {request.source} with the ending {ending} could be placed as an image. Correct the "
            f"patterns or -ending.{_examples(problems)}"
        )
    read, unreadable = _read(request, cases, ending)
    problems += unreadable
    cases = {name: case for name, case in cases.items() if name in read}
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
    labels = _labels(request, {name: read[name].labels for name in training})
    imported = Imported(
        folder, _availability(training, read, names), _availability(test, read, names) if test else None
    )
    imported.filled, imported.not_placed = filled, problems
    with atomic_folder(folder) as unfinished:
        _place(request, unfinished, ending, training=training, test=test)
        description = {
            "channel_names": {str(channel): name for channel, name in enumerate(names)},
            "labels": {"background": 0, **labels},
            "numTraining": len(training),
            "file_ending": ending,
        }
        (unfinished / "dataset.json").write_text(json.dumps(description, indent=4), encoding="utf-8")
        _write_report(unfinished / REPORT, imported, treated_as_absent=request.filled_as_absent)
    return imported


def _place(
    request: Request,
    folder: Path,
    ending: str,
    *,
    training: Mapping[str, FoundCase],
    test: Mapping[str, FoundCase],
) -> None:
    """Copy or link the files with the names that nnU-Net expects."""
    names, place = tuple(request.modalities), _link if request.link else shutil.copyfile
    for part, cases in (("Tr", training), ("Ts", test)):
        for name, case in cases.items():
            for modality, file in case.images.items():
                target = folder / f"images{part}" / f"{name}_{names.index(modality):04d}{ending}"
                target.parent.mkdir(exist_ok=True)
                place(file, target)
    (folder / "labelsTr").mkdir()
    for name, case in training.items():
        assert case.label is not None
        place(case.label, folder / "labelsTr" / f"{name}{ending}")


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


def _file_ending(request: Request, patterns: Mapping[str, Pattern]) -> str:
    """Return the requested file ending, or the ending that all files that match a pattern share."""
    known = sorted(READABLE_ENDINGS, key=lambda ending: (len(ending), ending))
    if request.file_ending is not None:
        if request.file_ending not in known:
            raise SettingsError(
                f"-ending {request.file_ending} is not supported. nnU-Net reads {', '.join(known)}. Choose one of them."
            )
        return request.file_ending
    found = set()
    for path in request.source.rglob("*"):
        relative = path.relative_to(request.source).as_posix()
        endings = [ending for ending in known if relative.lower().endswith(ending)]
        if endings and any(pattern.match(relative) is not None for pattern in patterns.values()):
            found.add(endings[-1])
    if len(found) != 1:
        raise SettingsError(
            f"The files below {request.source} that match the patterns have these endings: "
            f"{', '.join(sorted(found)) or 'none'}. A dataset must have one ending that nnU-Net reads "
            f"({', '.join(known)}). Choose it with -ending, or correct the patterns."
        )
    return found.pop()


def _read(request: Request, cases: Mapping[str, FoundCase], ending: str) -> tuple[dict[str, ReadCase], list[Problem]]:
    """Read all cases, and report the files of those that cannot be used."""
    names = tuple(request.modalities)
    example = next(iter(next(iter(cases.values())).images.values()))
    reader: Any = determine_reader_writer_from_file_ending(ending, str(example), True, verbose=False)
    originals = [names.index(name) for name in dict.fromkeys((*request.originals, *names))]
    tasks = [
        (
            {names.index(modality): str(file) for modality, file in case.images.items()},
            None if case.label is None else str(case.label),
            reader,
            names,
            originals,
        )
        for case in cases.values()
    ]
    results = map_cases(
        read_whole, tasks, request.num_processes, description="Reading cases", show_progress=request.show_progress
    )
    read, problems = {}, []
    for (name, case), result in zip(cases.items(), results, strict=True):
        if isinstance(result, NnunetMoeError):
            files = (*case.images.values(), *filter(None, [case.label]))
            problems += [Problem(file, f"It belongs to {name}, which cannot be used: {result}") for file in files]
        else:
            read[name] = result
    return read, problems


def _labels(request: Request, found: Mapping[str, frozenset[int]]) -> dict[str, int]:
    """Return name -> value of the requested labels, or of the labels in the segmentations."""
    values = set().union(*found.values()) - {0}
    wanted = range(1, max(values, default=0) + 1) if request.labels is None else request.labels.values()
    if odd := values - set(wanted):
        cases = [name for name, labels in found.items() if labels & odd]
        raise ModalityError(
            f"{len(cases)} segmentations ({cases[0]}, ...) hold {', '.join(map(str, sorted(odd)))}, but -labels are "
            f"{dict(request.labels or {})}. Correct the segmentations or -labels."
        )
    if request.labels is not None:
        return dict(request.labels)
    if missing := sorted(set(wanted) - values):
        raise ModalityError(
            f"The segmentations hold {', '.join(map(str, sorted(values)))}, but not {', '.join(map(str, missing))}. "
            "nnU-Net needs 1, 2, 3 and so on, without gaps. Change the labels. If some labels just do not "
            "occur in these cases, name all of them with -labels."
        )
    if not values:
        raise ModalityError("The segmentations hold only 0. If that is correct, name the labels with -labels.")
    return {f"label_{value}": value for value in sorted(values)}


def _availability(cases: Mapping[str, FoundCase], read: Mapping[str, ReadCase], names: Sequence[str]) -> Availability:
    files = {case: tuple(name in found.images for name in names) for case, found in cases.items()}
    codes = {
        case: tuple(there and read[case].filled.get(channel) != ZEROS for channel, there in enumerate(code))
        for case, code in files.items()
    }
    return Availability(files, names, codes)


def _link(file: Path, target: Path) -> None:
    target.symlink_to(os.path.realpath(file))


def _write_report(file: Path, imported: Imported, *, treated_as_absent: bool) -> None:
    with file.open("w", newline="", encoding="utf-8") as opened:
        table = csv.writer(opened, lineterminator="\n")
        table.writerow(["file", "what", "reason"])
        what = "treated as absent" if treated_as_absent else "placed, but suspect"
        table.writerows([problem.file, what, problem.reason] for problem in imported.filled)
        table.writerows([problem.file, "not placed", problem.reason] for problem in imported.not_placed)


def _examples(problems: Sequence[Problem]) -> str:
    """Return one example for each reason; files that match no pattern come last."""
    by_reason = {problem.reason: f"\n  {problem.file}: {problem.reason}" for problem in reversed(problems)}
    return "".join(sorted(reversed(by_reason.values()), key=lambda text: NO_PATTERN in text)[:5])
