"""Small image files of one patient on several grids."""

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_moe.images.alignment.volumes import Space

STRAIGHT = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
FINE = Space((20, 18, 16), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), STRAIGHT)
COARSE = Space((12, 11, 8), (2.0, 2.0, 3.0), (-1.0, -1.0, -2.0), STRAIGHT)
HALF = Space((20, 9, 16), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), STRAIGHT)
BESIDE = Space((20, 18, 16), (1.0, 1.0, 1.0), (500.0, 0.0, 0.0), STRAIGHT)


def write_image(file: Path, space: Space, seed: int = 0, value: float | None = None) -> str:
    """Write noise, or one value everywhere; all images of a seed are of one body in the middle of `FINE`."""
    noise = np.random.default_rng(seed).normal(size=space.size[::-1])
    index = np.stack(np.meshgrid(*map(np.arange, space.size), indexing="ij"), -1)
    far = np.linalg.norm((space.points(index) - np.array(FINE.center)) / [7, 6, 5], axis=-1).swapaxes(0, 2)
    array = np.where(far < 1, 100 + 10 * noise, noise) if value is None else np.full(noise.shape, value)
    file.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(space.image(array.astype(np.float32)), str(file))
    return str(file)
