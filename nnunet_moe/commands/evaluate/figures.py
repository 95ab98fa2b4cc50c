"""The pictures of an evaluation, as matplotlib figures."""

import math
from collections.abc import Mapping
from itertools import combinations
from textwrap import wrap

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from nnunet_moe.commands.evaluate.analysis import MAIN_METRICS
from nnunet_moe.commands.evaluate.overlay import Overlay
from nnunet_moe.commands.evaluate.results import Results
from nnunet_moe.commands.evaluate.tables import TITLES
from nnunet_moe.reports.figures import COLOURS, colour, new_figure
from nnunet_moe.reports.table import short_name

REFERENCE, PREDICTION = "#00c060", "#ff4040"
MAX_GATE_COLUMNS = 48  # in one row of a picture of gates


def scores_by_code(results: Results, label: str) -> Figure:
    """Draw the mean and standard error of DSC and CScore for each code, with one color for each trainer."""
    codes = results.codes
    found = {
        metric: [[results.mean(trainer, code, label, metric) for code in codes] for trainer in results.trainers]
        for metric in MAIN_METRICS
    }
    found = {metric: rows for metric, rows in found.items() if any(mean.is_known for row in rows for mean in row)}
    figure = new_figure(
        max(6.0, 1.6 + 0.5 * len(codes) * max(1, len(results.trainers) / 3)), 0.8 + 2.8 * max(1, len(found))
    )
    for metric, axis in zip(
        found, figure.subplots(max(1, len(found)), 1, sharex=True, squeeze=False)[:, 0], strict=False
    ):
        for number, (trainer, means) in enumerate(zip(results.trainers, found[metric], strict=True)):
            places = np.arange(len(codes)) + _offset(number, len(results.trainers))
            axis.errorbar(
                places,
                [100 * mean.mean for mean in means],
                yerr=[100 * np.nan_to_num(mean.standard_error) for mean in means],
                fmt="o",
                capsize=3,
                color=colour(number),
                label=short_name(trainer),
            )
            for place, mean in zip(places, means, strict=True):
                if mean.failed:
                    where = {"transform": axis.get_xaxis_transform(), "color": colour(number)}
                    axis.text(place, 0.03, f"{mean.failed} failed", rotation=90, ha="center", fontsize=6, **where)
        axis.set_ylabel(f"{TITLES[metric]} (%)")
        axis.grid(axis="y", alpha=0.3)
        _code_ticks(axis, results, label)
    if found:
        figure.axes[0].legend(frameon=False, fontsize=8, ncols=3)
    figure.suptitle(f"{label}: mean and standard error over {results.unit}s", fontsize=10)
    return figure


def paired_differences(results: Results, label: str) -> Figure:
    """Draw the difference in DSC of each case for each code, with one panel for each pair of trainers.

    A bar shows the median.
    """
    pairs = list(combinations(results.trainers, 2))
    figure = new_figure(max(6.0, 1.6 + 0.6 * len(results.codes)), 3.2 * len(pairs))
    rng = np.random.default_rng(0)  # spread the points sideways
    for axis, (first, second) in zip(figure.subplots(len(pairs), 1, squeeze=False)[:, 0], pairs, strict=True):
        for place, code in enumerate(results.codes):
            values = results.paired(first, second, code, label, "dsc")
            difference = 100 * (values[0] - values[1]).to_numpy()
            axis.plot(
                place + rng.uniform(-0.2, 0.2, len(difference)), difference, "o", ms=3, alpha=0.6, color=COLOURS[0]
            )
            if len(difference):
                axis.hlines(np.median(difference), place - 0.3, place + 0.3, color=COLOURS[1])
        axis.axhline(0, color="0.5", lw=0.8)
        axis.set_ylabel("difference in DSC\n(percentage points)")
        axis.set_title(f"{label}: {short_name(first)} - {short_name(second)}", fontsize=9)
        _code_ticks(axis, results, label)
    return figure


