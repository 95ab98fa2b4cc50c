"""A registration finds the motion of a patient, and is refused where it cannot be right."""

import numpy as np
import pytest
import SimpleITK as sitk
from made_grids import STRAIGHT
from scipy.ndimage import gaussian_filter

from nnunet_moe.images.alignment.case import align_case
from nnunet_moe.images.alignment.registration import mean_shift, register, turn
from nnunet_moe.images.alignment.resampling import resampled
from nnunet_moe.images.alignment.settings import AlignmentSettings
from nnunet_moe.images.alignment.volumes import Space, Volume

pytestmark = pytest.mark.slow
SPACE = Space((22, 20, 18), (3.0, 3.0, 3.0), (-10.0, 5.0, 20.0), STRAIGHT)
RIGID = AlignmentSettings(align="rigid")


def patient(seed: int) -> np.ndarray:
    """A body with tissues in many shapes, `(z, y, x)`, for each seed another one."""
    random = np.random.default_rng(seed)
    radii = random.uniform(17, 25, 3)
    noise = gaussian_filter(random.normal(size=SPACE.size[::-1]), 2.7)
    index = np.stack(np.meshgrid(*map(np.arange, SPACE.size), indexing="ij"), -1)
    far = np.linalg.norm((SPACE.points(index) - np.array(SPACE.center)) / radii, axis=-1).swapaxes(0, 2)
    return np.where(far < 1, 1 + np.digitize(noise / noise.std(), [-0.7, 0, 0.7]), 0)


def scan(tmp_path, name: str, tissue: np.ndarray, gray, motion=None, onto: Space = SPACE) -> Volume:
    """An image with a gray value for each tissue, of the patient after a motion."""
    image = SPACE.image(np.take(gray, tissue).astype(np.float32))
    if motion is not None:
        image = resampled(image, onto, motion)
    array = sitk.GetArrayFromImage(image)
    array += np.random.default_rng(len(name)).normal(0, 2, array.shape).astype(np.float32)
    sitk.WriteImage(onto.image(array), str(tmp_path / f"{name}.nii.gz"))
    return Volume.of_file(name, str(tmp_path / f"{name}.nii.gz"), [])


def known_motion() -> np.ndarray:
    turned = sitk.Euler3DTransform(SPACE.center, 0.1, -0.15, 0.12, (6.0, -4.0, 5.0))
    motion = np.eye(4)
    motion[:3, :3] = np.reshape(turned.GetMatrix(), (3, 3))
    motion[:3, 3] = turned.TransformPoint((0.0, 0.0, 0.0))
    return motion


GRAYS = (0, 40, 80, 120, 160), (0, 150, 30, 90, 60)


@pytest.fixture
def reference(tmp_path):
    return scan(tmp_path, "T1w", patient(0), GRAYS[0])


@pytest.mark.parametrize("thickness", [3.0, 4.5])
def test_a_known_motion_is_found(reference, tmp_path, thickness):
    onto = Space((22, 20, round(18 * 3 / thickness)), (3.0, 3.0, thickness), SPACE.origin, STRAIGHT)
    motion = known_motion()
    moved = scan(tmp_path, "FLAIR", patient(0), GRAYS[1], motion, onto)
    case = align_case({"T1w": reference.file, "FLAIR": moved.file}, {"FLAIR": tmp_path / "new.nii.gz"}, RIGID)
    found = case.alignments["FLAIR"]
    assert found.how == "registered" and found.similarity[1] > found.similarity[0] and case.notes == ()
    assert mean_shift(reference, motion @ found.motion) < 1 < 5 < mean_shift(reference, motion)
    assert found.angle == turn(found.motion)
    expected = resampled(moved.image, SPACE, found.motion)
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(case.files["FLAIR"])), sitk.GetArrayFromImage(expected))


def test_images_without_motion_are_used_as_they_are(reference, tmp_path):
    other = scan(tmp_path, "FLAIR", patient(0), GRAYS[1])
    case = align_case({"T1w": reference.file, "FLAIR": other.file}, {}, RIGID)
    assert case.files == {"T1w": reference.file, "FLAIR": other.file}
    assert case.alignments["FLAIR"].how == "unchanged" and case.alignments["FLAIR"].similarity is not None


def test_files_of_one_frame_of_reference_move_together(reference, tmp_path):
    motion = known_motion()
    moved = {name: scan(tmp_path, name, patient(0), GRAYS[1], motion) for name in ("FLAIR", "T2")}
    files = {"T1w": reference.file, **{name: volume.file for name, volume in moved.items()}}
    targets = {name: tmp_path / f"new_{name}.nii.gz" for name in moved}
    frames = {"FLAIR": "1.2.3", "T2": "1.2.3"}
    together = align_case(files, targets, RIGID, frames).alignments
    assert np.array_equal(together["FLAIR"].motion, together["T2"].motion)
    with_reference = align_case(files, targets, RIGID, {**frames, "T1w": "1.2.3"})
    assert with_reference.files == files  # all in one frame: no motion, but the images show that there was one
    for name, volume in moved.items():
        (note,) = with_reference.notes_on[name]
        assert all(said in note for said in (volume.file, "frame of reference of T1w", "few details", "rigid_all"))
        before, after = with_reference.alignments[name].similarity or (0, 1)
        assert before == after  # nothing moved
    assert before > 0


def test_files_of_one_frame_of_reference_that_fit_have_a_short_note(reference, tmp_path):
    other = scan(tmp_path, "FLAIR", patient(0), GRAYS[1])
    case = align_case({"T1w": reference.file, "FLAIR": other.file}, {}, RIGID, {"T1w": "1.2", "FLAIR": "1.2"})
    (note,) = case.notes_on["FLAIR"]
    assert "frame of reference of T1w" in note and "rigid_all" not in note


def test_all_files_are_registered_on_request(reference, tmp_path):
    moved = scan(tmp_path, "FLAIR", patient(0), GRAYS[1], known_motion())
    files, every = {"T1w": reference.file, "FLAIR": moved.file}, AlignmentSettings(align="rigid_all")
    case = align_case(files, {"FLAIR": tmp_path / "new.nii.gz"}, every, {"T1w": "1.2", "FLAIR": "1.2"})
    assert case.alignments["FLAIR"].how == "registered" and case.notes == ()


def test_images_of_different_patients_are_not_registered_and_said_so(reference, tmp_path):
    other = scan(tmp_path, "FLAIR", patient(1), GRAYS[1], known_motion())
    case = align_case({"T1w": reference.file, "FLAIR": other.file}, {"FLAIR": tmp_path / "new.nii.gz"}, RIGID)
    assert case.alignments["FLAIR"].how == "unchanged"
    (note,) = case.notes
    assert other.file in note and "was not registered to T1w" in note


def test_an_image_of_few_slices_is_not_registered(reference, tmp_path):
    onto = Space((22, 20, 1), (3.0, 3.0, 5.0), (-10.0, 5.0, 45.0), STRAIGHT)
    found = register(reference, scan(tmp_path, "FLAIR", patient(0), GRAYS[1], np.eye(4), onto), 0.5)
    assert found.problem is not None and "slices" in found.problem


def test_a_registration_that_leaves_the_image_in_place_is_no_problem(reference):
    found = register(reference, reference, 0.5)
    assert found.problem is None and np.array_equal(found.motion, np.eye(4)) and found.after == found.before
