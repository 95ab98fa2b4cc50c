import json

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_moe.images.reading import read_case, read_channels
from nnunet_moe.preprocessing import MissingModalityPreprocessor


@pytest.fixture
def dataset_json(dataset):
    return json.loads(dataset.dataset_json_file.read_text())


@pytest.fixture
def poor_case(copied_case):
    """Of three modalities one is missing, one is zero everywhere, and one file has another ending."""
    array = sitk.GetArrayFromImage(sitk.ReadImage(str(copied_case[1])))
    zeros = sitk.GetImageFromArray(np.zeros_like(array))
    zeros.CopyInformation(sitk.ReadImage(str(copied_case[1])))
    sitk.WriteImage(zeros, str(copied_case[1]))
    copied_case[2].rename(copied_case[2].with_name("phantomTs000_0002.nii"))
    return copied_case[:2]


def test_reading_returns_what_is_missing_and_what_was_ignored_and_prints_nothing(poor_case, dataset_json, capfd):
    read = read_case([str(file) for file in poor_case], SimpleITKIO(), dataset_json)
    zeros = f"{poor_case[1]} is zero everywhere: treated as missing"
    look_alike = "phantomTs000: not used, because the ending is not .nii.gz: phantomTs000_0002.nii"
    assert read.available == (True, False, False) and np.isnan(read.image[1:]).all()
    assert read.case == "phantomTs000" and read.missing == ("T2w", "FLAIR")
    assert read.notes == (zeros,) and read.look_alikes == (look_alike,)
    assert read.ignored == (zeros, look_alike)
    assert read.log_lines == (zeros, "phantomTs000: missing T2w, FLAIR", look_alike)
    assert "".join(capfd.readouterr()) == ""


def test_a_complete_case_has_nothing_to_report(copied_case, dataset_json):
    read = read_case([str(file) for file in copied_case], SimpleITKIO(), dataset_json)
    assert read.available == (True, True, True)
    assert read.log_lines == read.ignored == read.missing == ()


def test_the_preprocessor_logs_what_reading_returns(poor_case, dataset, dataset_json, capsys):
    plans, files = PlansManager(str(dataset.plans_file)), [str(file) for file in poor_case]
    configuration = plans.get_configuration("3d_fullres")
    MissingModalityPreprocessor(verbose=False).run_case(files, None, plans, configuration, dataset_json)
    assert tuple(capsys.readouterr().out.splitlines()) == read_case(files, SimpleITKIO(), dataset_json).log_lines


def test_what_nnunets_reader_prints_is_a_note_too(tmp_path, capfd):
    """Of tifs it prints that nothing tells their spacing."""
    file = tmp_path / "case_0000.tif"
    sitk.WriteImage(sitk.GetImageFromArray(np.arange(120, dtype=np.uint8).reshape(4, 5, 6)), str(file))
    read = read_channels(Tiff3DIO(), {0: str(file)}, ["CT", "PET"])
    assert len(read.notes) == 2 and "no spacing" in read.notes[0]
    assert capfd.readouterr().out == ""
