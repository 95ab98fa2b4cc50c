"""Planning reads every label: it rounds what a file could not store exactly, and refuses what is no label."""

import gzip
import json
import struct
from pathlib import Path

import blosc2
import numpy as np
import pytest
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from facts import facts
from incomplete import describe, extract_fingerprint, plan_and_preprocess, write
from nnunet_moe.errors import ModalityError

NAME, CASES = "Dataset914_Rounding", ("below", "above", "slope", "exact")
SHAPE, CUBE = (8, 16, 16), (slice(2, 6), slice(4, 8), slice(4, 9))
"""A cube of 80 voxels."""


def stored_labels() -> dict[str, np.ndarray]:
    labels = np.zeros(SHAPE, dtype=np.float32)
    labels[CUBE] = 1
    below, above = (np.nextafter(np.float32(1), np.float32(limit)) for limit in (0, 2))
    slope = (labels * 32767).astype(np.int16)
    return {"below": labels * below, "above": labels * above, "slope": slope, "exact": labels.astype(np.uint8)}


def set_slope(file: Path, slope: float) -> None:
    """Change what a NIfTI file says its integers are multiplied with."""
    content = bytearray(gzip.decompress(file.read_bytes()))
    content[112:116] = struct.pack("<f", slope)
    file.write_bytes(gzip.compress(bytes(content)))


@pytest.fixture
def raw(tmp_path, monkeypatch) -> Path:
    for kind in ("raw", "preprocessed", "results"):
        (tmp_path / kind).mkdir()
        monkeypatch.setenv(f"nnUNet_{kind}", str(tmp_path / kind))
    folder = tmp_path / "raw" / NAME
    for case, labels in stored_labels().items():
        rng = np.random.default_rng(len(case))
        image = rng.normal(100, 5, SHAPE).astype(np.float32)
        write(folder / "imagesTr" / f"{case}_0000.nii.gz", image)
        write(folder / "labelsTr" / f"{case}.nii.gz", labels)
    set_slope(folder / "labelsTr" / "slope.nii.gz", 1 / 32767)
    describe(folder, ["CT"], len(CASES))
    return folder


def test_labels_with_rounding_errors_are_planned_preprocessed_and_validated_as_whole_numbers(raw):
    extract_fingerprint(914)
    plan_and_preprocess("-d", 914, "-c", "2d", "--verify_dataset_integrity")
    preprocessed = raw.parents[1] / "preprocessed" / NAME
    intensities = json.loads((preprocessed / "dataset_fingerprint.json").read_text())
    assert intensities["foreground_intensity_properties_per_channel"]["0"]["mean"] == pytest.approx(100, abs=2)
    for case in CASES:
        (seg_file,) = preprocessed.glob(f"nnUNetPlans_2d/{case}_seg.b2nd")
        seg = blosc2.open(str(seg_file), mode="r")[:]
        assert (np.unique(seg).tolist(), int((seg == 1).sum())) == ([0, 1], 80)
        copy, _ = SimpleITKIO().read_seg(str(preprocessed / "gt_segmentations" / f"{case}.nii.gz"))
        values, counts = np.unique(copy, return_counts=True)
        assert (values.tolist(), counts.tolist()) == ([0, 1], [np.prod(SHAPE) - 80, 80])
    copied, exact = (folder / "exact.nii.gz" for folder in (preprocessed / "gt_segmentations", raw / "labelsTr"))
    assert copied.read_bytes() == exact.read_bytes()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda labels: labels * np.float32(252 / 255), ("80 voxels", "0.9882353")),
        (lambda labels: labels / 2, ("80 voxels", "0.5")),
        (lambda labels: labels * 255, ("voxels with 255,", "0, 1")),
    ],
)
def test_labels_that_are_none_are_refused_without_verification_too(raw, spoil, said):
    file = raw / "labelsTr" / "below.nii.gz"
    labels = np.zeros(SHAPE, dtype=np.float32)
    labels[CUBE] = 1
    write(file, spoil(labels))
    with pytest.raises(ModalityError, match=facts(str(file), *said)):
        extract_fingerprint(914)
