"""Segmentations whose label values have gaps, and regions in place of labels."""

import json

import nibabel as nib
import numpy as np
import pytest

from facts import facts
from nnunet_moe.cli import main
from nnunet_moe.errors import SettingsError
from nnunet_moe.labels.regions import regions_in_dataset_json

LABELS = {"necrosis": 1, "edema": 2, "enhancing": 3}
REGIONS = {"whole": ("necrosis", "edema", "enhancing"), "core": ("necrosis", "enhancing"), "enhancing": ("enhancing",)}
GRID = np.diag([1.0, 2.0, 3.0, 1.0])


def test_each_region_stands_for_its_one_label_that_no_later_region_has():
    values, order = regions_in_dataset_json(REGIONS, LABELS)
    assert values == {"whole": [1, 2, 3], "core": [1, 3], "enhancing": 3} and order == [2, 1, 3]
    labels, order_of_labels = regions_in_dataset_json({name: (name,) for name in LABELS}, LABELS)
    assert labels == LABELS and order_of_labels == [1, 2, 3]
    # what nnU-Net writes from perfect predictions in this order is the segmentation itself
    segmentation = np.random.default_rng(0).integers(0, 4, 100)
    written = np.zeros_like(segmentation)
    for name, value in zip(values, order, strict=True):
        written[np.isin(segmentation, values[name])] = value
    assert np.array_equal(written, segmentation)


@pytest.mark.parametrize(
    ("regions", "said"),
    [
        ({"whole": ("necrosis", "edema", "tumor")}, ("'tumor'", "necrosis, edema, enhancing")),
        ({"core": ("necrosis",), "edema": ("edema",)}, ("'enhancing'", "in no region")),
        (dict(reversed(REGIONS.items())), ("'enhancing'", "0 labels", "large regions before")),
        ({"whole": ("necrosis", "edema", "enhancing")}, ("'whole'", "3 labels", "must have one")),
    ],
)
def test_regions_that_nnunet_could_not_write_are_refused(regions, said):
    with pytest.raises(SettingsError, match=facts(*said)):
        regions_in_dataset_json(regions, LABELS)


@pytest.fixture
def source(tmp_path, monkeypatch):
    """Two cases with the label values 1, 2, 4."""
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    draw = np.random.default_rng(0)
    (tmp_path / "source").mkdir()
    for case in "ab":
        image = draw.normal(100, 10, (8, 9, 10)).astype(np.float32)
        label = draw.choice([0, 1, 2, 4], image.shape).astype(np.uint8)
        for name, voxels in (("flair", image), ("seg", label)):
            nib.save(nib.Nifti1Image(voxels, GRID), tmp_path / "source" / f"{case}_{name}.nii.gz")
    return tmp_path / "source"


def run(source, *options):
    main(
        [
            "import",
            "-i",
            str(source),
            "-d",
            "Dataset950_Gaps",
            "-m",
            "FLAIR={case}_flair.nii.gz",
            "-l",
            "{case}_seg.nii.gz",
            "-np",
            "1",
            "--no_pbar",
            *options,
        ]
    )
    return source.parent / "raw" / "Dataset950_Gaps"


OLD = ("-labels", "necrosis=1", "edema=2", "enhancing=4")


def test_values_with_gaps_are_renumbered_and_everything_else_stays(source):
    regions = [f"{name}={','.join(labels)}" for name, labels in REGIONS.items()]
    raw = run(source, *OLD, "--renumber", "-regions", *regions)
    dataset_json = json.loads((raw / "dataset.json").read_text())
    assert dataset_json["labels"] == {"background": 0, "whole": [1, 2, 3], "core": [1, 3], "enhancing": 3}
    assert list(dataset_json["labels"]) == ["background", *REGIONS] and dataset_json["regions_class_order"] == [2, 1, 3]
    for case in "ab":
        before, after = (nib.load(file) for file in (source / f"{case}_seg.nii.gz", raw / f"labelsTr/{case}.nii.gz"))
        given = np.asarray(before.dataobj)
        assert np.array_equal(np.asarray(after.dataobj), np.where(given == 4, 3, given))
        assert np.allclose(after.affine, before.affine)
        assert (raw / f"imagesTr/{case}_0000.nii.gz").read_bytes() == (source / f"{case}_flair.nii.gz").read_bytes()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (OLD, ("-labels", "without gaps", "--renumber")),
        (("--renumber",), ("--renumber", "need -labels")),
        (("-regions", "a=b"), ("-regions", "need -labels")),
        ((*OLD, "--renumber", "-regions", "a=necrosis,,edema"), ("-regions a=necrosis,,edema", "once")),
        ((*OLD, "--renumber", "-regions", "a=tumor"), ("-regions", "'tumor'")),
        (("-labels", "a=1", "b=1", "--renumber"), ("-labels", "different numbers")),
        (("-labels", "a=1", "b=3", "c=5", "--renumber"), ("2 of 2 segmentations", "Correct -labels")),
    ],
)
def test_labels_that_do_not_fit_are_refused_and_nothing_is_written(source, options, said):
    with pytest.raises(SystemExit, match=facts(*said)):
        run(source, *options)
    assert not (source.parent / "raw" / "Dataset950_Gaps").exists()
