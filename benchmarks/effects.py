"""Estimate what each candidate setting of the screening studies changes. Print Markdown.

    python benchmarks/effects.py benchmarks/sts_screening.yaml sts/sts_screening

The DSC of a subset is explained by a constant and one effect for each setting, by least squares over all trainings of
modality dropout and of self-distillation. The standard errors come from what the sums do not explain, which contains
both the seeds and effects that depend on other settings.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from nnunet_moe.commands.study.definition import VALIDATION, Method, folder_of, read_study
from nnunet_moe.reports.table import markdown_table

BASE, DISTILLED = "nnUNetTrainerModalityDropout", "nnUNetTrainerSD"
DISTILLATION = "self-distillation"


def main() -> None:
    """Read the scores, and print the effects."""
    options = _options()
    study = read_study(options.study)
    methods = [method for method in study.methods if method.trainer in (BASE, DISTILLED)]
    scores = {method.name: _scores(options.folder, method) for method in methods}
    done = [method for method in methods if scores[method.name] is not None]
    settings = list(dict.fromkeys(name for method in done for name in _settings(method)))
    design = np.array([[1.0, *(name in _settings(method) for name in settings)] for method in done])
    table = pd.DataFrame([scores[method.name] for method in done])
    table["mean"] = table.mean(axis=1)
    print(f"{len(done)} of {len(methods)} trainings. DSC in points.\n")
    print(markdown_table(("", *table.columns), _rows(design, table.to_numpy(), settings)))


def _settings(method: Method) -> list[str]:
    distilled = [DISTILLATION] if method.trainer == DISTILLED else []
    return [*distilled, *method.settings]


def _scores(folder: Path, method: Method) -> pd.Series | None:
    """Return subset -> mean DSC over labels and seeds, in points; None if no seed is scored."""
    of_cases = folder / "evaluations" / folder_of(VALIDATION)
    files = [of_cases / f"{method.name}_seed{seed}" / "means.csv" for seed in method.seeds]
    found = [pd.read_csv(file) for file in files if file.exists()]
    if not found:
        return None
    means = pd.concat(found)
    dsc = means[(means["metric"] == "dsc") & means["code"].str.contains(r"^[^ ]+$")]
    return 100 * dsc.groupby("code")["mean"].mean()


def _rows(design: np.ndarray, scores: np.ndarray, settings: list[str]) -> list[list[str]]:
    """Return a row for the constant and for each setting: effect and standard error."""
    effects, _, rank, _ = np.linalg.lstsq(design, scores)
    if rank < design.shape[1] or len(design) == rank:
        raise SystemExit(f"{len(design)} trainings cannot separate {design.shape[1]} effects. Score more of them.")
    variances = ((scores - design @ effects) ** 2).sum(axis=0) / (len(design) - rank)
    errors = np.sqrt(np.outer(np.diag(np.linalg.inv(design.T @ design)), variances))
    return [
        [name, *(f"{effect:+.1f} ± {error:.1f}" for effect, error in zip(of_effect, of_error, strict=True))]
        for name, of_effect, of_error in zip(("without all", *settings), effects, errors, strict=True)
    ]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("study", type=Path, help="the study's YAML file")
    parser.add_argument("folder", type=Path, help="its output folder")
    return parser.parse_args()


if __name__ == "__main__":
    main()
