"""Find the rigid motion between two images of a patient by their mutual information, and check it.

Mutual information is estimated as by Mattes et al. (IEEE Trans. Med. Imaging 2003), in a pyramid of resolutions, from
several starts. The optimizer is SimpleITK's. All lengths follow from the sizes of the images, so that images of
micrometers work, too.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from nnunet_moe.images.alignment.resampling import as_transform, covered, smoothed
from nnunet_moe.images.alignment.volumes import Space, Volume

COARSE, MIDDLE, FINE = 30, 60, 120
"""Voxels along an image's edge at the levels of the pyramid."""
START_ANGLE = 10.0
"""Degrees by which the starts are turned about each axis."""
LARGEST_ANGLE = 45.0
"""Degrees. Patients are not scanned with larger turns against each other."""
HALF_A_VOXEL = 0.5
"""Voxels of the moved image by which the registrations in both directions may differ."""
FEWEST_SLICES = 4
LEAST_PEAK = 0.2
"""The least height of the peak of similarity, see `_peak`. Two MR images of a patient reach 0.5, those of two patients
0.13 at most, see the lab note on alignment."""
_BINS = 32
_ITERATIONS, _RELAXATION = 100, 0.8
_SAMPLES = 90_000
"""The most voxels of an image that the optimizer compares."""


@dataclass(frozen=True)
class Registration:
    """The result of a registration."""

    motion: np.ndarray
    """`(4, 4)`, maps positions in the reference to positions in the other image, in mm."""
    before: float
    """Mutual information only by the headers, in nats."""
    after: float
    """Mutual information with the motion, in nats."""
    problem: str | None
    """Why the motion must not be used; None if it can be."""


def register(reference: Volume, moving: Volume, least_covered: float) -> Registration:
    """Find the rigid motion of an image against the reference.

    Args:
        reference: the image that stays.
        moving: the other image.
        least_covered: the share of the reference's foreground that the moved image must cover.
    """
    if (problem := _too_few_slices(reference, moving)) is not None:
        return Registration(np.eye(4), 0.0, 0.0, problem)
    fixed, other = _Pyramid(reference), _Pyramid(moving)
    motion = _refined(fixed, other, _best_start(fixed, other), (MIDDLE, FINE))
    before, after = _similarity(fixed, other, np.eye(4)), _similarity(fixed, other, motion)
    if np.array_equal(motion, np.eye(4)):  # the headers are right
        return Registration(motion, before, after, None)
    apart = mean_shift(reference, _refined(other, fixed, _best_start(other, fixed), (MIDDLE,)) @ motion)
    if after <= before:
        problem = f"the images are not more similar with it ({after:.3f} after {before:.3f} nats)"
    elif turn(motion) > LARGEST_ANGLE:
        problem = f"it would turn the image by {turn(motion):.0f} degrees"
    elif share_covered(reference, moving.space, motion) < least_covered:
        problem = "the images would hardly overlap"
    elif apart > max(moving.space.extent / FINE, HALF_A_VOXEL * moving.space.voxel):
        problem = f"registered in the other direction, the images end up {apart:.2g} mm away from it"
    elif (peak := _peak(fixed, other, motion)) < LEAST_PEAK:
        problem = f"the images share too few details ({peak:.2f}), and may show different patients"
    else:
        problem = None
    return Registration(motion, before, after, problem)


def compare(reference: Volume, other: Volume) -> Registration:
    """Return how similar two images are by their headers, without looking for a motion.

    Args:
        reference, other: the images.

    Returns:
        No motion, and as its problem why the positions in the headers may be wrong.
    """
    if (problem := _too_few_slices(reference, other)) is not None:
        return Registration(np.eye(4), 0.0, 0.0, problem)
    fixed, moving = _Pyramid(reference), _Pyramid(other)
    value, peak = _similarity(fixed, moving, np.eye(4)), _peak(fixed, moving, np.eye(4))
    problem = None if peak >= LEAST_PEAK else f"the images share few details at these positions ({peak:.2f})"
    return Registration(np.eye(4), value, value, problem)


