"""Grids are compared by how far voxels lie apart, in voxels. The expected shifts are computed here from affines."""

import re
from itertools import product
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from facts import facts
from nnunet_moe.errors import ModalityError
from nnunet_moe.images import geometry
from nnunet_moe.images.geometry import Grid, ReadFile, require_same_geometry
from nnunet_moe.images.reading import axes_notes, read_case, read_channels, read_segmentation_of

READERS = (SimpleITKIO, NibabelIO, NibabelIOWithReorient)
DATASET_JSON = {"channel_names": {"0": "T1w", "1": "FLAIR"}, "file_ending": ".nii.gz"}
SIZE = (9, 8, 7)
GENERATOR = np.random.default_rng(0)
IMAGES = GENERATOR.normal(100, 20, (2, *SIZE)).astype(np.float32)
LABELS = (IMAGES[0] > 110).astype(np.uint8)


def turned(degrees: float) -> np.ndarray:
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[cosine, -sine, 0, 0], [sine, cosine, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


def moved(*by: float) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, 3] = by
    return affine


def voxels(spacing: float) -> np.ndarray:
    """An affine in RAS with this spacing in x, twice in y and four times in z, oblique and away from the origin."""
    affine = np.diag([spacing, 2 * spacing, 4 * spacing, 1.0])
    affine[:3, 3] = -5 * spacing
    return turned(20) @ affine


def save(array: np.ndarray, file: Path, affine: np.ndarray, **forms: tuple[np.ndarray | None, int]) -> Path:
    image = nibabel.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    for name, (form, code) in forms.items():
        getattr(image, f"set_{name}")(form, code)
    nibabel.save(image, file)
    return file


def save_as(codes: str, array: np.ndarray, file: Path, affine: np.ndarray) -> Path:
    """Save the same image with its axes in other directions."""
    there: Any = ornt_transform(io_orientation(affine), axcodes2ornt(codes))
    image: Any = nibabel.Nifti1Image(array, affine).as_reoriented(there)
    return save(np.asanyarray(image.dataobj), file, image.affine)


def shift(first: np.ndarray, other: np.ndarray) -> float:
    """Return by how many voxels of the first image its corners are moved in the other."""
    corners = np.array([(*corner, 1) for corner in product(*[(0, size - 1) for size in SIZE])]).T
    return float(np.abs(np.linalg.inv(first) @ other @ corners - corners)[:3].max())


def said_shift(text: object) -> float:
    (found,) = re.findall(r"by up to (\S+) voxels", str(text))
    return float(found)


def read(folder: Path, reader):
    return read_case([str(file) for file in sorted(folder.glob("*_000?.nii.gz"))], reader(), DATASET_JSON)


