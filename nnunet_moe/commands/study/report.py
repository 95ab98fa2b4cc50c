"""Write the report of a study: scores of all methods, their seeds, learning curves and gates."""

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure
from nnunetv2.paths import nnUNet_raw
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_moe.commands.evaluate.analysis import comparisons, means
from nnunet_moe.commands.evaluate.figures import scores_by_code
from nnunet_moe.commands.evaluate.nested_tables import nested_tables
from nnunet_moe.commands.evaluate.tables import code_table, comparison_table, failure_table
from nnunet_moe.commands.evaluate.verdict import verdict
from nnunet_moe.commands.study.definition import folder_of
from nnunet_moe.commands.study.jobs import case_sets, evaluation_folder, evaluation_job
from nnunet_moe.commands.study.models import SeededRun, model_folder, plans_of
from nnunet_moe.commands.study.plan import StudyPlan
from nnunet_moe.commands.study.published_tables import published_tables
from nnunet_moe.commands.study.results import StudyResults, read_results, seed_spread
from nnunet_moe.commands.study.versions import version_warnings
from nnunet_moe.errors import ModelError
from nnunet_moe.labels.labels import labels_of
from nnunet_moe.modalities.codes import channel_names, code_text
from nnunet_moe.reports.figures import COLOURS, colour, new_figure
from nnunet_moe.reports.page import Section, page, write
from nnunet_moe.reports.table import PLAIN, Cell, Table, short_name
from nnunet_moe.runtime.environment import training_versions
from nnunet_moe.runtime.files import folder_name, nnunet_folder
from nnunet_moe.runtime.json_files import read_json
from nnunet_moe.settings.plans import PLANS_KEY
from nnunet_moe.training_log import Epoch, read_training_logs

SMOOTHING = 0.9  # as in nnU-Net's moving average of the pseudo Dice
STYLES = ("-", "--", ":")


@rc_context({"text.parse_math": False})  # names may hold a $
def write_report(plan: StudyPlan) -> Path:
    """Read the finished evaluations and the training logs, and write tables, pictures and `report.html`.

    Raises:
        ModelError: no evaluation is finished, or the evaluations do not belong together.
    """
    study = plan.study
    dataset_json = read_json(nnunet_folder(nnUNet_raw) / study.dataset / "dataset.json")
    modalities = channel_names(dataset_json)
    finished, missing = _finished(plan)
    if not finished:
        raise ModelError(f"There is no report yet. No evaluation of the study is finished in {plan.out}.")
    out = plan.out / "report"
    shutil.rmtree(out, ignore_errors=True)  # remove results that are no longer part of the study
    verdicts, sections, failures, notes = [], [], "", []
    for cases, folders in finished.items():
        results = read_results(folders, modalities=modalities, codes=plan.codes, labels=tuple(labels_of(dataset_json)))
        compared = comparisons(results, _pairs(results, study.baseline))
        verdicts.append(f"On {cases}: {verdict(results, compared, study.baseline)}")
        sections += _sections(plan, results, compared, cases)
        failures += failure_table(results.by_seed).html() if len(results.failures) else ""
        for warning in version_warnings(folders):
            print(f"WARNING: {cases}: {warning}", flush=True)
            notes.append(f"On {cases}: {warning}")
        if study.baseline not in results.trainers:
            notes.append(f"There is no comparison on {cases}, because the baseline is not finished.")
    logs = {model.name: _logs(plan, model) for model in plan.trained}
    curves = _curves(plan, logs, [code_text(code, modalities) for code in plan.codes], out)
    sections += [curves, *_gates(plan), _evaluations(plan, finished)]
    if missing:
        notes.append(f"Not finished, and not in this report: {', '.join(missing)}.")
    if diverged := [short_name(name) for name, of_model in logs.items() if any(map(_has_diverged, of_model))]:
        notes.append(f"The loss became NaN or infinite in the training of {', '.join(diverged)}.")
    settings = {
        "study": json.loads(json.dumps(asdict(study), default=str)),
        "settings of each model": _settings(plan),
        "versions when the report was written": training_versions(),
    }
    title, report = f"Study {study.name}: {study.dataset} {study.configuration}", plan.out / "report.html"
    write(report, page(title, verdicts, _summary(plan, notes), sections, settings, failures))
    return report


def _finished(plan: StudyPlan) -> tuple[dict[str, dict[Path, SeededRun]], list[str]]:
    """Return the finished evaluations, cases -> folder -> model; and those that are missing, in words."""
    finished: dict[str, dict[Path, SeededRun]] = {}
    missing, done = [], plan.done()
    for cases in case_sets(plan.study):
        for model in plan.trained:
            if evaluation_job(model, cases) in done:
                finished.setdefault(cases, {})[plan.out / evaluation_folder(model, cases)] = model
            else:
                missing.append(f"{short_name(model.name)} on {cases}")
    return finished, missing


