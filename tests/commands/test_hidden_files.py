"""Hidden files, such as those that macOS writes next to images, are ignored wherever a folder is listed."""

import argparse
from pathlib import Path

import numpy as np
import pytest

from incomplete import write
from nnunet_moe.commands.demo.case_subsets import cases_of
from nnunet_moe.commands.evaluate.models import folder_cases
from nnunet_moe.commands.package.mapping import InputMapping
from nnunet_moe.commands.package.sent import sent_cases
from nnunet_moe.commands.predict.cases import find_cases
from nnunet_moe.errors import ModalityError
from nnunet_moe.images.file_names import list_cases
from nnunet_moe.images.reading import read_channels
from nnunet_moe.runtime.files import visible

IMAGE = np.arange(64, dtype=np.float32).reshape(4, 4, 4)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Images and labels of two cases, each with a hidden file, and a file of the Finder."""
    for name in ("images/a_0000", "images/a_0001", "images/b_0000", "labels/a", "labels/b"):
        file = tmp_path / f"{name}.nii.gz"
        write(file, IMAGE)
        file.with_name(f"._{file.name}").write_bytes(b"\0\5\x16\7")
        (file.parent / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    return tmp_path


def test_no_command_takes_them_for_cases(folder):
    images, labels = folder / "images", folder / "labels"
    assert [path.name for path in visible(labels)] == ["a.nii.gz", "b.nii.gz"]
    cases, strays = list_cases(images, ".nii.gz")
    assert cases.keys() == {"a", "b"} and strays == []
    found, failures = find_cases(images, {"channel_names": {"0": "T1w", "1": "T2w"}, "file_ending": ".nii.gz"}, None)
    assert [case.name for case in found] == ["a", "b"] and failures == []
    scored, notes = folder_cases(images, labels, ".nii.gz")
    assert [case.name for case in scored] == ["a", "b"] and notes == []
    assert cases_of(labels) == ("a", "b")


@pytest.mark.parametrize(
    ("target", "inputs"), [("plain", {"_0000": "T1w", "_0001": "T2w"}), ("brats", {"_0000": "T1w", "_0001": "T2w"})]
)
def test_no_contract_of_a_package_takes_them_for_cases(folder, target, inputs):
    options = argparse.Namespace(input=folder / "images", output=folder / "out")
    cases = sent_cases(InputMapping(target, inputs, ".nii.gz"), options)
    assert [(case.name, case.problem) for case in cases] == [("a", None), ("b", None)]


def test_no_socket_takes_them_for_a_second_image(folder):
    socket = folder / "input" / "images" / "t1w"
    write(socket / "x.mha", IMAGE)
    (socket / "._x.mha").write_bytes(b"\0\5\x16\7")
    options = argparse.Namespace(input=folder / "input", output=folder / "output")
    (folder / "input" / "inputs.json").write_text(
        '[{"interface": {"slug": "t1w", "relative_path": "images/t1w", "super_kind": "Image"}}]'
    )
    (case,) = sent_cases(InputMapping("grand-challenge", {"t1w": "T1w"}, "seg"), options)
    assert case.found == (("t1w", socket / "x.mha"),)


def test_a_folder_with_the_name_of_an_image_is_named(folder):
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    file = folder / "images" / "b_0001.nii.gz"
    file.mkdir()
    write(file / "b_0001.nii.gz", IMAGE)
    with pytest.raises(ModalityError, match=r"b_0001\.nii\.gz cannot be read: it is a folder\. "):
        read_channels(SimpleITKIO(), {0: str(folder / "images" / "b_0000.nii.gz"), 1: str(file)}, ["A", "B"])
