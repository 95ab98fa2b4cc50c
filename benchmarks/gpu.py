"""Measure on a CUDA GPU what was measured, or only counted, without one. It needs no data.

    python benchmarks/gpu.py --out gpu

It measures a 3D and a 2D plan with each method: the time of a step and of a predicted patch, with and without
torch.compile, compilation, memory, launches, host waits, and float16 against float32. It writes gpu.json and gpu.md,
with a line for each figure outside of what we promise. It ends after `--minutes`, and lists what it left out. A method
that fails does not stop the others. Nor does one that takes a third of the time for one measurement.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from gpu_jobs import FULL, PARTS, TINY, TRAINERS, Job, Plan, halved, jobs
from gpu_report import markdown, outside

ROOT = Path(__file__).parents[1]
WORKER = (sys.executable, str(Path(__file__).with_name("gpu_worker.py")))
FOR_THE_REPORT = 2.0
"""Seconds."""


@dataclass
class Measured:
    """What is known of the measurements."""

    about: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    """Each with `job`, `seconds`, and `result` or `error`."""
    left_out: list[str] = field(default_factory=list)


def main() -> None:
    """Measure until the time is over, then write the report."""
    start = time.monotonic()
    options = _options()
    wanted = list(jobs(options.plans, options.methods, options.parts, tiny=options.tiny))
    options.out.mkdir(parents=True, exist_ok=True)
    seconds = 60 * options.minutes
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # compilers may still write
        measured = measure(wanted, Path(folder), WORKER, seconds - FOR_THE_REPORT, seconds / 3, tiny=options.tiny)
    sizes = TINY if options.tiny else FULL
    content = {
        "about": measured.about,
        "command": " ".join(["python benchmarks/gpu.py", *sys.argv[1:]]),
        "commit": _commit(),
        "seconds": time.monotonic() - start,
        "steps": sizes.curve,
        "plans": {name: _described(plan) for name, plan in sizes.plans.items() if name in options.plans},
        "rows": measured.rows,
        "outside": outside(measured.rows),
        "left_out": measured.left_out,
    }
    (options.out / "gpu.json").write_text(json.dumps(content, indent=4, allow_nan=False), encoding="utf-8")
    report = markdown(content)
    (options.out / "gpu.md").write_text(report, encoding="utf-8")
    print(report)


def measure(
    wanted: Sequence[Job], folder: Path, worker: Sequence[str], seconds: float, longest: float, *, tiny: bool
) -> Measured:
    """Let a process measure; where it ends early or takes too long, another one continues with the next measurement.

    Args:
        wanted: the measurements in their order.
        folder: gets the files of the processes, and nnU-Net's folders.
        worker: the command; the folder is added.
        seconds: for all measurements.
        longest: seconds for one measurement.
        tiny: whether the shapes are the smallest ones.

    Raises:
        SystemExit: the process cannot measure at all.
    """
    measured, remaining, end = Measured(), list(wanted), time.monotonic() + seconds
    while remaining and time.monotonic() < end:
        (folder / "jobs.json").write_text(json.dumps({"tiny": tiny, "jobs": remaining}), encoding="utf-8")
        stopped, status = _run([*worker, str(folder)], folder, end, longest)
        lines = _lines(folder)
        measured.about |= next((line["about"] for line in lines if "about" in line), {})
        measured.rows += [{"job": line.pop("done"), **line} for line in lines if "done" in line]
        done = {Job(*row["job"]) for row in measured.rows}
        begun = next((Job(*line["begun"]) for line in reversed(lines) if "begun" in line), None)
        if begun is None and not stopped:
            raise SystemExit((folder / "log.txt").read_text(encoding="utf-8", errors="replace")[-2000:])
        if begun is not None and begun not in done:
            if stopped == "end":
                measured.left_out.append(f"{begun}: it had begun, but the time was over")
            else:
                error = f"stopped after {longest:.0f} s" if stopped else f"its process ended with status {status}"
                measured.rows.append({"job": begun, "error": error})
            done.add(begun)
        remaining = [job for job in remaining if job not in done]
    measured.left_out += [f"{job}: no time was left" for job in remaining]
    return measured


def _run(command: list[str], folder: Path, end: float, longest: float) -> tuple[str, int]:
    """Run a process until it ends, the time is over, or one measurement takes too long.

    Returns:
        Why it was stopped: "", "end" or "longest"; and its exit status.
    """
    (folder / "measured.jsonl").write_text("", encoding="utf-8")
    paths = {f"nnUNet_{each}": str(folder / f"nnUNet_{each}") for each in ("raw", "preprocessed", "results")}
    environment = {**os.environ, **paths, "nnunet_moe_bf16": "0"}  # where it is tried on a CPU, float32 is float32
    with (folder / "log.txt").open("a", encoding="utf-8") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=os.name == "posix"
        )
        stopped, known, since = "", 0, time.monotonic()
        try:
            while process.poll() is None and not stopped:
                time.sleep(0.1)
                lines, now = _lines(folder), time.monotonic()
                for line in lines[known:]:
                    known, since = known + 1, now
                    if "begun" in line:
                        print(Job(*line["begun"]), file=sys.stderr, flush=True)
                stopped = "end" if now > end else "longest" if now - since > longest else ""
        finally:
            _stop(process)
    return stopped, process.returncode


def _stop(process: subprocess.Popen) -> None:
    """Stop a process together with those that compile for it."""
    if os.name == "posix":
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()


def _lines(folder: Path) -> list[dict[str, Any]]:
    """Return what a process has written so far; a line that it has not finished is not counted."""
    text = (folder / "measured.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def _described(plan: Plan) -> dict[str, Any]:
    curve = halved(plan)
    return {
        "patch_size": list(plan.patch_size),
        "batch_size": plan.batch_size,
        "features": list(plan.features),
        "curve_patch_size": list(curve.patch_size),
        "curve_batch_size": curve.batch_size,
    }


def _commit() -> str:
    try:
        done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default="gpu", help="write to this folder (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=3, help="end after this time (default: %(default)s)")
    for name, choices in (("plans", FULL.plans), ("methods", TRAINERS), ("parts", PARTS)):
        every = list(choices)
        parser.add_argument(
            f"--{name}", nargs="+", choices=every, default=every, help=f"measure these {name} (default: all)"
        )
    parser.add_argument("--tiny", action="store_true", help="try the command with the smallest shapes, also on a CPU")
    return parser.parse_args()


if __name__ == "__main__":
    main()
