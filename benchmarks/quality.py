"""Calibrate the expected DSC on validation cases, and compare it with the actual DSC of test cases.

    nnunet_moe evaluate ... -o validation --quality full
    nnunet_moe evaluate ... -o test --quality full -i imagesTs -l labelsTs
    python benchmarks/quality.py validation test

It prints one table for each trainer, label and level of quality, by number of modalities: the mean absolute error of
the expected DSC and that of the subset's mean, Spearman's correlation within subsets, coverage and width of the
intervals, and the areas under the ROC curve for failures. Nothing is chosen by the test cases.
"""

import argparse
import math
from pathlib import Path

import numpy as np
import pandas as pd

from nnunet_moe.quality.assessment import Assessment, assess
from nnunet_moe.quality.file import FILE, read_calibrations
from nnunet_moe.quality.label_calibration import LabelCalibration
from nnunet_moe.quality.regression import Fit, subset_means
from nnunet_moe.quality.settings import DEFAULT_FAILURE_DSC, FAST, FULL
from nnunet_moe.quality.signals import AGREEMENT, EXPECTED_DICE, SIGNALS
from nnunet_moe.reports.table import markdown_table
from nnunet_moe.runtime.json_files import read_json

COLUMNS = (
    "modalities", "segmentations", "error", "error of mean", "correlation", "coverage", "width", "failures", "AUC",
    "AUC of mean", "found",
)  # fmt: skip


def main() -> None:
    options = _options()
    validation, test = (read_scores(folder) for folder in (options.validation, options.test))
    if shared := sorted({*validation["case"]} & {*test["case"]}):
        raise SystemExit(f"Both folders have {', '.join(shared)}. Give test cases that calibrate nothing.")
    for (trainer, label), table in test.groupby(["trainer", "label"]):
        calibration = read_calibrations(options.validation / FILE, str(trainer)).get(str(label))
        if calibration is None:
            print(f"{trainer}, {label}: no calibration in {options.validation}\n")
            continue
        scored = validation[(validation["trainer"] == trainer) & (validation["label"] == label)]
        means = subset_means(list(scored["digits"]), scored["dsc"].to_numpy())
        for level in [level for level in (FAST, FULL) if level in calibration.by_level]:
            used = calibration.by_level[level]
            print(f"## {trainer}, {label}, {level}\n\n{used.num_patients} patients, level {used.level:.2f}")
            print(f"Errors of the candidates out of fold: {used.errors}\n")
            rows = _rows(calibration, means, table, level, options.failure_dsc)
            print(markdown_table(COLUMNS, rows), "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("validation", type=Path, help="output folder of evaluate, of validation cases")
    parser.add_argument("test", type=Path, help="output folder of evaluate, of test cases and the same model")
    parser.add_argument(
        "-failure_dsc",
        type=float,
        default=DEFAULT_FAILURE_DSC,
        help="a DSC below this is a failure (default: %(default)s)",
    )
    return parser.parse_args()


def read_scores(folder: Path) -> pd.DataFrame:
    """Return the scored segmentations with signals of an evaluation, and the digits and the size of their codes."""
    table = pd.read_csv(folder / "results.csv", dtype={"code": str, "case": str}, keep_default_na=False, na_values=[""])
    table = table[table["failure"].isna() & table["dsc"].notna() & table[EXPECTED_DICE].notna()]
    modalities = _modalities(folder)
    digits = ["".join(str(int(name in code.split("+"))) for name in modalities) for code in table["code"]]
    return table.assign(digits=digits, size=[each.count("1") for each in digits])


def _modalities(folder: Path) -> list[str]:
    """Return the modalities in channel order, from the codes of the summary, of which the single ones come first."""
    codes = read_json(folder / "summary.json")["settings"]["codes"]
    return list(dict.fromkeys(name for code in codes for name in code.split("+")))


def _rows(
    calibration: LabelCalibration, means: Fit, table: pd.DataFrame, level: str, failure_dsc: float
) -> list[list[str]]:
    """Assess the test cases by number of modalities, and all of them."""
    found = np.empty((4, len(table)))
    for place, row in enumerate(table.to_dict("records")):
        signals = {name: math.nan if level == FAST and name in AGREEMENT else row[name] for name in SIGNALS}
        expected = calibration.expect(row["digits"], signals)
        found[:, place] = expected.dsc, expected.low, expected.high, means.expected(row["digits"], {})
    dsc, codes = table["dsc"].to_numpy(dtype=float), table["digits"].to_numpy()
    rows = []
    for size in (*sorted(set(table["size"])), "all"):
        chosen = np.ones(len(dsc), dtype=bool) if size == "all" else (table["size"] == size).to_numpy()
        assessed = assess(dsc[chosen], *found[:, chosen], codes=list(codes[chosen]), failure_dsc=failure_dsc)
        rows.append(_cells(str(size), assessed))
    return rows


def _cells(size: str, found: Assessment) -> list[str]:
    shares = (found.mean_absolute_error, found.error_of_subset_mean, found.correlation, found.coverage, found.width)
    areas = (found.auc, found.auc_of_subset_mean, found.found_at_few_false_alarms)
    return [
        size,
        str(found.segmentations),
        *(f"{value:.3f}" for value in shares),
        str(found.failures),
        *(f"{value:.3f}" for value in areas),
    ]


if __name__ == "__main__":
    main()