CHANGES = {
    "origin": lambda affine, much: moved(much * affine[0, 0], 0, 0) @ affine,
    "direction": lambda affine, much: turned(30 * much) @ affine,
    "spacing": lambda affine, much: affine @ np.diag([1, 1, 1 + much, 1]),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("spacing", [0.001, 1.0, 40.0])
@pytest.mark.parametrize("what", CHANGES)
def test_images_may_be_shifted_by_a_small_part_of_a_voxel_whatever_its_size(tmp_path, reader, spacing, what):
    first = voxels(spacing)
    save(IMAGES[0], tmp_path / "a_0000.nii.gz", first)
    unit = shift(first, CHANGES[what](first, 1e-3)) / 1e-3  # voxels for a change of 1
    for voxels_apart in (0.02, 0.06, 0.16, 0.7):
        other = CHANGES[what](first, voxels_apart / unit)
        file = save(IMAGES[1], tmp_path / "a_0001.nii.gz", other)
        if voxels_apart < 0.1:
            images = read(tmp_path, reader)
            assert images.available == (True, True) and len(images.notes) == (voxels_apart > 0.03)
            for note in images.notes:
                assert str(file) in note and what in note and "copy the header" in note
                assert said_shift(note) == pytest.approx(shift(first, other), rel=0.02)
            continue
        with pytest.raises(ModalityError, match=facts(file, tmp_path / "a_0000.nii.gz", "differ", what)) as error:
            read(tmp_path, reader)
        assert said_shift(error.value) == pytest.approx(shift(first, other), rel=0.02)


@pytest.mark.parametrize("reader", READERS)
def test_a_segmentation_that_is_off_by_less_than_half_a_voxel_is_used_with_a_note(tmp_path, reader):
    first = voxels(1.0)
    image = save(IMAGES[0], tmp_path / "a_0000.nii.gz", first)
    images = read(tmp_path, reader)
    for degrees, most in ((0.0, 0.5), (0.5, 0.5), (5.0, 0.5), (5.0, np.inf)):
        label = save(LABELS, tmp_path / "label.nii.gz", turned(degrees) @ first)
        arguments = str(label), reader(), str(image), images
        if shift(first, turned(degrees) @ first) > most:
            with pytest.raises(ModalityError, match=facts(label, image, "direction", "CopyInformation", "resample")):
                read_segmentation_of(*arguments, largest_shift=most)
            continue
        labels, notes = read_segmentation_of(*arguments, largest_shift=most)
        assert labels.sum() == LABELS.sum() and len(notes) == (degrees > 0)
        assert all(str(label) in note and "CopyInformation" in note for note in notes)


def test_numbers_of_voxels_must_be_equal_even_for_a_segmentation(tmp_path):
    image = save(IMAGES[0], tmp_path / "a_0000.nii.gz", voxels(1.0))
    label = save(LABELS[:-1], tmp_path / "label.nii.gz", voxels(1.0))
    with pytest.raises(ModalityError, match=facts(label, image, "(8, 8, 7)", "(9, 8, 7)")):
        read_segmentation_of(str(label), SimpleITKIO(), str(image), read(tmp_path, SimpleITKIO), largest_shift=np.inf)
    label = save(LABELS[:, :, :1], tmp_path / "label.nii.gz", voxels(1.0))
    with pytest.raises(ModalityError, match=facts("One is a volume, the other a slice")):
        read_segmentation_of(str(label), SimpleITKIO(), str(image), read(tmp_path, SimpleITKIO), largest_shift=np.inf)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("codes", [(1, 2), (1, 1), (2, 1), (1, 4)])
@pytest.mark.parametrize("change", [moved(3, 1, 2), turned(12)])
@pytest.mark.parametrize("moved_form", ["sform", "qform"])
def test_a_registration_that_wrote_one_form_only_is_noticed(tmp_path, reader, codes, change, moved_form):
    first = voxels(1.0)
    old, new = {"qform": (first, codes[0]), "sform": (first, codes[1])}, change @ first
    save(IMAGES[0], tmp_path / "a_0000.nii.gz", first, **old)
    assert read(tmp_path, reader).notes == ()
    half = {**old, moved_form: (new, old[moved_form][1])}
    file = save(IMAGES[1], tmp_path / "a_0001.nii.gz", first, **half)
    with pytest.raises(ModalityError, match=facts(file, tmp_path / "a_0000.nii.gz", "voxels")):
        read(tmp_path, reader)
    # if both were moved alike, the grid is one, and only a note says which form counts
    save(IMAGES[0], tmp_path / "a_0000.nii.gz", first, **half)
    (first_note, second_note) = read(tmp_path, reader).notes
    assert "a_0000" in first_note and "a_0001" in second_note
    place = {"sform": half["sform"][0], "qform": half["qform"][0]}
    (word,) = {word for word in place if f"The {word} is used" in first_note}
    if reader is SimpleITKIO:
        used = np.diag([-1, -1, 1]) @ sitk.ReadImage(str(file)).GetOrigin()
    else:
        stored: Any = nibabel.load(file)
        used = stored.affine[:3, 3]
    np.testing.assert_allclose(place[word][:3, 3], used, atol=1e-4)


@pytest.mark.parametrize("reader", READERS)
def test_forms_are_compared_only_if_both_files_have_them(tmp_path, reader):
    first, template = voxels(1.0), moved(30, 0, 0) @ voxels(1.0)
    save(IMAGES[0], tmp_path / "a_0000.nii.gz", first, qform=(None, 0))
    save(IMAGES[1], tmp_path / "a_0001.nii.gz", first, sform=(None, 0))
    assert read(tmp_path, reader).notes == ()
    # the sform places the first image in a template, and the second one was written by its sform alone
    save(IMAGES[0], tmp_path / "a_0000.nii.gz", template, qform=(first, 1), sform=(template, 4))
    save(IMAGES[1], tmp_path / "a_0001.nii.gz", template, qform=(None, 0))
    if reader is SimpleITKIO:  # which takes the qform of the one, and the sform of the other
        with pytest.raises(ModalityError, match=facts("a_0000.nii.gz", "a_0001.nii.gz", "sform", "qform")):
            read(tmp_path, reader)
    else:
        (note,) = read(tmp_path, reader).notes
        assert "a_0000.nii.gz" in note and "The sform is used" in note


def test_files_with_other_units_lie_on_one_grid_for_a_reader_that_knows_units(tmp_path):
    save(IMAGES[0], tmp_path / "a_0000.nii.gz", voxels(1.0))
    file = save(IMAGES[1], tmp_path / "a_0001.nii.gz", voxels(1000.0))
    image: Any = nibabel.load(file)
    image = nibabel.Nifti1Image(np.asanyarray(image.dataobj), image.affine, image.header)
    image.header.set_xyzt_units("micron")
    nibabel.save(image, file)
    assert read(tmp_path, SimpleITKIO).notes == ()
    with pytest.raises(ModalityError, match=facts(file, "spacing")):
        read(tmp_path, NibabelIO)


@pytest.mark.parametrize("codes", ["LPS", "SAR", "PIR"])
def test_a_reader_that_reorients_compares_what_it_reoriented(tmp_path, codes):
    """The affines in the files differ by design; so do those of their two forms."""
    first = voxels(1.0)
    save(IMAGES[0], tmp_path / "a_0000.nii.gz", first)
    for array, name in ((IMAGES[1], "a_0001"), (LABELS, "label")):
        save_as(codes, array, tmp_path / f"{name}.nii.gz", first)
    images = read(tmp_path, NibabelIOWithReorient)
    np.testing.assert_array_equal(images.image, IMAGES.transpose(0, 3, 2, 1))
    labels, notes = read_segmentation_of(
        str(tmp_path / "label.nii.gz"), NibabelIOWithReorient(), str(tmp_path / "a_0000.nii.gz"), images
    )
    np.testing.assert_array_equal(labels, LABELS.transpose(2, 1, 0))
    assert notes == () == images.notes
    for reader in (SimpleITKIO, NibabelIO):
        with pytest.raises(ModalityError, match=facts("a_0001.nii.gz", "a_0000.nii.gz")):
            read(tmp_path, reader)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("codes", ["RAS", "LPS", "SAR"])
def test_axes_in_another_order_than_in_training_are_noted(tmp_path, reader, codes):
    file = save_as(codes, IMAGES[0], tmp_path / "a_0000.nii.gz", voxels(1.0))
    seen = "RAS" if reader is NibabelIOWithReorient else codes
    for training in ((), (seen,), ("PIR", seen), ("PIR", "ASL")):
        read_files = read_case([str(file)], reader(), DATASET_JSON, training)
        assert read_files.axis_codes == (seen,)
        told = [note for note in read_files.notes if seen in note and all(code in note for code in training)]
        assert len(told) == len(read_files.notes) == (training == ("PIR", "ASL"))


@pytest.mark.parametrize("axes", [(0, 1), (1, 2), (0, 2)])
def test_a_small_turn_near_45_degrees_is_no_other_order_of_axes(tmp_path, axes):
    def codes(degrees: float) -> tuple[str, ...]:
        """Of an image whose two axes are turned towards each other."""
        turn, angle = np.eye(4), np.deg2rad(degrees)
        turn[np.ix_(axes, axes)] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        affine = turn @ np.diag([1.0, 1.5, 2.0, 1.0])
        (found,) = {
            read_case([str(save(IMAGES[0], tmp_path / "a_0000.nii.gz", affine))], reader(), DATASET_JSON).axis_codes
            for reader in (SimpleITKIO, NibabelIO)
        }
        assert found[0] == "".join(nibabel.aff2axcodes(affine))
        return found

    straight, left, right, turned_by_90 = (codes(degrees) for degrees in (0, 44, 46, 90))
    assert len(straight) == len(turned_by_90) == len(codes(30)) == len(codes(60)) == 1
    assert left[0] == straight[0] != turned_by_90[0] == right[0]
    assert {*left} == {*right} == {straight[0], turned_by_90[0]}
    for training in (left[:1], right[:1]):  # as the plans hold them
        assert axes_notes("a", left, training) == () == axes_notes("a", right, training)
    assert axes_notes("a", codes(60), straight) and axes_notes("a", codes(30), turned_by_90)


def test_a_format_without_positions_is_compared_by_shape_and_spacing():
    grids = [Grid.of(ReadFile("a", (4, 5, 6), {"spacing": spacing})) for spacing in ((3, 1, 1), (3, 1, 1.02))]
    assert grids[0].shift(grids[1])[0] == pytest.approx(5 * 0.02) and grids[0].shift(grids[0]) == (0, 0)
    assert grids[0].axis_codes == ()


def test_a_shift_is_in_the_smaller_voxels_whichever_file_comes_first():
    thick, thin = (
        ReadFile(
            f"{spacing}.mha",
            (1, 5, 6),
            {
                "spacing": (spacing, 1, 1),
                "sitk_stuff": {"spacing": (1, 1, spacing), "origin": (0, 0, origin), "direction": np.eye(3).ravel()},
            },
        )
        for spacing, origin in ((5.0, 0.0), (1.0, 0.2))
    )
    for first, other in ((thick, thin), (thin, thick)):
        assert Grid.of(first).shift(Grid.of(other)) == (pytest.approx(0.2), pytest.approx(0.2))
        with pytest.raises(ModalityError, match=facts(first.file, other.file, "0.2 voxels")):
            require_same_geometry(first, other)


@pytest.mark.parametrize("spacing", [(0.0, 1.0, 1.0), (1.0, np.nan, 1.0), (1.0, -1.0, 1.0)])
def test_voxels_without_a_size_are_refused(spacing):
    with pytest.raises(ModalityError, match=facts("a.tif", "spacing")):
        Grid.of(ReadFile("a.tif", (4, 5, 6), {"spacing": spacing}))


@pytest.mark.parametrize("reader", READERS)
def test_a_position_that_is_lost_in_rounding_is_refused(tmp_path, reader):
    file = save(IMAGES[0], tmp_path / "a_0000.nii.gz", moved(0, 0, 1e30) @ voxels(1.0))
    with pytest.raises(ModalityError, match=facts(file, "1e+30 mm")):
        read(tmp_path, reader)


def test_two_dimensional_images_are_compared_too(tmp_path):
    for name, origin in (("a_0000", (0, 0)), ("a_0001", (0, 0.5))):
        image = sitk.GetImageFromArray(IMAGES[0, 0])
        image.SetOrigin(origin)
        sitk.WriteImage(image, str(tmp_path / f"{name}.mha"))
    files = {0: str(tmp_path / "a_0000.mha"), 1: str(tmp_path / "a_0001.mha")}
    with pytest.raises(ModalityError, match=facts("a_0001.mha", "origin", "0.5 voxels")):
        read_channels(SimpleITKIO(), files, ["T1w", "FLAIR"])


@pytest.mark.parametrize("reader", [SimpleITKIO, NibabelIO, NibabelIOWithReorient])
def test_the_placements_of_each_file_are_read_only_once(tmp_path, reader, monkeypatch):
    files = {channel: str(tmp_path / f"a_{channel:04d}.nii.gz") for channel in range(3)}
    voxels = np.random.default_rng(0).normal(100, 20, (3, 6, 5, 4)).astype(np.float32)
    for channel, file in files.items():
        nibabel.save(nibabel.Nifti1Image(voxels[channel], np.diag([2.0, 3.0, 4.0, 1.0])), file)
    read, real = [], geometry.stored_forms
    monkeypatch.setattr(geometry, "stored_forms", lambda file, **more: read.append(file) or real(file, **more))
    assert read_channels(reader(), files, ["CT", "PET", "T1"]).available == (True, True, True)
    assert sorted(read) == sorted(files.values())


def test_files_on_other_grids_can_be_aligned_by_commands_and_containers(tmp_path):
    files = [str(tmp_path / f"{number}.nii.gz") for number in range(2)]
    for file, size in zip(files, (SIZE, SIZE[::-1]), strict=True):
        nibabel.save(nibabel.Nifti1Image(np.ones(size, np.float32), np.eye(4)), file)
    first, other = (ReadFile(file, *_read(file)) for file in files)
    said = re.escape("(see --align) or a container (see align in its mapping.json) do it.")
    with pytest.raises(ModalityError, match=f"{said}$"):
        require_same_geometry(first, other)


def _read(file: str) -> tuple[tuple[int, ...], dict[str, Any]]:
    array, properties = SimpleITKIO().read_images([file])
    return array.shape[1:], properties
