"""The benchmark of a GPU measures what it says, says what is outside of the promises, and always ends."""

import json
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from pretended_cuda import PretendedCuda

ROOT = Path(__file__).parents[1]


@pytest.fixture
def benchmarks(monkeypatch):
    """The folder from which the benchmark's modules can be imported."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return ROOT / "benchmarks"


def convolutions(stages: int) -> int:
    """Of a forward pass of nnU-Net's plain U-Net: two a stage, and in the decoder also an upsampling and an output."""
    return 2 * stages + (stages - 1) * (2 + 1 + 1)


@pytest.fixture(scope="module")
def tried(preloaded_python, tmp_path_factory):
    """What the command writes with the smallest shapes, and its report."""
    out = tmp_path_factory.mktemp("gpu")
    methods = ["nnU-Net", "modality dropout", "MoE-SD, loop", "LCKD", "M4oE"]
    command = [str(preloaded_python), "benchmarks/gpu.py", "--tiny", "--minutes", "9", "--out", str(out)]
    command += ["--methods", *methods]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((out / "gpu.json").read_text()), (out / "gpu.md").read_text()


@pytest.mark.slow
def test_it_measures_every_method_in_2d_and_3d_and_leaves_nothing_out(tried):
    content, _ = tried
    assert [row for row in content["rows"] if "error" in row] == [] == content["left_out"]
    measured = {tuple(row["job"]) for row in content["rows"]}
    methods = {"nnU-Net", "modality dropout", "MoE-SD, loop", "LCKD"}
    expected = {(plan, method, part) for plan in ("2D", "3D") for method in methods for part in ("eager", "curves")}
    expected |= {("2D", "M4oE", "eager"), ("2D", "M4oE", "curves"), ("2D", "modality dropout", "compiled")}
    assert measured == expected


@pytest.mark.slow
def test_it_counts_the_convolutions_of_the_forward_passes(tried):
    content, _ = tried
    eager = {tuple(row["job"][:2]): row["result"] for row in content["rows"] if row["job"][2] == "eager"}
    for plan in ("2D", "3D"):
        items, stages = content["plans"][plan]["batch_size"], len(content["plans"][plan]["features"])
        assert eager[plan, "nnU-Net"]["convolutions"] == convolutions(stages)
        assert eager[plan, "modality dropout"]["convolutions"] == 2 * convolutions(stages)  # two views
        # the first convolution of the encoder and the last one of each stage are mixtures
        assert eager[plan, "MoE-SD, loop"]["convolutions"] == 2 * (convolutions(stages) + (stages + 1) * (items - 1))


@pytest.mark.slow
def test_curves_in_float16_follow_those_in_float32(tried):
    content, _ = tried
    for row in content["rows"]:
        if row["job"][2] == "curves":
            result = row["result"]
            assert result["float16"] == pytest.approx(result["float32"], rel=0.01), row["job"]
            assert result["float32"][0] != result["float32"][-1]
            assert result["cosine"] > 0.99, row["job"]


@pytest.mark.slow
def test_the_report_has_every_method_of_a_plan_in_every_table(tried):
    content, report = tried
    for plan, other in (("2D", "3D"), ("3D", "Outside")):
        part = report.split(f"## {plan}\n")[1].split(f"## {other}")[0]
        for method in {row["job"][1] for row in content["rows"] if row["job"][0] == plan}:
            assert part.count(f"\n| {method} | ") == 4, (plan, method)


@pytest.mark.slow
@pytest.mark.usefixtures("benchmarks")
@pytest.mark.filterwarnings("ignore:.*CUDA is not available")
def test_what_only_a_gpu_needs_runs_on_tensors_that_claim_to_be_on_one(tmp_path, monkeypatch):
    from gpu_bench import Bench
    from gpu_jobs import TINY, Job
    from gpu_subjects import DATASET

    def warn(mode: str):  # what torch says when the mode is set, and at each wait
        warnings.warn("Synchronization debug mode is a prototype feature", stacklevel=1)
        if mode == "warn":
            warnings.warn("called a synchronizing CUDA operation", stacklevel=1)

    for name in ("synchronize", "empty_cache", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda: None)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", warn)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 5)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 105)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    (tmp_path / "preprocessed" / DATASET / "made").mkdir(parents=True)
    (tmp_path / "preprocessed" / DATASET / "made" / "case.b2nd").touch()
    with PretendedCuda():
        bench = Bench(tmp_path, torch.device("cuda", 0), TINY)
        eager = bench.measured(Job("2D", "MoE-SD", "eager"))
        curves = bench.measured(Job("2D", "MoE-SD", "curves"))
        bench.require_device()
    assert eager["peak_bytes"] == 100
    assert eager["step_waits"] == eager["patch_waits"] == 1
    assert curves["float16"] == curves["float32"]  # autocast does nothing without a driver
    assert torch.get_autocast_dtype("cuda") == torch.float16


def row(method: str, part: str, **result) -> dict:
    return {"job": ["2D", method, part], "seconds": 1.0, "result": result}


EAGER = {
    **{"step_seconds": [1.0], "patch_seconds": [1.0], "peak_bytes": 100, "loss_scale": 1.0},
    **{"kernels": 1000, "convolutions": 100, "step_waits": 3, "patch_waits": 1, "patch_to_reference": [1.0]},
}
CURVES = {"scale": 64.0, "skipped": [1, 10], "float16": [1.0], "float32": [1.0], "cosine": 0.99}


def eager(method: str, ratio: float, **others) -> dict:
    return row(method, "eager", **{**EAGER, "step_to_reference": [ratio], **others})


