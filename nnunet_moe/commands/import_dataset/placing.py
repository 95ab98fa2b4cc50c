"""Place the files of a dataset, and write the report on all others."""

import csv
import os
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from nnunet_moe.commands.import_dataset.companions import Spacings
from nnunet_moe.commands.import_dataset.request import Request
from nnunet_moe.layouts.found import FoundCase
from nnunet_moe.layouts.listing import Problem
from nnunet_moe.modalities.availability import Availability
from nnunet_moe.runtime.files import open_text

REPORT = "import_report.csv"


@dataclass
class Imported:
    """The result of an import."""

    folder: Path
    training: Availability
    test: Availability | None
    filled: list[Problem] = field(default_factory=list)
    """Files that seem to be placeholders for a missing modality."""
    suspect: list[Problem] = field(default_factory=list)
    """Placed files that look wrong for another reason."""
    without_spacing: list[Problem] = field(default_factory=list)
    """TIFFs that were placed, for which nnU-Net will assume a spacing of 1."""
    not_placed: list[Problem] = field(default_factory=list)
    """Everything else below the original folder."""
    alignments: Counter[str] = field(default_factory=Counter)
    """How many files were aligned in which way; empty if they were placed as they are."""
    alignment_notes: list[str] = field(default_factory=list)
    """What must be known about the alignment of placed files, such as low coverage."""
    num_patients: int | None = None
    """None if it is not known which patient each case belongs to."""
    kinds: Mapping[str, Counter[str]] = field(default_factory=dict)
    """Modality -> how many files of each kind, by their BIDS names; empty if they were found by patterns."""

    @property
    def report(self) -> Path:
        return self.folder / REPORT


def place_cases(
    request: Request,
    folder: Path,
    ending: str,
    spacings: Spacings | None,
    *,
    training: Mapping[str, FoundCase],
    test: Mapping[str, FoundCase],
    new: Path,
) -> None:
    """Copy or link the files with the names that nnU-Net expects, and move those of the folder `new`."""
    names, place = tuple(request.modalities), partial(_place, link=request.link, new=new)
    for part, cases in (("Tr", training), ("Ts", test)):
        for name, case in cases.items():
            for modality, file in case.images.items():
                target = folder / f"images{part}" / f"{name}_{names.index(modality):04d}{ending}"
                target.parent.mkdir(exist_ok=True)
                place(file, target)
            if spacings is not None and name in spacings.files:
                place(spacings.files[name], folder / f"images{part}" / f"{name}.json")
    (folder / "labelsTr").mkdir()
    for name, case in training.items():
        assert case.label is not None
        place(case.label, folder / "labelsTr" / f"{name}{ending}")
        if spacings is not None and name in spacings.files:
            place(spacings.files[name], folder / "labelsTr" / f"{name}.json")


def write_report(file: Path, imported: Imported, *, treated_as_absent: bool) -> None:
    """Write a table of all files that were not placed or look suspect."""
    filled = "treated as absent" if treated_as_absent else "placed, but suspect"
    tables = (
        (filled, imported.filled),
        ("placed, but suspect", imported.suspect),
        ("placed without spacing", imported.without_spacing),
    )
    with open_text(file, "w") as opened:
        table = csv.writer(opened, lineterminator="\n")
        table.writerow(["file", "what", "reason"])
        for what, problems in (*tables, ("not placed", imported.not_placed)):
            table.writerows([problem.file, what, problem.reason] for problem in problems)


def _place(file: Path, target: Path, *, link: bool, new: Path) -> None:
    if file.is_relative_to(new):
        os.replace(file, target)
    elif link:
        target.symlink_to(os.path.realpath(file))
    else:
        shutil.copyfile(file, target)
