"""Grids are compared alike in both orders, and wherever the world has its origin, axes and unit."""

from itertools import product

import nibabel
import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from nnunet_moe.errors import ModalityError
from nnunet_moe.images.geometry import ROUNDED, TOLERANCE, Grid, ReadFile, require_same_geometry

TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
LENGTHS = st.sampled_from([0.001, 0.5, 1.0, 3.0, 40.0])
SMALL = st.one_of(st.just(0.0), st.floats(-0.05, 0.05), st.floats(-1, 1))


def numbers(strategy: st.SearchStrategy[float], number: int = 3) -> st.SearchStrategy[np.ndarray]:
    return st.lists(strategy, min_size=number, max_size=number).map(np.array)


def rotation(quaternion: np.ndarray) -> np.ndarray:
    """The rotation matrix of a unit quaternion, as an affine."""
    affine = np.eye(4)
    affine[:3, :3] = nibabel.quaternions.quat2mat(quaternion / np.linalg.norm(quaternion))
    return affine


def moved(by: np.ndarray) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, 3] = by
    return affine


ROTATIONS = numbers(st.floats(-1, 1), 4).filter(lambda given: np.linalg.norm(given) > 0.1).map(rotation)


def affine_of(turn, spacing, origin, axes, flips) -> np.ndarray:
    return turn @ moved(origin) @ np.diag([*spacing, 1])[:, [*axes, 3]] @ np.diag([*flips, 1])


AFFINES = st.builds(
    affine_of,
    st.one_of(st.just(np.eye(4)), ROTATIONS),
    numbers(LENGTHS),
    numbers(st.floats(-100, 100)),
    st.permutations([0, 1, 2]),
    numbers(st.sampled_from([-1.0, 1.0])),
)
SIZES = st.tuples(*[st.sampled_from([1, 2, 5, 60])] * 3)


@st.composite
def pairs(draw):
    """A number of voxels and two affines that differ little: in the origin, the rotation and the spacing."""
    size, affine = draw(SIZES), draw(AFFINES)
    steps, scale = draw(numbers(SMALL)), draw(numbers(SMALL))
    turn = rotation(np.array([1, *(0.01 * draw(numbers(SMALL)))]))
    return size, affine, affine @ moved(steps) @ turn @ np.diag([*np.exp(draw(st.sampled_from([0.01, 1])) * scale), 1])


def read(name: str, size: tuple[int, ...], affine: np.ndarray) -> ReadFile:
    """What nnU-Net's reader would return for an image that ITK reads."""
    lps = TO_RAS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    stuff = {"spacing": spacing, "origin": lps[:3, 3], "direction": (lps[:3, :3] / spacing).ravel()}
    return ReadFile(f"{name}.mha", size[::-1], {"spacing": spacing[::-1], "sitk_stuff": stuff})


def is_accepted(first: ReadFile, other: ReadFile) -> bool:
    try:
        require_same_geometry(first, other)
    except ModalityError as error:
        assert first.file in str(error) and other.file in str(error)
        return False
    return True


def shift(size: tuple[int, ...], first: np.ndarray, other: np.ndarray) -> float:
    """By how many voxels of the first affine the corners of the other one are moved, or its length along an axis."""
    corners = np.array([(*corner, 1) for corner in product(*[(0, number - 1) for number in size])]).T
    spacing = [np.linalg.norm(affine[:3, :3], axis=0) for affine in (first, other)]
    longer = np.abs(spacing[1] - spacing[0]) / spacing[0] * (np.array(size) - 1)
    return max(np.abs(np.linalg.inv(first) @ (other - first) @ corners)[:3].max(), longer.max())


@given(pairs())
def test_grids_are_compared_by_the_shift_of_their_affines_in_both_orders(pair):
    size, first, other = pair
    files = read("a", size, first), read("b", size, other)
    expected = max(shift(size, first, other), shift(size, other, first))
    found = [Grid.of(files[0]).shift(Grid.of(files[1]))[0], Grid.of(files[1]).shift(Grid.of(files[0]))[0]]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    assume(min(abs(expected - TOLERANCE), abs(expected - ROUNDED)) > 1e-6)
    assert is_accepted(*files) == is_accepted(*files[::-1]) == (expected <= ROUNDED)
    if expected <= ROUNDED:
        assert (require_same_geometry(*files) is None) == (expected <= TOLERANCE)


@given(pairs(), ROTATIONS, numbers(st.floats(-100, 100)), LENGTHS)
def test_a_common_motion_or_unit_changes_no_shift(pair, turn, by, unit):
    size, *affines = pair
    world = np.diag([unit] * 3 + [1.0]) @ moved(by) @ turn
    here = [Grid.of(read("a", size, affine)) for affine in affines]
    there = [Grid.of(read("a", size, world @ affine)) for affine in affines]
    (voxels, mm), (moved_voxels, moved_mm) = here[0].shift(here[1]), there[0].shift(there[1])
    np.testing.assert_allclose(moved_voxels, voxels, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(moved_mm, unit * mm, rtol=1e-5, atol=unit * 1e-8)


@given(SIZES, AFFINES)
def test_axis_codes_are_those_of_nibabel_and_a_grid_lies_on_itself(size, affine):
    grid = Grid.of(read("a", size, affine))
    assert grid.axis_codes[0] == "".join(nibabel.aff2axcodes(affine))
    for codes in grid.axis_codes[1:]:  # the axes of the body to which they point are less than 55 degrees away
        for step, letter in zip(grid.matrix.T, codes, strict=True):
            axis = {"R": (1, 0, 0), "L": (-1, 0, 0), "A": (0, 1, 0), "P": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}
            assert np.degrees(np.arccos(np.dot(step, axis[letter]) / np.linalg.norm(step))) < 55.001
    assert grid.shift(grid) == (0, 0) and grid.differences(grid) == ""


@given(SIZES, SIZES, AFFINES)
def test_other_numbers_of_voxels_are_never_the_same_grid(size, other, affine):
    assert is_accepted(read("a", size, affine), read("b", other, affine)) == (size == other)
