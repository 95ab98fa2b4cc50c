"""Write the results, summary, tables, pictures and report of an evaluation."""

import json
import math
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from nnunet_moe.commands.evaluate.analysis import comparisons, means, modality_worth
from nnunet_moe.commands.evaluate.evaluate import Evaluation
from nnunet_moe.commands.evaluate.figures import gate_weights, overlay_picture, paired_differences, scores_by_code
from nnunet_moe.commands.evaluate.metrics import METRICS
from nnunet_moe.commands.evaluate.model_state import versions_of_figures
from nnunet_moe.commands.evaluate.nested_tables import nested_tables
from nnunet_moe.commands.evaluate.request import Request
from nnunet_moe.commands.evaluate.results import ALL_EACH_HAS, Results
from nnunet_moe.commands.evaluate.tables import (
    code_table,
    comparison_table,
    failure_table,
    metrics_table,
    modality_table,
    unscored_note,
)
from nnunet_moe.commands.evaluate.trust import assessments, calibrations, expectations, trust_figure, trust_table
from nnunet_moe.commands.evaluate.verdict import verdict
from nnunet_moe.quality.file import FILE as QUALITY
from nnunet_moe.quality.file import as_json
from nnunet_moe.quality.label_calibration import LabelCalibration
from nnunet_moe.reports.page import Section, page, write
from nnunet_moe.reports.table import short_name
from nnunet_moe.runtime.environment import training_versions
from nnunet_moe.runtime.files import folder_name

MAX_LABELS_WITH_PICTURES = 10
"""If there are more labels, only their mean gets pictures. Every label gets its tables."""


@rc_context({"text.parse_math": False})  # names may hold a $
def write_evaluation(evaluation: Evaluation, request: Request) -> Path:
    """Write all files to the output folder, `report.html` last.

    An error leaves no incomplete file.

    Returns:
        The file of the report.
    """
    results, out = evaluation.results, request.out
    report = out / "report.html"
    report.unlink(missing_ok=True)  # a report exists only next to the files it was made from
    for folder in (out / "tables", out / "figures"):
        shutil.rmtree(folder, ignore_errors=True)
    trusted, expected = calibrations(results), expectations(results)
    assessed = assessments(expected, results, request.failure_dsc)
    averaged, compared, worth = means(results), comparisons(results), modality_worth(results)
    for name, table in (
        ("results", results.table.astype(dict.fromkeys(("lesions", "reference_lesions"), "Int64"))),
        ("means", averaged),
        ("comparisons", compared),
        ("modalities", worth),
    ):
        write(out / f"{name}.csv", table.to_csv(index=False))
    _write_quality(out, trusted, expected, assessed)
    settings = _settings(request, results, evaluation.models)
    write(out / "summary.json", json.dumps(_finite(_summary(results, settings)), indent=4, allow_nan=False))
    sections = []
    for label in results.shown_labels:
        section = Section(label)
        tables = {"codes": code_table(results, label), **nested_tables(results, averaged, label)}
        tables["metrics"] = metrics_table(results, label)
        if len(results.trainers) > 1:
            tables["comparisons"] = comparison_table(compared, label)
        if (of_modalities := modality_table(worth, label)).rows:
            tables["modalities"] = of_modalities
        if has_trust := (assessed["label"] == label).any():
            tables["quality"] = trust_table(assessed, label, request.failure_dsc)
        for name, table in tables.items():
            section.add_table(out / "tables" / f"{folder_name(label)}_{name}", table)
        for name, caption, figure in _figures(results, label):
            section.add_figure(out / "figures" / f"{folder_name(label)}_{name}.png", caption, figure)
        if has_trust and len(results.labels) <= MAX_LABELS_WITH_PICTURES:
            figure = trust_figure(expected, label, results, request.failure_dsc)
            file = out / "figures" / f"{folder_name(label)}_quality.png"
            section.add_figure(file, f"{label}: expected and actual DSC", figure)
        sections.append(section)
    sections += _model_sections(evaluation, out / "figures")
    write(report, _page(results, verdict(results, compared), sections, settings, evaluation.notes))
    return report


def _write_quality(
    out: Path, trusted: dict[str, dict[str, LabelCalibration]], expected: pd.DataFrame, assessed: pd.DataFrame
) -> None:
    """Write the calibrations and their assessment; without signals of trust, leave no files of an earlier run."""
    contents = {
        QUALITY: json.dumps(as_json(trusted), allow_nan=False),
        "quality.csv": assessed.to_csv(index=False),
        "quality_by_case.csv": expected.to_csv(index=False),
    }
    for name, content in contents.items():
        if trusted:
            write(out / name, content)
        else:
            (out / name).unlink(missing_ok=True)


