"""`predict` with damaged files: each case is predicted from what is in the files, or refused by name."""

import csv
import os
from pathlib import Path

import nibabel
import numpy as np
from mutated_nifti import base_file, mutate

from nnunet_moe.cli import main

MODEL = ("-d", 901, "-c", "3d_tiny", "-tr", "nnUNetTrainerMoESD", "-f", 0, "-device", "cpu", "--disable_progress_bar")
NUM_CASES = int(os.environ.get("NUM_FUZZED_CASES", "200"))
"""Set the environment variable for a longer run by hand."""


def predict(images: Path, out: Path) -> dict[str, str]:
    """Return case -> the files and the reason of its failure."""
    options = ("-i", images, "-o", out, *MODEL, "-npp", 0, "-nps", 0, "--disable_tta", "-step_size", 1)
    try:
        main(["predict", *map(str, options)])
    except SystemExit as end:
        assert "Not predicted" in str(end)
    with (out / "failures.csv").open() as opened:
        return {row["case"]: f"{row['files']}: {row['reason']}" for row in csv.DictReader(opened)}


def test_damaged_cases_are_predicted_from_what_is_in_the_files_or_refused_by_name(trained, tmp_path):
    images, clean = tmp_path / "in", tmp_path / "clean"
    images.mkdir()
    clean.mkdir()
    done = {}
    for seed in range(NUM_CASES):
        generator = np.random.default_rng(seed)
        file = images / f"case{seed:04d}_{generator.integers(3):04d}.nii.gz"
        base_file(file, tuple(generator.integers(2, 13, 3)), generator)
        done[f"case{seed:04d}"] = mutate(file, generator)
    reasons = predict(images, tmp_path / "out")
    for case, reason in reasons.items():
        (file,) = images.glob(f"{case}_*")
        assert str(file) in reason and "Traceback" not in reason, (done[case], reason)
    predicted = sorted(done.keys() - reasons)
    assert 0.2 < len(predicted) / NUM_CASES < 0.8
    for case in predicted:  # the voxels in sound files
        (file,) = images.glob(f"{case}_*")
        stored = nibabel.Nifti1Image.from_filename(file)
        written = nibabel.Nifti1Image.from_filename(tmp_path / "out" / f"{case}.nii.gz")
        assert written.shape == np.squeeze(stored.get_fdata()).shape or written.shape == stored.shape[:3], done[case]
        nibabel.save(nibabel.Nifti1Image(stored.get_fdata(dtype=np.float32), written.affine), clean / file.name)
    assert predict(clean, tmp_path / "of clean") == {}
    for case in predicted:
        segmentations = [
            np.asarray(nibabel.Nifti1Image.from_filename(tmp_path / out / f"{case}.nii.gz").dataobj)
            for out in ("out", "of clean")
        ]
        np.testing.assert_array_equal(*segmentations, err_msg=done[case])
