"""The process in which `gpu.py` measures, so that an error or an endless compilation costs one measurement only.

    python benchmarks/gpu_worker.py FOLDER

It reads FOLDER/jobs.json, and appends a line of JSON to FOLDER/measured.jsonl when a measurement begins and when it
ends.
"""

import gc
import json
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import torch
from gpu_bench import Bench
from gpu_jobs import FULL, TINY, Job
from gpu_subjects import DATASET

from nnunet_moe.runtime.environment import machine, own_version, versions


def about(device: torch.device) -> dict[str, Any]:
    """Describe the device and the software."""
    found = {"machine": machine(), "nnunet_moe": own_version(), **versions("nnunetv2", "torch")}
    if device.type != "cuda":
        return {**found, "device": "CPU"}
    properties = torch.cuda.get_device_properties(device)
    more = {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    return {**found, "device": f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB", **more}


def outcome_of(bench: Bench, job: Job) -> dict[str, Any]:
    """Return `result`, the figures, or `error`, why there are none."""
    try:
        return {"result": bench.measured(job)}
    except Exception as error:
        traceback.print_exc()
        text = str(error).strip().splitlines() or [""]
        return {"error": "out of memory" if "out of memory" in str(error) else f"{type(error).__name__}: {text[0]}"}


def main() -> None:
    """Measure what FOLDER/jobs.json lists."""
    folder = Path(sys.argv[1])
    given = json.loads((folder / "jobs.json").read_text(encoding="utf-8"))
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cpu" and not given["tiny"]:
        sys.exit("torch finds no CUDA GPU. Install the build of torch for your CUDA version, or try --tiny on the CPU.")
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = True, False  # as nnU-Net sets them
    case = folder / "nnUNet_preprocessed" / DATASET / "made" / "case.b2nd"
    case.parent.mkdir(parents=True, exist_ok=True)
    case.touch()  # by whose ending nnU-Net knows the format
    bench = Bench(folder, device, TINY if given["tiny"] else FULL)
    gc.freeze()  # so that to free a trainer takes no time for what was imported
    with (folder / "measured.jsonl").open("a", encoding="utf-8") as file:

        def write(**content: Any) -> None:
            file.write(json.dumps(content) + "\n")
            file.flush()

        write(about=about(device))
        for job in (Job(*each) for each in given["jobs"]):
            write(begun=job)
            start = time.perf_counter()
            outcome = outcome_of(bench, job)
            write(done=job, seconds=time.perf_counter() - start, **outcome)
            bench.release()
            bench.require_device()


if __name__ == "__main__":
    main()
