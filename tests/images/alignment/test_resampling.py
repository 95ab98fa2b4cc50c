"""Resampling by positions: exact where linear interpolation is exact, smoothed where voxels become larger."""

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.special import ive

from nnunet_moe.images.alignment.resampling import AIR, IDENTITY, covered, fill_value, resampled, resampled_labels
from nnunet_moe.images.alignment.volumes import Space

TURNED = sitk.Euler3DTransform((0, 0, 0), 0.3, -0.2, 0.5, (0, 0, 0)).GetMatrix()
HERE = Space((9, 10, 11), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0))
INSIDE = Space((5, 4, 6), (0.7, 0.6, 0.5), (3.0, 4.0, 3.0), TURNED)


def positions(space: Space) -> np.ndarray:
    """Positions `(z, y, x, 3)` of all voxels."""
    return space.points(np.stack(np.meshgrid(*map(np.arange, space.size), indexing="ij"), -1)).swapaxes(0, 2)


def linear(space: Space) -> sitk.Image:
    return space.image((positions(space) @ [2.0, -3.0, 0.5] + 7).astype(np.float32))


def motion(angle: float, *shift: float) -> np.ndarray:
    """A turn about z, in radians, and a shift."""
    moved = np.eye(4)
    moved[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    moved[:3, 3] = shift
    return moved


def test_an_image_on_the_same_grid_is_unchanged():
    image = HERE.image(np.random.default_rng(0).normal(size=HERE.size[::-1]).astype(np.float32))
    assert np.array_equal(sitk.GetArrayFromImage(resampled(image, HERE)), sitk.GetArrayFromImage(image))


@pytest.mark.parametrize("moved", [IDENTITY, motion(0.1, 0.5, -0.3, 0.2)])
def test_a_linear_image_is_exact_at_any_position(moved):
    found = sitk.GetArrayFromImage(resampled(linear(HERE), INSIDE, moved))
    there = positions(INSIDE) @ moved[:3, :3].T + moved[:3, 3]
    np.testing.assert_allclose(found, there @ [2.0, -3.0, 0.5] + 7, atol=1e-4)


@pytest.mark.parametrize("moved", [IDENTITY, motion(0.4, 3.0, -2.0, 1.0)])
def test_which_voxels_an_image_covers_is_what_itk_says(moved):
    small = Space((4, 5, 3), (1.5, 1.1, 2.0), (2.0, 1.0, 3.0), TURNED)
    image = sitk.Image(list(small.size), sitk.sitkUInt8)
    image.SetSpacing(small.spacing)
    image.SetOrigin(small.origin)
    image.SetDirection(small.direction)
    there = positions(HERE) @ moved[:3, :3].T + moved[:3, 3]
    indices = np.array(
        [image.TransformPhysicalPointToContinuousIndex(point.tolist()) for point in there.reshape(-1, 3)]
    )
    expected = ((indices >= -0.5) & (indices <= np.array(small.size) - 0.5)).all(1).reshape(there.shape[:3])
    found = covered(small, HERE, moved)
    assert np.array_equal(found, expected) and 0 < found.mean() < 1


def test_outside_of_an_image_ct_is_air_and_others_are_zero():
    assert (fill_value("CT"), fill_value("ct"), fill_value("T1w"), fill_value("CTA")) == (AIR, AIR, 0, 0)
    beside = Space(HERE.size, HERE.spacing, (4.0, 0.0, 0.0), HERE.direction)
    found = sitk.GetArrayFromImage(resampled(linear(HERE), beside, fill=AIR))
    assert np.array_equal(found == AIR, ~covered(HERE, beside)) and (found == AIR).any()


LINE = Space((41, 4, 4), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), HERE.direction)
COARSE_LINE = Space((9, 4, 4), (4.0, 1.0, 1.0), (4.0, 0.0, 0.0), HERE.direction)


def test_what_larger_voxels_cannot_show_is_averaged_and_not_aliased():
    stripes = LINE.image(np.tile((np.arange(41) % 2).astype(np.float32), (4, 4, 1)))
    inside = sitk.GetArrayFromImage(resampled(stripes, COARSE_LINE))[:, :, 1:-1]
    np.testing.assert_allclose(inside, 0.5, atol=0.01)
    constant = LINE.image(np.full(LINE.size[::-1], 3.0, dtype=np.float32))
    np.testing.assert_allclose(sitk.GetArrayFromImage(resampled(constant, COARSE_LINE)), 3, atol=1e-5)


def test_the_width_of_the_filter_is_that_of_the_larger_voxel():
    """A point becomes a discrete Gaussian, whose variance follows from the difference of the widths at half maximum."""
    point = np.zeros(LINE.size[::-1], dtype=np.float32)
    point[:, :, 20] = 1
    shown = sitk.GetArrayFromImage(resampled(LINE.image(point), COARSE_LINE))[2, 2]
    distances = np.abs(4 + 4 * np.arange(9) - 20)
    np.testing.assert_allclose(shown, ive(distances, (4**2 - 1**2) / (8 * np.log(2))), atol=2e-3)


def test_labels_that_move_by_whole_voxels_are_shifted():
    labels = np.random.default_rng(1).choice([0, 2, 7, 300], size=HERE.size[::-1]).astype(np.int16)
    assert np.array_equal(resampled_labels(labels, HERE, HERE), labels)
    moved = resampled_labels(labels, HERE, HERE, motion(0, 2, 0, 0))
    assert np.array_equal(moved[:, :, :-2], labels[:, :, 2:]) and not moved[:, :, -2:].any()
    assert moved.dtype == labels.dtype


def test_a_thin_label_survives_as_the_largest_share():
    """With larger voxels, each takes the label that fills most of it."""
    labels = np.zeros(HERE.size[::-1], dtype=np.int16)
    labels[:, :, 3:7] = 5
    coarse = Space((2, 10, 11), (4.0, 1.0, 1.0), (0.5, 0.0, 0.0), HERE.direction)
    assert np.array_equal(resampled_labels(labels, HERE, coarse)[5, 5], [0, 5])
