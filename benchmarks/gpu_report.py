"""The report of `gpu.py`: tables in Markdown, and a line for each figure outside of what we promise."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from gpu_jobs import LCKD, M4OE, MOESD, REFERENCE, STOCK, TRAINERS, Job

from nnunet_moe.reports.table import markdown_table

Figures = dict[tuple[str, str], dict[str, Any]]
"""(Plan, method) -> its figures; those that were not measured are missing or None."""
OURS = tuple(method for method in TRAINERS if method != STOCK)
SETTLED = 10
"""From this step on, no step is skipped in float16."""


class Promise(NamedTuple):
    """A bound for a figure."""

    figure: str
    words: str
    methods: tuple[str, ...]
    bound: float
    is_upper: bool = True


COSINE = "cosine of the gradients in float16 and float32"
PROMISES = (
    Promise("step_to_reference", "step, eager, / modality dropout", (MOESD,), 1.05),
    Promise("compiled_to_reference", "step, compiled, / modality dropout", (MOESD,), 1.05),
    Promise("convolutions_to_reference", "convolutions of a step / modality dropout", (MOESD,), 1.5),
    Promise("kernels_to_reference", "kernel launches of a step / modality dropout", (MOESD,), 1.5),
    Promise("compiled_kernels_to_reference", "kernel launches of a compiled step / modality dropout", (MOESD,), 1.5),
    Promise("peak_to_stock", "memory of a step / nnU-Net", (MOESD,), 1.15),
    Promise("patch_to_stock", "patch / nnU-Net", (MOESD,), 1.03),
    Promise("step_waits", "host waits of a training step", OURS, 3),
    Promise("compiled_waits", "host waits of a compiled training step", OURS, 3),
    Promise("patch_waits", "host waits of a predicted patch", tuple(each for each in OURS if each != M4OE), 1),
    Promise("patch_waits", "host waits of a predicted patch", (M4OE,), 2),
    Promise("not_finite", "losses and gradients in float16 that are not finite", OURS, 0),
    Promise("last_skipped", "the last skipped step in float16", OURS, SETTLED),
    Promise("cosine", COSINE, tuple(each for each in OURS if each != LCKD), 0.99, is_upper=False),
    Promise("cosine", COSINE, (LCKD,), 0.97, is_upper=False),
)


def figures_of(rows: Sequence[Mapping[str, Any]]) -> Figures:
    """Join the results of a plan and method, with ratios to modality dropout and nnU-Net.

    Args:
        rows: the measurements, each with `job`, and `result` or `error`.
    """
    found: Figures = {}
    for row in rows:
        job = Job(*row["job"])
        found.setdefault((job.plan, job.method), {}).update(_medians(row.get("result", {})))
    for (plan, _), own in found.items():
        reference, stock = (found.get((plan, method), {}) for method in (REFERENCE, STOCK))
        # both are paired with modality dropout without a compiler, in two measurements
        own["compiled_to_reference"] = _quotient(own, reference, "compiled_to_eager_reference")
        own["convolutions_to_reference"] = _quotient(own, reference, "convolutions")
        own["kernels_to_reference"] = _quotient(own, reference, "kernels")
        own["compiled_kernels_to_reference"] = _quotient(own, reference, "compiled_kernels")
        own["peak_to_stock"] = _quotient(own, stock, "peak_bytes")
        own["patch_to_stock"] = _quotient(own, stock, "patch_to_reference")
    return found


def _medians(result: Mapping[str, Any]) -> dict[str, Any]:
    """Take the median of what was repeated, and count in the curve what we promise."""
    found = dict(result)
    for name in ("step", "patch", "compiled"):
        for kind in ("seconds", "to_reference"):
            if found.get(f"{name}_{kind}"):
                found[f"{name}_{kind}"] = statistics.median(found[f"{name}_{kind}"])
    if "compile_seconds" in found:
        found["compiled_to_eager_reference"] = found.pop("compiled_to_reference")
        found["compiled_to_eager"] = statistics.median(found["compiled_to_eager"])
    if "float16" in found:
        found["not_finite"] = sum(value is None for value in (*found["float16"], found["cosine"]))
        found["last_skipped"] = max(found["skipped"], default=0)
        pairs = zip(found["float16"], found["float32"], strict=True)
        found["curve_gap"] = max((abs(a - b) for a, b in pairs if a is not None and b is not None), default=None)
    return found


def _quotient(own: Mapping[str, Any], other: Mapping[str, Any], figure: str) -> float | None:
    return own[figure] / other[figure] if own.get(figure) and other.get(figure) else None


def outside(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line for each measurement that failed, and for each figure outside of what we promise.

    Args:
        rows: as in `figures_of`.
    """
    figures = figures_of(rows)
    lines = [f"{Job(*row['job'])}: {row['error']}" for row in rows if "error" in row]
    for promise in PROMISES:
        for (plan, method), own in figures.items():
            value = own.get(promise.figure)
            if value is None or method not in promise.methods:
                continue
            if value > promise.bound if promise.is_upper else value < promise.bound:
                wanted = f"{'at most' if promise.is_upper else 'at least'} {promise.bound:g}"
                lines.append(f"{plan}, {method}: {promise.words} is {value:.4g}; {wanted} is promised")
    return lines


