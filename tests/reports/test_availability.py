"""The tables of what the cases of a dataset have."""

from nnunet_moe.modalities.availability import Availability
from nnunet_moe.reports.availability import availability_tables


def test_cases_are_counted_by_code_and_by_modality_and_files_of_zeros_are_none():
    files = {"a": (True, True), "b": (True, True), "c": (False, True)}
    codes = {**files, "b": (True, False)}
    assert availability_tables(Availability(files, ("T1w", "FLAIR"), codes)).splitlines() == [
        "| modalities | cases |",
        "| --- | --- |",
        "| T1w+FLAIR | 1 |",
        "| FLAIR | 1 |",
        "| T1w | 1 |",
        "",
        "| modality | cases that have it | files of one value |",
        "| --- | --- | --- |",
        "| T1w | 2 of 3 | 0 |",
        "| FLAIR | 2 of 3 | 1 |",
    ]