@pytest.mark.usefixtures("benchmarks")
def test_figures_at_the_bounds_are_inside():
    from gpu_report import outside

    rows = [
        *(eager("modality dropout", 1.0), eager("nnU-Net", 0.5, step_waits=9)),
        eager("MoE-SD", 1.05, kernels=1500, convolutions=150, peak_bytes=115, patch_to_reference=[1.03]),
        *(eager("M4oE", 9.0, patch_waits=2), row("MoE-SD", "curves", **CURVES)),
    ]
    assert outside(rows) == []


@pytest.mark.usefixtures("benchmarks")
@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (eager("MoE-SD", 1.06), "2D, MoE-SD: step, eager, / modality dropout is 1.06; at most 1.05 is promised"),
        (eager("MoE-SD", 1.0, kernels=1501), "kernel launches of a step / modality dropout is 1.501; at most 1.5"),
        (eager("MoE-SD", 1.0, convolutions=151), "convolutions of a step / modality dropout is 1.51; at most 1.5"),
        (eager("MoE-SD", 1.0, peak_bytes=116), "memory of a step / nnU-Net is 1.16; at most 1.15"),
        (eager("MoE-SD", 1.0, patch_to_reference=[1.04]), "2D, MoE-SD: patch / nnU-Net is 1.04; at most 1.03"),
        (eager("LCKD", 1.0, step_waits=4), "2D, LCKD: host waits of a training step is 4; at most 3 is promised"),
        (eager("LCKD", 1.0, patch_waits=2), "2D, LCKD: host waits of a predicted patch is 2; at most 1 is promised"),
        (eager("M4oE", 1.0, patch_waits=3), "2D, M4oE: host waits of a predicted patch is 3; at most 2 is promised"),
        (row("LCKD", "curves", **{**CURVES, "skipped": [11]}), "the last skipped step in float16 is 11; at most 10"),
        (row("MoE-SD", "curves", **{**CURVES, "cosine": 0.98}), "in float16 and float32 is 0.98; at least 0.99"),
        (row("LCKD", "curves", **{**CURVES, "cosine": 0.96}), "in float16 and float32 is 0.96; at least 0.97"),
        (row("LCKD", "curves", **{**CURVES, "cosine": None}), "in float16 that are not finite is 1; at most 0"),
        (row("LCKD", "curves", **{**CURVES, "float16": [None]}), "in float16 that are not finite is 1; at most 0"),
        ({"job": ["3D", "LCKD", "eager"], "error": "out of memory"}, "3D, LCKD, eager: out of memory"),
    ],
)
def test_a_figure_beyond_its_bound_gets_a_line(changed, said):
    from gpu_report import outside

    (line,) = outside([eager("modality dropout", 1.0), eager("nnU-Net", 1.0), changed])
    assert said in line


@pytest.mark.usefixtures("benchmarks")
def test_a_compiled_step_is_compared_with_the_compiled_step_of_modality_dropout():
    from gpu_report import figures_of

    compiled = {"compile_seconds": 1.0, "compiled_to_eager": [0.5], "compiled_seconds": [1.0]}
    rows = [
        row("modality dropout", "compiled", **compiled, compiled_to_reference=[0.4, 0.5, 0.6]),
        row("MoE-SD", "compiled", **compiled, compiled_to_reference=[0.5, 0.6, 0.7]),
    ]
    assert figures_of(rows)["2D", "MoE-SD"]["compiled_to_reference"] == pytest.approx(0.6 / 0.5)


WORKER = """
import json, os, sys, time
given = json.load(open(sys.argv[1] + "/jobs.json"))
file = open(sys.argv[1] + "/measured.jsonl", "a", buffering=1)
print(json.dumps({"about": {"device": "none"}}), file=file)
for job in given["jobs"]:
    print(json.dumps({"begun": job}), file=file)
    if job[1] == "LCKD":
        os._exit(7)
    if job[1] == "MoE-SD":
        time.sleep(60)
    print(json.dumps({"done": job, "seconds": 0.0, "result": {}}), file=file)
"""
"""Ends in the middle of one measurement, and does not end another."""


def measured_with(code: str, folder: Path, seconds: float, longest: float):
    from gpu import measure
    from gpu_jobs import Job

    wanted = [Job("2D", method, "eager") for method in ("LCKD", "nnU-Net", "MoE-SD", "M4oE")]
    return measure(wanted, folder, [sys.executable, "-I", "-S", "-c", code], seconds, longest, tiny=True)


@pytest.mark.short_processes
@pytest.mark.usefixtures("benchmarks")
def test_a_measurement_that_ends_its_process_or_does_not_end_costs_only_itself(tmp_path):
    measured = measured_with(WORKER, tmp_path, seconds=50, longest=5)
    assert {row["job"][1]: row.get("error") for row in measured.rows} == {
        "LCKD": "its process ended with status 7",
        "nnU-Net": None,
        "MoE-SD": "stopped after 5 s",
        "M4oE": None,
    }
    assert measured.left_out == []


@pytest.mark.short_processes
@pytest.mark.usefixtures("benchmarks")
def test_it_ends_in_time_and_names_what_it_left_out(tmp_path):
    measured = measured_with(WORKER, tmp_path, seconds=5, longest=50)
    assert [row["job"][1] for row in measured.rows] == ["LCKD", "nnU-Net"]
    assert measured.left_out == [
        "2D, MoE-SD, eager: it had begun, but the time was over",
        "2D, M4oE, eager: no time was left",
    ]


@pytest.mark.short_processes
@pytest.mark.usefixtures("benchmarks")
def test_a_process_that_cannot_begin_ends_the_command_with_its_message(tmp_path):
    with pytest.raises(SystemExit, match="torch finds no CUDA GPU"):
        measured_with("import sys; sys.exit('torch finds no CUDA GPU')", tmp_path, seconds=50, longest=50)
