"""Damaged NIfTI files are read as nibabel alone reads them, or refused by name; nothing else can happen."""

import gzip

import nibabel
import numpy as np
import pytest
from mutated_nifti import base_file, mutate
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from nnunet_moe.errors import ModalityError
from nnunet_moe.images.reading import read_case

DATASET_JSON = {"channel_names": {"0": "CT"}, "file_ending": ".nii.gz"}
READERS = (SimpleITKIO, NibabelIO, NibabelIOWithReorient)


@pytest.mark.parametrize("reader", READERS)
def test_a_damaged_file_is_read_as_by_nibabel_alone_or_refused_by_name(tmp_path, reader):
    file, num_read = tmp_path / "a_0000.nii.gz", 0
    for seed in range(100):
        generator = np.random.default_rng([READERS.index(reader), seed])
        base_file(file, tuple(generator.integers(1, 9, 3)), generator)
        done = mutate(file, generator)
        try:
            image = read_case([str(file)], reader(), DATASET_JSON).image[0]
        except ModalityError as error:
            assert str(file) in str(error), done
            continue
        stored = nibabel.Nifti1Image.from_filename(file).get_fdata()
        if reader is NibabelIOWithReorient:  # the same voxels in another order of axes
            image, stored = np.sort(image, axis=None), np.sort(stored, axis=None)
        np.testing.assert_allclose(image.ravel(), stored.ravel(order="F"), rtol=1e-5, err_msg=done)
        num_read += 1
    assert 20 < num_read < 80


def test_a_header_that_promises_more_than_the_file_can_hold_takes_no_memory(tmp_path):
    file = tmp_path / "a_0000.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.arange(8.0).reshape(2, 2, 2), np.eye(4)), file)
    content = bytearray(gzip.decompress(file.read_bytes()))
    content[42:48] = np.array([32767] * 3, dtype="<i2").tobytes()
    file.write_bytes(gzip.compress(content))
    with pytest.raises(ModalityError, match="32767 x 32767 x 32767 voxels"):
        read_case([str(file)], SimpleITKIO(), DATASET_JSON)