def _too_few_slices(*volumes: Volume) -> str | None:
    """Return the problem of images that have too few slices to be compared."""
    few = (volume.modality for volume in volumes if min(volume.image.GetSize()) < FEWEST_SLICES)
    return next((f"{modality} has fewer than {FEWEST_SLICES} slices" for modality in few), None)


def share_covered(reference: Volume, space: Space, motion: np.ndarray) -> float:
    """Return the share of the reference's foreground that an image covers.

    Args:
        reference: the reference.
        space: the grid of the image.
        motion: as in `Registration`.
    """
    return float(covered(space, reference.space, motion)[reference.foreground].mean())


def mean_shift(reference: Volume, motion: np.ndarray) -> float:
    """Return how far a motion moves the voxels of the reference's foreground, in the mean, in mm."""
    indices = np.argwhere(reference.foreground)[:, ::-1]
    points = reference.space.points(indices[:: max(1, len(indices) // 1000)])
    return float(np.linalg.norm(points @ motion[:3, :3].T + motion[:3, 3] - points, axis=1).mean())


def turn(motion: np.ndarray) -> float:
    """Return the angle of a rotation, in degrees."""
    return float(np.degrees(np.arccos(np.clip((np.trace(motion[:3, :3]) - 1) / 2, -1, 1))))


class _Pyramid:
    """An image at several resolutions.

    Args:
        volume: the image.
    """

    def __init__(self, volume: Volume) -> None:
        lowest, highest = np.percentile(volume.array, (0.5, 99.5)).tolist()
        self._image = sitk.Clamp(volume.image, sitk.sitkFloat32, lowest, highest)
        self._levels: dict[int, sitk.Image] = {}
        self.space = volume.space

    def level(self, num_voxels: int) -> sitk.Image:
        """Return the image with at most about this number of voxels along its edge."""
        if num_voxels not in self._levels:
            self._levels[num_voxels] = _shrunk(self._image, self.space.extent / num_voxels)
        return self._levels[num_voxels]


def _shrunk(image: sitk.Image, voxel: float) -> sitk.Image:
    """Smooth and shrink an image to voxels of about this size in mm, but not below `FEWEST_SLICES` slices."""
    spacing, size = np.array(image.GetSpacing()), np.array(image.GetSize())
    factors = np.clip((voxel / spacing + 1e-3).astype(int), 1, size // FEWEST_SLICES)
    return sitk.Shrink(smoothed(image, spacing * factors, largest_error=1e-2), factors.tolist())


def _method(fixed: sitk.Image) -> sitk.ImageRegistrationMethod:
    """Return the optimization with steps up to one voxel of a level. One thread, so that it can be repeated."""
    voxel, share = Space.of(fixed).voxel, min(1.0, _SAMPLES / fixed.GetNumberOfPixels())
    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(1)
    method.SetMetricAsMattesMutualInformation(_BINS)
    if share < 1:
        method.SetMetricSamplingStrategy(method.RANDOM)
        method.SetMetricSamplingPercentage(share, 1)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(voxel, voxel / 100, _ITERATIONS, _RELAXATION, 1e-8)
    method.SetOptimizerScalesFromPhysicalShift()
    return method


def _optimized(fixed: sitk.Image, moving: sitk.Image, start: np.ndarray) -> np.ndarray:
    """Return the motion that the optimizer reaches from a start, or the start if that is better."""
    transform = _as_rigid(start, Space.of(fixed).center)
    method = _method(fixed)
    method.SetInitialTransform(transform, inPlace=True)
    try:
        method.Execute(fixed, moving)
    except RuntimeError:  # too few voxels of the one lie in the other
        return start
    reached = _as_matrix(transform)
    return reached if _value(fixed, moving, reached) > _value(fixed, moving, start) else start


def _best_start(fixed: _Pyramid, moving: _Pyramid) -> np.ndarray:
    """Return the best of the motions that the coarsest level reaches from the starts, or none if that is the best."""
    still, other = fixed.level(COARSE), moving.level(COARSE)
    found = [np.eye(4), *(_refined(fixed, moving, start, (COARSE,)) for start in _starts(still, other))]
    return max(found, key=lambda motion: _value(still, other, motion))


def _refined(fixed: _Pyramid, moving: _Pyramid, motion: np.ndarray, levels: tuple[int, ...]) -> np.ndarray:
    for level in levels:
        motion = _optimized(fixed.level(level), moving.level(level), motion)
    return motion


def _starts(fixed: sitk.Image, moving: sitk.Image) -> Iterator[np.ndarray]:
    """Yield motions to start from: by the headers and by the centers of mass, each turned about each axis."""
    centered = sitk.CenteredTransformInitializer(
        fixed, moving, sitk.Euler3DTransform(), sitk.CenteredTransformInitializerFilter.MOMENTS
    )
    angle, center = np.radians(START_ANGLE), Space.of(fixed).center
    for base in (np.eye(4), _as_matrix(sitk.Euler3DTransform(centered))):
        for axis, sign in ((0, 0), *((axis, sign) for axis in range(3) for sign in (1, -1))):
            angles = [0.0, 0.0, 0.0]
            angles[axis] = sign * angle
            turned = sitk.Euler3DTransform()
            turned.SetCenter(center)
            turned.SetRotation(*angles)
            yield base @ _as_matrix(turned)


def _similarity(fixed: _Pyramid, moving: _Pyramid, motion: np.ndarray) -> float:
    """Return the mutual information of voxels that both images have, in nats."""
    return _value(fixed.level(MIDDLE), moving.level(MIDDLE), motion)


def _peak(fixed: _Pyramid, moving: _Pyramid, motion: np.ndarray) -> float:
    """Return how much more similarity is lost by a small shift of the registered images than at least must be.

    It is the lost share of the mutual information, divided by the lost share if an image is compared with itself; of
    both images, the smoother one counts. Images of one patient share details and lose much. Those of different patients
    share only their outlines.
    """
    step = min(fixed.space.extent, moving.space.extent) / MIDDLE
    own = min(_lost(image, image, np.eye(4), step) for image in (fixed, moving))
    return _lost(fixed, moving, motion, step) / own if own > 0 else 0.0


def _lost(fixed: _Pyramid, moving: _Pyramid, motion: np.ndarray, step: float) -> float:
    """Return the share of the mutual information that is lost by a shift along any axis, in the mean."""
    shifted = []
    for axis in range(3):
        for sign in (1, -1):
            shift = np.eye(4)
            shift[axis, 3] = sign * step
            shifted.append(_similarity(fixed, moving, shift @ motion))
    best = _similarity(fixed, moving, motion)
    return 1 - float(np.mean(shifted)) / best if best > 0 else 0.0


def _value(fixed: sitk.Image, moving: sitk.Image, motion: np.ndarray) -> float:
    method = _method(fixed)
    method.SetInitialTransform(as_transform(motion))
    try:
        return -method.MetricEvaluate(fixed, moving)
    except RuntimeError:  # too few voxels of the one lie in the other
        return 0.0


def _as_rigid(motion: np.ndarray, center: tuple[float, float, float]) -> sitk.Euler3DTransform:
    """Return a motion as ITK's transform that turns about a center."""
    transform = sitk.Euler3DTransform()
    transform.SetCenter(center)
    transform.SetMatrix(motion[:3, :3].ravel().tolist(), tolerance=1e-6)
    transform.SetTranslation((motion[:3, :3] @ center + motion[:3, 3] - center).tolist())
    return transform


def _as_matrix(transform: sitk.Euler3DTransform) -> np.ndarray:
    motion = np.eye(4)
    motion[:3, :3] = np.reshape(transform.GetMatrix(), (3, 3))
    motion[:3, 3] = transform.TransformPoint((0.0, 0.0, 0.0))
    return motion
