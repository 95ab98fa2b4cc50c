"""Any JSON in a dataset.json: nnU-Net can use it, or the file and the key are named."""

import json
from pathlib import Path

import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from made_json import changed
from nnunet_moe.commands.plan_and_preprocess.raw_dataset import read_raw_dataset
from nnunet_moe.errors import ModalityError, NnunetMoeError

CASES = {
    "p": {"images": ["files/p_0000.nii.gz", "files/p_0001.nii.gz"], "label": "files/p.nii.gz"},
    "q": {"images": ["files/q_0001.nii.gz"], "label": "files/q.nii.gz"},
}
LABELED = {
    "channel_names": {"0": "T1w", "1": "FLAIR"},
    "labels": {"background": 0, "core": 2, "edema": 1, "ignore": 3},
    "label_sets": {"T1w": ["core"]},
    "label_sets_of_cases": {"q": ["edema"]},
    "numTraining": 2,
    "file_ending": ".nii.gz",
    "overwrite_image_reader_writer": "SimpleITKIO",
    "dataset": CASES,
}
REGIONS = {**LABELED, "labels": {"background": 0, "edema": [1, 2], "core": 2}, "regions_class_order": [1, 2]}


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    """An empty `imagesTr`, from which nnU-Net would list cases with processes, and files in another folder."""
    folder = tmp_path_factory.mktemp("raw") / "Dataset914_Random"
    for name in ("imagesTr", "files"):
        (folder / name).mkdir(parents=True)
    for files in CASES.values():
        for file in (*files["images"], files["label"]):
            sitk.WriteImage(sitk.Image(2, 2, 2, sitk.sitkUInt8), str(folder / file))
    return folder


@given(st.one_of(changed(LABELED), changed(REGIONS)))
def test_any_dataset_json_is_used_as_by_nnunet_or_refused_by_file_and_key(raw, content):
    (raw / "dataset.json").write_text(json.dumps(content))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("nnUNet_raw", str(raw.parent))
        try:
            dataset = read_raw_dataset(raw.name)
        except NnunetMoeError as error:
            assert str(raw) in str(error)
            assert any(key in str(error) for key in (*REGIONS, *CASES, "imagesTr", "file_ending")), error
            return
    LabelManager(content["labels"], content.get("regions_class_order"))
    assert {*dataset.cases} <= {*content["dataset"]}
    assert len(dataset.modalities) == len(content.get("channel_names", content.get("modality")))
    assert all(len(code) == len(dataset.modalities) for code in dataset.availability().codes.values())
    try:
        assert dataset.reader_class.__module__.startswith("nnunetv2.imageio")
    except ModalityError as error:
        assert str(raw) in str(error)