def _shown(value: float | None, form: str = ".2f", unit: str = "", scale: float = 1) -> str:
    return "-" if value is None else f"{value * scale:{form}}{unit}"


def _time(own: Mapping[str, Any]) -> list[str]:
    return [
        _shown(own.get("step_seconds"), ".1f", scale=1e3),
        _shown(own.get("step_to_reference")),
        _shown(own.get("compiled_seconds"), ".1f", scale=1e3),
        _shown(own.get("compiled_to_reference")),
        _shown(own.get("compiled_to_eager")),
        _shown(own.get("compile_seconds"), ".0f"),
        _shown(own.get("patch_seconds"), ".1f", scale=1e3),
        _shown(own.get("patch_to_stock")),
    ]


def _memory(own: Mapping[str, Any]) -> list[str]:
    return [
        _shown(own.get("peak_bytes"), scale=2**-30),
        _shown(own.get("peak_to_stock")),
        _shown(own.get("compiled_peak_bytes"), scale=2**-30),
        _shown(own.get("step_waits"), "d"),
        _shown(own.get("compiled_waits"), "d"),
        _shown(own.get("patch_waits"), "d"),
    ]


def _launches(own: Mapping[str, Any]) -> list[str]:
    return [
        _shown(own.get("convolutions"), "d"),
        _shown(own.get("convolutions_to_reference")),
        _shown(own.get("kernels"), "d"),
        _shown(own.get("kernels_to_reference")),
        _shown(own.get("compiled_kernels"), "d"),
        _shown(own.get("compiled_kernels_to_reference")),
    ]


def _precision(own: Mapping[str, Any]) -> list[str]:
    half, single = own.get("float16", [None]), own.get("float32", [None])
    return [
        _shown(own.get("scale"), ",.0f"),
        str(len(own["skipped"])) if "skipped" in own else "-",
        _shown(half[0], ".4f"),
        _shown(single[0], ".4f"),
        _shown(half[-1], ".4f"),
        _shown(single[-1], ".4f"),
        _shown(own.get("curve_gap"), ".4f"),
        _shown(own.get("cosine"), ".5f"),
    ]


OF_REFERENCE = f"/ {REFERENCE}"
TABLES: dict[str, tuple[tuple[str, ...], Callable[[Mapping[str, Any]], list[str]]]] = {
    "Time": (
        (
            *("step, ms", OF_REFERENCE, "compiled, ms", f"{OF_REFERENCE} compiled", "compiled / eager"),
            *("compilation, s", "patch, ms", "/ nnU-Net"),
        ),
        _time,
    ),
    "Memory of a step and host waits": (
        ("GiB", "/ nnU-Net", "compiled, GiB", "waits, step", "waits, compiled step", "waits, patch"),
        _memory,
    ),
    "Launches of a step": (
        ("convolutions", OF_REFERENCE, "kernels", OF_REFERENCE, "kernels, compiled", f"{OF_REFERENCE} compiled"),
        _launches,
    ),
    "Float16": (
        (
            *("loss scale at the end", "steps skipped", "first loss", "in float32", "last loss", "in float32"),
            *("largest difference", "cosine of the gradients"),
        ),
        _precision,
    ),
}


def markdown(content: Mapping[str, Any]) -> str:
    """Return the report.

    Args:
        content: `about`, `plans` (name -> patch size, batch size, and those of the curves), `steps` of a curve, `rows`,
            `left_out` and `outside`.
    """
    about, figures = content["about"], figures_of(content["rows"])
    lines = [f"# {about.get('device', 'no device')}", ""]
    lines += [", ".join(f"{name} {value}" for name, value in about.items() if name != "device"), ""]
    lines += [f"`{content['command']}`, commit {content['commit']}, {content['seconds']:.0f} s.", "", NOTES, ""]
    for plan, sizes in content["plans"].items():
        lines += [f"## {plan}", "", SIZES.format(steps=content["steps"], **sizes), ""]
        for title, (columns, cells) in TABLES.items():
            rows = [[method, *cells(own)] for (of_plan, method), own in figures.items() if of_plan == plan]
            lines += [f"**{title}**", "", markdown_table(("", *columns), rows), ""]
    for title, said in (("Outside of what we promise", content["outside"]), ("Left out", content["left_out"])):
        lines += [f"## {title}", "", *(f"- {line}" for line in said or ["nothing"]), ""]
    return "\n".join(lines)


NOTES = f"""Three channels, one label. Times are medians. Ratios are medians of pairs that take turns in one process, or
quotients of two such medians: `{OF_REFERENCE} compiled` and `/ nnU-Net`. Compilation is what the first two steps
take longer than later ones, without the files of earlier compilations. A patch is one forward pass without a compiler.
Memory is without what the device held before the trainer was made. Convolutions are those of forward passes. {M4OE} is
a 2D Swin U-Net, so it has no figures in 3D; each of its items has one channel. The promises are for CUDA GPUs without
`--tiny`, whose times are mostly those of the CPU's other work."""
SIZES = (
    "Patch {patch_size}, batch {batch_size}. Float16: {steps} steps with patch {curve_patch_size} and batch "
    "{curve_batch_size}; the gradients are those of the first step, which is tried again as long as it is skipped."
)
