"""Resample images and segmentations onto another grid."""

import numpy as np
import SimpleITK as sitk

from nnunet_moe.images.alignment.volumes import Space

AIR = -1000.0
"""The value of air in CT, in Hounsfield units."""
IDENTITY = np.eye(4)
_WIDTH_AND_SIGMA = 8 * np.log(2)
"""Squared ratio of a Gaussian's full width at half maximum to its standard deviation."""


def fill_value(modality: str) -> float:
    """Return the value for voxels outside of an image: air for CT, 0 for all others.

    CT is a modality that nnU-Net normalizes as CT, because its name is CT in any case of letters.
    """
    return AIR if modality.casefold() == "ct" else 0.0


def resampled(image: sitk.Image, onto: Space, motion: np.ndarray = IDENTITY, fill: float = 0.0) -> sitk.Image:
    """Resample an image linearly, with a low-pass filter along axes that become coarser.

    Args:
        image: float32.
        onto: the grid of the result.
        motion: `(4, 4)`, maps positions on the grid of the result to positions in the image, in mm.
        fill: the value outside of the image.

    Returns:
        float32.
    """
    grid = onto.origin, onto.spacing, onto.direction
    how = as_transform(motion), sitk.sitkLinear, *grid, fill, sitk.sitkFloat32
    return sitk.Resample(_smoothed(image, onto, motion), onto.size, *how)


def covered(space: Space, onto: Space, motion: np.ndarray = IDENTITY) -> np.ndarray:
    """Return which voxels of a grid lie inside of an image.

    Args:
        space: the grid of the image.
        onto: the other grid.
        motion: as in `resampled`.

    Returns:
        `(z, y, x)` of `onto`, bool. An image ends half a voxel outside of its outermost voxels' centers.
    """
    inverse = np.linalg.inv(space.steps)
    to_index = inverse @ motion[:3, :3] @ onto.steps
    first = inverse @ (motion[:3, :3] @ np.array(onto.origin) + motion[:3, 3] - np.array(space.origin))
    x, y, z = (np.arange(number) for number in onto.size)
    inside = np.ones(onto.size[::-1], dtype=bool)
    for axis in range(3):
        index = (
            first[axis] + to_index[axis, 0] * x + to_index[axis, 1] * y[:, None] + to_index[axis, 2] * z[:, None, None]
        )
        inside &= (index >= -0.5 - 1e-6) & (index <= space.size[axis] - 0.5 + 1e-6)
    return inside


def resampled_labels(labels: np.ndarray, space: Space, onto: Space, motion: np.ndarray = IDENTITY) -> np.ndarray:
    """Resample a segmentation: each label as an image of 0 and 1, and each voxel gets the label with the largest share.

    Args:
        labels: `(z, y, x)`, whole numbers.
        space: the grid of the labels.
        onto: the grid of the result.
        motion: as in `resampled`.

    Returns:
        Labels `(z, y, x)` on the other grid, of the same type. Outside of the segmentation they are 0.
    """
    result = np.zeros(onto.size[::-1], dtype=labels.dtype)
    largest = np.full(result.shape, -1, dtype=np.float32)
    for label in np.unique(np.append(labels, 0)):
        mask = space.image((labels == label).astype(np.float32))
        share = sitk.GetArrayFromImage(resampled(mask, onto, motion, fill=float(label == 0)))
        wins = share > largest
        result[wins], largest[wins] = label, share[wins]
    return result


def smoothed(image: sitk.Image, widths: np.ndarray, *, largest_error: float) -> sitk.Image:
    """Smooth an image before its voxels become larger.

    The variances are those of Gaussians whose widths at half maximum are the sizes of the voxels: what the wider one
    adds to the narrower one.

    Args:
        image: the image.
        widths: the new size of the voxels along each axis `(3,)`, in mm.
        largest_error: the part of the Gaussian that may be cut off.
    """
    spacing = np.array(image.GetSpacing())
    variance = np.maximum(widths**2 - spacing**2, 0) / _WIDTH_AND_SIGMA
    variance[variance < (0.1 * spacing) ** 2] = 0  # less than rounding of the spacing
    if not variance.any():
        return image
    return sitk.DiscreteGaussian(image, variance.tolist(), maximumKernelWidth=256, maximumError=largest_error)


def as_transform(motion: np.ndarray) -> sitk.Transform:
    """Return a matrix `(4, 4)` as ITK's transform."""
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(motion[:3, :3].ravel().tolist())
    transform.SetTranslation(motion[:3, 3].tolist())
    return transform


def _smoothed(image: sitk.Image, onto: Space, motion: np.ndarray) -> sitk.Image:
    """Smooth an image along axes whose voxels are smaller than those of the result."""
    axes = motion[:3, :3].T @ np.reshape(image.GetDirection(), (3, 3))  # of the image, in the space of the result
    turned = np.reshape(onto.direction, (3, 3)).T @ axes
    width = np.sqrt((turned**2 * np.array(onto.spacing)[:, None] ** 2).sum(0))
    return smoothed(image, width, largest_error=1e-3)
