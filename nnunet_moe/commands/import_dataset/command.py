"""Run `nnunet_moe import`. Its options are in `request`."""

import argparse

from nnunet_moe.commands.import_dataset.request import Request
from nnunet_moe.runtime import options
from nnunet_moe.runtime.options import read_request

_FILLED = {True: "Treated as missing", False: "Suspect, but placed (see --filled_as_absent)"}
_NUMBER = {True: "1 file, listed", False: "{} files, all listed"}


EXAMPLE = (
    "nnunet_moe import -i BraTS2023 -d Dataset503_BraTS -m T1w='{case}-t1n.nii.gz' -m FLAIR='{case}-t2f.nii.gz' "
    "-l '{case}-seg.nii.gz' --link"
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    options.add_options(parser, Request)


def run(namespace: argparse.Namespace) -> None:
    """Import, and list files that look wrong."""
    request = read_request(Request, namespace)

    from nnunet_moe.commands.import_dataset.dataset import import_dataset
    from nnunet_moe.commands.import_dataset.new_files import TABLE as ALIGNMENT_TABLE
    from nnunet_moe.patients import TABLE
    from nnunet_moe.reports.availability import availability_tables

    imported = import_dataset(request)
    num_test = 0 if imported.test is None else len(imported.test.codes)
    print(f"Wrote {imported.folder}: {len(imported.training.codes)} training and {num_test} test cases")
    print(availability_tables(imported.training))
    for modality, kinds in imported.kinds.items():
        if len(kinds) > 1:
            counts = ", ".join(f"{number} {kind}" for kind, number in kinds.most_common())
            print(f"{modality} has files of several kinds: {counts}")
    for problems, what in (
        (imported.filled, _FILLED[request.filled_as_absent]),
        (imported.suspect, "Suspect, but placed"),
        (imported.without_spacing, "Placed without a spacing"),
        (imported.not_placed, "Not placed"),
    ):
        if problems:
            print(f"{what}: {_NUMBER[len(problems) == 1].format(len(problems))} in {imported.report}")
            print("\n".join(f"  {problem.file}: {problem.reason}" for problem in problems[:10]))
    if imported.alignments:
        counts = ", ".join(f"{number} {how}" for how, number in imported.alignments.most_common())
        print(f"Files on one grid per case: {counts}. Motions and notes: {imported.folder / ALIGNMENT_TABLE}")
        notes = imported.alignment_notes
        if notes:
            print(f"Notes on the alignment: {len(notes)}, in the same table")
            print("\n".join(f"  {note}" for note in notes[:10]))
    if imported.num_patients is not None:
        who = "1 patient" if imported.num_patients == 1 else f"{imported.num_patients} patients"
        print(f"{who}, see {imported.folder / TABLE}. Folds will keep their cases together.")
    print(f"Next: nnunet_moe plan_and_preprocess -d {request.dataset} --verify_dataset_integrity")