def gate_weights(gates: Mapping[str, np.ndarray], results: Results, title: str) -> Figure:
    """Draw the gate weights of every mixture as a heat map.

    Each layer has a panel, each code a row, each expert a column.

    Args:
        gates: layer -> `(codes, experts)`, with the codes in the order of the results.
        results: the results, for the names of the codes.
        title: the name of the model.
    """
    num_codes, num_experts = next(iter(gates.values())).shape
    assert num_codes == len(results.codes)
    columns = min(len(gates), max(1, MAX_GATE_COLUMNS // num_experts))
    rows = math.ceil(len(gates) / columns)
    figure, scale = new_figure(11, 0.6 + (1.2 + 0.2 * len(results.codes)) * rows), Normalize(0, 1)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat[len(gates) :]:
        axis.set_axis_off()
    for axis, (name, weights) in zip(axes.flat, gates.items(), strict=False):
        axis.imshow(weights, norm=scale, aspect="auto", cmap="viridis")
        axis.set_title("\n".join(wrap(name.replace(".", " "), 14)), fontsize=5)
        axis.set_xticks(range(num_experts), [str(expert + 1) for expert in range(num_experts)])
        axis.set_yticks([])
        axis.tick_params(labelsize=5, length=1)
    for axis in axes[:, 0]:
        axis.set_yticks(range(len(results.codes)), [results.code_text(code) for code in results.codes])
    figure.colorbar(ScalarMappable(scale, "viridis"), ax=axes, shrink=0.6, label="gate weight")
    figure.suptitle(title, fontsize=9)
    return figure


def overlay_picture(overlay: Overlay, results: Results) -> Figure:
    """Draw reference and prediction on an image, with one row for each code and one column for each trainer.

    The image is the last modality of the code.
    """
    has = [not np.isnan(image).all() for image in overlay.images]
    rows = [code for code in results.codes if all(there for there, asked in zip(has, code, strict=True) if asked)]
    box = _box(overlay)
    figure = new_figure(1.0 + 2.0 * len(results.trainers), 0.6 + 2.0 * len(rows))
    axes = figure.subplots(len(rows), len(results.trainers), squeeze=False)
    for line, code in zip(axes, rows, strict=True):
        backdrop = overlay.images[int(np.flatnonzero(code)[-1])][box]
        line[0].set_ylabel(results.code_text(code).replace("+", "\n+ "), fontsize=7)
        for axis, trainer in zip(line, results.trainers, strict=True):
            axis.set_xticks([])
            axis.set_yticks([])
            prediction = overlay.predictions.get((trainer, code))
            if prediction is None:
                axis.text(0.5, 0.5, "no prediction", ha="center", transform=axis.transAxes, fontsize=7)
                continue
            axis.imshow(backdrop, cmap="gray", aspect=overlay.aspect)
            _outline(axis, overlay.reference[box], REFERENCE)
            _outline(axis, prediction[box], PREDICTION)
            axis.set_xlabel(f"DSC {100 * overlay.scores[trainer, code]:.1f}", fontsize=7)
    for axis, trainer in zip(axes[0], results.trainers, strict=True):
        axis.set_title(short_name(trainer), fontsize=7)
    figure.suptitle(f"{overlay.title}: {overlay.case}\ngreen reference, red prediction", fontsize=8)
    return figure


def _box(overlay: Overlay) -> tuple[slice, slice]:
    """Return the part of the slice in which an image or the reference is not zero."""
    there = (np.nan_to_num(overlay.images) != 0).any(axis=0) | (overlay.reference > 0)
    sides = [np.flatnonzero(there.any(axis=1 - axis)) for axis in (0, 1)]
    row, column = (slice(int(side[0]), int(side[-1]) + 1) if len(side) > 1 else slice(None) for side in sides)
    return row, column


def _outline(axis: Axes, labels: np.ndarray, colour: str) -> None:
    for label in np.unique(labels[labels > 0]):
        if min(labels.shape) > 1 and (labels == label).any():
            axis.contour(labels == label, levels=[0.5], colors=colour, linewidths=0.8)


def _code_ticks(axis: Axes, results: Results, label: str) -> None:
    names = [results.code_text(code) for code in results.codes]
    if (
        len({cases for code in results.codes if (cases := results.cases_of(code))}) > 1
    ):  # the means cover different cases
        scored = [
            max(results.mean(name, code, label, "dsc").cases for name in results.trainers) for code in results.codes
        ]
        names = [f"{name} (n = {cases})" for name, cases in zip(names, scored, strict=True)]
    axis.set_xticks(range(len(results.codes)), names)
    axis.set_xlim(-0.5, len(results.codes) - 0.5)
    axis.tick_params(axis="x", labelrotation=60 if len(results.codes) > 3 else 0, labelsize=7)


def _offset(number: int, count: int) -> float:
    """Return how far to move a trainer sideways, so that error bars do not overlap."""
    return 0.5 * ((number + 0.5) / count - 0.5)
