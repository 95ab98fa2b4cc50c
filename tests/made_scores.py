"""A simulated cohort of scored segmentations whose DSC depends on the signals of trust in a known way."""

import numpy as np

from nnunet_moe.quality.calibration import ScoredRows
from nnunet_moe.quality.signals import SIGNALS, SIZE

CODES = ("100", "010", "110")


def cohort(num_patients, seed=0, *, noise=0.05, visits=1):
    """Each patient with all codes: the DSC follows the expected Dice, and a patient's error is shared by its rows."""
    rng = np.random.default_rng(seed)
    patients = [f"p{number:02d}" for number in range(num_patients) for _ in range(visits * len(CODES))]
    codes = list(CODES) * visits * num_patients
    truth = rng.uniform(0.3, 0.9, len(codes))
    shared = np.repeat(rng.normal(0, noise, num_patients), visits * len(CODES))
    signals = {name: rng.random(len(codes)) for name in SIGNALS}
    signals |= {"expected_dice": truth, SIZE: rng.uniform(10, 1000, len(codes))}
    dsc = np.clip(truth - 0.1 + shared + rng.normal(0, noise / 2, len(codes)), 0, 1)
    return ScoredRows(patients, codes, signals, dsc)