def _figures(results: Results, label: str) -> Iterator[tuple[str, str, Figure]]:
    if len(results.labels) > MAX_LABELS_WITH_PICTURES and label != results.shown_labels[0]:
        return
    yield "scores", f"{label}: DSC and CScore by modalities", scores_by_code(results, label)
    if len(results.trainers) > 1:
        yield "differences", f"{label}: paired differences of the cases", paired_differences(results, label)


def _model_sections(evaluation: Evaluation, folder: Path) -> list[Section]:
    results = evaluation.results
    cases, gates = Section("Cases"), Section("Gates")
    for overlay in evaluation.overlays:
        caption = f"{overlay.title}: {overlay.case}"
        name = folder_name(overlay.title.split()[0].lower())
        cases.add_figure(folder / f"case_{name}.png", caption, overlay_picture(overlay, results), is_overlay=True)
    for model, weights in evaluation.gates.items():
        caption = f"Gate weights of {model}, by layer, code and expert"
        trainer = model.partition(",")[0]
        figure = gate_weights(weights, results, caption)
        gates.add_figure(folder / f"gates_{trainer}.png", caption, figure)
    return [section for section in (cases, gates) if section.pictures]


def _settings(request: Request, results: Results, models: dict[str, dict]) -> dict[str, Any]:
    """Return all settings that the scores depend on, with the keys of `summary.json`."""
    choice = request.models
    folders = {"out": request.out, "images": request.images, "labels": request.labels}
    written = {name: None if folder is None else str(folder) for name, folder in folders.items()}
    return {
        "dataset": choice.dataset,
        "configuration": choice.configuration,
        "trainers": choice.trainers,
        "out": written["out"],
        "folds": choice.folds,
        "plans": choice.plans,
        "images": written["images"],
        "labels": written["labels"],
        "codes": [results.code_text(code) for code in results.codes],
        "num_codes": request.num_codes,
        "checkpoint": choice.checkpoint,
        "save_predictions": request.save_predictions,
        "quality": request.quality,
        "failure_dsc": request.failure_dsc,
        "metrics": asdict(request.metrics),
        "prediction": asdict(request.prediction),
        "versions": {**versions_of_figures(), **training_versions()},
        "models": models,
    }


def _summary(results: Results, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the summary by trainer and code, in the style of nnU-Net's summary.json."""

    def by_label(trainer: str, code: Any) -> dict:
        return {
            label: {
                **{name: results.mean(trainer, code, label, name).mean for name in METRICS},
                "cases": results.mean(trainer, code, label, "dsc").cases,
                "failed": results.mean(trainer, code, label, "dsc").failed,
            }
            for label in results.labels
        }

    label = results.shown_labels[0]
    keys = ["trainer", "fold", "case", "code"]
    return {
        "foreground_mean": {
            trainer: {
                name: (
                    results.mean_over_codes(trainer, label, name)
                    if results.complete_cases
                    else results.mean(trainer, ALL_EACH_HAS, label, name)
                ).mean
                for name in METRICS
            }
            for trainer in results.trainers
        },
        "foreground_mean_is": "mean over codes" if results.complete_cases else results.code_text(ALL_EACH_HAS),
        "mean": {
            trainer: {results.code_text(code): by_label(trainer, code) for code in results.codes}
            for trainer in results.trainers
        },
        "metric_per_case": [
            {
                **dict(zip(keys, names, strict=True)),
                "failure": rows["failure"].iloc[0],
                "metrics": rows.set_index("label")[list(METRICS)].to_dict("index"),
            }
            for names, rows in results.table.groupby(keys, sort=False)
        ],
        "num_failed": len(results.failures),
        "unscored_cases": list(results.unscored),
        "patients": results.patients,
        "settings": settings,
    }


def _page(
    results: Results, outcome: str, sections: list[Section], settings: dict[str, Any], notes: Sequence[str]
) -> str:
    names = ", ".join(short_name(trainer) for trainer in results.trainers)
    summary = (
        f"This evaluation scored {len(results.cases)} cases with {len(results.codes)} of the "
        f"{2 ** len(results.modalities) - 1} subsets of {', '.join(results.modalities)}."
    )
    if results.unscored:
        summary += f" {unscored_note(results)}"
    summary = " ".join((summary, *notes))
    failures = failure_table(results).html() if len(results.failures) else ""
    title = f"{settings['dataset']} {settings['configuration']}: {names}"
    return page(title, [outcome], summary, sections, settings, failures)


def _finite(value: Any) -> Any:
    """Replace each NaN by None, because JSON has no NaN."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and math.isnan(value) else value
