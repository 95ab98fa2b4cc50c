#!/usr/bin/env python3
"""Time the metrics of one case with thousands of lesions on both sides, on one core.

    taskset -c 0 python benchmarks/metrics.py

The volume has 182x218x182 voxels of 1 mm. Lesions are cubes of 2 to 6 voxels, drawn independently for prediction and
reference.
"""

import argparse
import os
import statistics
import time

import numpy as np

from nnunet_moe.commands.evaluate.metric_settings import MetricSettings
from nnunet_moe.commands.evaluate.metrics import score_segmentation
from nnunet_moe.runtime.environment import machine

SHAPE = (182, 218, 182)
GRID = 9  # voxels between the places of lesions, so that no two lesions touch


def main() -> None:
    options = _options()
    rng = np.random.default_rng(0)
    prediction, reference = (_lesions(rng, options.lesions) for _ in range(2))
    seconds, scores = [], None
    for _ in range(options.repetitions):
        start = time.perf_counter()
        scores = score_segmentation(prediction, reference, (1.0, 1.0, 1.0), MetricSettings())
        seconds.append(time.perf_counter() - start)
    assert scores is not None
    cores = len(os.sched_getaffinity(0))
    print(f"{machine()}, {cores} of its cores")
    print(f"{scores.lesions} and {scores.reference_lesions} lesions, DSC {scores.dsc:.3f}")
    print(f"{statistics.median(seconds):.2f} s a case ({min(seconds):.2f} to {max(seconds):.2f}, {len(seconds)} times)")


def _lesions(rng: np.random.Generator, count: int) -> np.ndarray:
    mask = np.zeros(SHAPE, dtype=bool)
    axes = [np.arange(4, size - 4, GRID) for size in SHAPE]
    places = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    for place in rng.choice(places, count, replace=False):
        radius, center = rng.integers(1, 4), place + rng.integers(-1, 2, 3)
        mask[tuple(slice(max(c - radius, 0), c + radius) for c in center)] = True
    return mask


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--lesions", type=int, default=2000, help="draw this many lesions on each side (default: %(default)s)"
    )
    parser.add_argument(
        "--repetitions", type=int, default=5, help="measure the time this many times (default: %(default)s)"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