def _summary(plan: StudyPlan, notes: Sequence[str]) -> str:
    study = plan.study
    return (
        f"This study compares {len(study.methods)} methods, or {len(plan.trained)} if each seed counts, on the "
        f"folds {', '.join(map(str, study.folds))}. All dedicated models of a method count as one. The value of a case "
        f"is its mean over the seeds. Methods are compared with {short_name(study.baseline)}. {' '.join(notes)}"
    )


def _curves(
    plan: StudyPlan, logs: Mapping[str, Sequence[Mapping[int, Epoch]]], codes: Sequence[str], out: Path
) -> Section:
    """Draw the learning curves and, if a trainer has gates, their entropies."""
    curves = Section("Learning curves")
    caption = "Pseudo Dice of validation patches by modalities: nnU-Net's moving average, mean over seeds and folds"
    curves.add_figure(out / "learning_curves.png", caption, learning_curves(plan.trained, logs, codes))
    if any(_has_gates(log) for of_model in logs.values() for log in of_model):
        caption = "Entropy of the gates by layer, relative to that of equal weights: for each code, and for their mean"
        curves.add_figure(out / "gate_entropy.png", caption, gate_entropy(plan.trained, logs))
    return curves


def spread_table(spread: pd.DataFrame, codes: Sequence[str], title: str) -> Table:
    """Make a table of the means of each seed, over all codes or over the own code of each case."""
    names = ("Trainer", "Modalities", "Seeds", "Mean by seed", "Mean", "Standard deviation")
    rows = []
    for row in spread[~spread["code"].isin(codes)].to_dict("records"):
        by_seed = ", ".join(_percent(mean) for mean in row["by_seed"])
        numbers = [_percent(row["mean"]), _percent(row["standard_deviation"])]
        cells = (short_name(row["trainer"]), row["code"], str(row["seeds"]), by_seed, *numbers)
        rows.append(tuple(Cell(text, PLAIN) for text in cells))
    note = (
        "DSC in percent. The standard deviation is over trainings that differ in the seed and in nnU-Net's random "
        "augmentation."
    )
    return Table(title, tuple(("", name) for name in names), tuple(rows), (note,))


def learning_curves(
    trained: Sequence[SeededRun], logs: Mapping[str, Sequence[Mapping[int, Epoch]]], codes: Sequence[str]
) -> Figure:
    """Draw the pseudo Dice over epochs, with one panel for each code and one line for each method.

    It is the mean over labels, smoothed, then averaged over seeds and folds.

    Args:
        trained: the methods, each with each of its seeds.
        logs: name of a method with a seed -> the logs of its trainings.
        codes: the codes, by the names of their modalities.
    """
    columns = min(4, len(codes))
    rows = math.ceil(len(codes) / columns)
    figure = new_figure(3.2 * columns, 0.9 + 2.6 * rows)
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for axis in axes.flat[len(codes) :]:
        axis.set_axis_off()
    for axis, code in zip(axes.flat, codes, strict=False):
        for number, (method, of_method) in enumerate(_by_method(trained, logs).items()):
            curves = [curve for log in of_method if (curve := _smoothed(log, code))]
            epochs = sorted(set.intersection(*map(set, curves))) if curves else []
            mean = [100 * float(np.mean([curve[epoch] for curve in curves])) for epoch in epochs]
            style = STYLES[number // len(COLOURS) % len(STYLES)]
            axis.plot(epochs, mean, color=colour(number), ls=style, lw=1, label=short_name(method))
        axis.set_title(code, fontsize=8)
        axis.grid(alpha=0.3)
        axis.tick_params(labelsize=7)
    for axis in axes[:, 0]:
        axis.set_ylabel("pseudo Dice (%)", fontsize=8)
    for axis in axes[-1]:
        axis.set_xlabel("epoch", fontsize=8)
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=5, fontsize=7, frameon=False)
    return figure


def gate_entropy(trained: Sequence[SeededRun], logs: Mapping[str, Sequence[Mapping[int, Epoch]]]) -> Figure:
    """Draw the gate entropies of each method's first training, with one line for each layer (first layers dark)."""
    shown = {
        name: next(filter(_has_gates, found))
        for name, found in _by_method(trained, logs).items()
        if any(map(_has_gates, found))
    }
    figure = new_figure(8, 0.6 + 1.9 * len(shown))
    rows = figure.subplots(len(shown), 2, squeeze=False, sharex=True)
    for axes, (method, log) in zip(rows, shown.items(), strict=True):
        epochs = {number: epoch.gate_entropy for number, epoch in log.items() if epoch.gate_entropy}
        num_layers = len(next(iter(epochs.values())))
        for axis, part, what in zip(axes, (0, 1), ("each code", "mean over codes"), strict=True):
            for layer in range(num_layers):
                values = [entropies[layer][part] for entropies in epochs.values()]
                shade = 0.85 * layer / max(1, num_layers - 1)
                axis.plot(list(epochs), values, color=(shade, shade, 0.6 + 0.4 * shade), lw=1)
            axis.set_ylim(-0.03, 1.03)
            axis.set_title(f"{short_name(method)}: {what}", fontsize=8)
            axis.grid(alpha=0.3)
            axis.tick_params(labelsize=7)
    figure.supxlabel("epoch", fontsize=8)
    return figure


def _pairs(results: StudyResults, baseline: str) -> list[tuple[str, str]]:
    """Return each finished method with the baseline; none if the baseline is not finished."""
    return [(method, baseline) for method in results.trainers if method != baseline and baseline in results.trainers]


def _sections(plan: StudyPlan, results: StudyResults, compared: pd.DataFrame, cases: str) -> list[Section]:
    """Make the tables and pictures of one set of cases."""
    out = plan.out / "report" / folder_of(cases)
    spread = pd.concat([seed_spread(results, label, "dsc") for label in results.shown_labels])
    averaged = means(results)
    tables = {"means": averaged, "comparisons": compared, "seeds": spread.explode("by_seed")}
    for name, table in tables.items():
        write(out / f"{name}.csv", table.to_csv(index=False))
    sections, codes = [], [results.code_text(code) for code in results.codes]
    for label in results.shown_labels:
        stem, title = out / folder_name(label), f"{cases}: {label}"
        section = Section(title)
        section.add_table(stem.with_name(f"{stem.name}_codes"), code_table(results, label))
        for name, table in nested_tables(results, averaged, label).items():
            section.add_table(stem.with_name(f"{stem.name}_{name}"), table)
        if _pairs(results, plan.study.baseline):
            section.add_table(stem.with_name(f"{stem.name}_comparisons"), comparison_table(compared, label))
        of_label = spread[spread["label"] == label]
        section.add_table(
            stem.with_name(f"{stem.name}_seeds"), spread_table(of_label, codes, f"{label}: spread over seeds")
        )
        section.add_figure(
            stem.with_name(f"{stem.name}_scores.png"), f"{title}: DSC and CScore", scores_by_code(results, label)
        )
        sections.append(section)
    tables = [table for table in plan.study.published if table.cases in (None, cases)]
    if tables:
        section = Section(f"{cases}: next to published figures")
        for number, table in enumerate(published_tables(results, tables)):
            section.add_table(out / f"published_{number}", table)
        sections.append(section)
    return sections


def _gates(plan: StudyPlan) -> list[Section]:
    """Collect the pictures of gates from the first evaluation of each method."""
    section, cases = Section("Gates"), next(iter(case_sets(plan.study)))
    for method in plan.study.methods:
        model = next(model for model in plan.trained if model.method is method)
        for file in sorted((plan.out / evaluation_folder(model, cases) / "figures").glob("gates_*.png")):
            caption = f"{short_name(method.name)}, seed {model.seed}: gate weights by layer"
            section.add_picture(caption, file.read_bytes())
    return [section] if section.pictures else []


def _evaluations(plan: StudyPlan, finished: Mapping[str, Mapping[Path, SeededRun]]) -> Section:
    """Make links to the reports of the single models, which have pictures of cases."""
    section = Section("Evaluations")
    for cases, folders in finished.items():
        for folder, model in folders.items():
            target = (folder / "report.html").relative_to(plan.out).as_posix()
            section.links.append((f"{short_name(model.name)}, {cases}", quote(target)))
    return section


def _settings(plan: StudyPlan) -> dict[str, Any]:
    """Return the settings in the plans for each configuration that the study trains."""
    manager = PlansManager(plans_of(plan.study, plan.trained)[1])
    names = [name for model in plan.trained for name in model.configurations.values()]
    return {name: manager.get_configuration(name).configuration.get(PLANS_KEY, {}) for name in names}


def _logs(plan: StudyPlan, model: SeededRun) -> list[Mapping[int, Epoch]]:
    """Read the logs of all trainings of a model, over its folds and dedicated models."""
    return [
        read_training_logs(model_folder(plan.study, model, name) / f"fold_{fold}")
        for name in model.configurations.values()
        for fold in plan.study.folds
    ]


def _by_method(
    trained: Sequence[SeededRun], logs: Mapping[str, Sequence[Mapping[int, Epoch]]]
) -> dict[str, list[Mapping[int, Epoch]]]:
    found: dict[str, list[Mapping[int, Epoch]]] = {}
    for model in trained:
        found.setdefault(model.method.name, []).extend(logs[model.name])
    return found


def _has_gates(log: Mapping[int, Epoch]) -> bool:
    return any(epoch.gate_entropy for epoch in log.values())


def _has_diverged(log: Mapping[int, Epoch]) -> bool:
    return any(epoch.train_loss is not None and not math.isfinite(epoch.train_loss) for epoch in log.values())


def _smoothed(log: Mapping[int, Epoch], code: str) -> dict[int, float]:
    """Return epoch -> moving average of the pseudo Dice.

    An epoch without the code, or without labels in its patches, keeps the last value.
    """
    curve, value = {}, math.nan
    for number, epoch in log.items():
        known = [dice for dice in epoch.dice.get(code, ()) if not math.isnan(dice)]
        if known:
            now = float(np.mean(known))
            value = now if math.isnan(value) else SMOOTHING * value + (1 - SMOOTHING) * now
        if not math.isnan(value):
            curve[number] = value
    return curve


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.2f}"
