"""Write a simulated phantom as the sample case of a packaged model, in the layout of its contract."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_moe.commands.package.mapping import GRID_ENDINGS, InputMapping
from nnunet_moe.images.phantom import draw_phantom

CASE = "phantom"
SHAPE = (48, 56, 48)
NIFTI = ".nii.gz"


def sample_arguments(mapping: InputMapping, modalities: Sequence[str], folder: str, output: str) -> list[str]:
    """Return the program's arguments for the sample case.

    Args:
        modalities: the modalities of the case.
        folder: the folder of the case, `/input` in a container.
        output: the folder for the segmentation.
    """
    if mapping.target != "fomo":
        return ["--input", folder, "--output", output]
    flags = [(f"--{key}", f"{folder}/{key}{NIFTI}") for key in _keys(mapping, modalities)]
    return [word for flag in flags for word in flag] + ["--output", f"{output}/{sample_result(mapping)}"]


def sample_result(mapping: InputMapping) -> str:
    """Return the path of the sample case's segmentation, relative to the output folder."""
    if mapping.target == "grand-challenge":
        return str(mapping.output_file)
    return f"{CASE}{mapping.output}"


def write_sample(
    folder: Path, mapping: InputMapping, modalities: Sequence[str], plans: PlansManager, file_ending: str
) -> None:
    """Write one image for each modality that the case has.

    Args:
        folder: the folder to write, `/input` of the container.
        plans: the plans of the model. The phantom gets the dataset's spacing. It is a slice if the dataset has slices.
        file_ending: the file ending of the dataset. If its format has only whole numbers, so has the phantom.
    """
    sockets = []
    contrasts = draw_phantom(np.random.default_rng(0), SHAPE).images
    for number, key in enumerate(_keys(mapping, modalities)):
        if mapping.target == "grand-challenge":
            sockets.append({"socket": {"slug": key, "relative_path": f"images/{key}", "super_kind": "Image"}})
            file = folder / "images" / key / f"{CASE}.mha"
        elif mapping.target == "fomo":
            file = folder / f"{key}{NIFTI}"
        elif mapping.target == "brats":
            file = folder / CASE / f"{CASE}{key}{NIFTI}"
        else:
            file = folder / f"{CASE}{key}{file_ending}"
        file.parent.mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(_image(contrasts[number % len(contrasts)], plans, file_ending), str(file))
    if sockets:
        (folder / "inputs.json").write_text(json.dumps(sockets, indent=4) + "\n", encoding="utf-8")


def _keys(mapping: InputMapping, modalities: Sequence[str]) -> list[str]:
    """Return the first socket, suffix or flag of each modality."""
    return [next(key for key, named in mapping.inputs.items() if named == name) for name in modalities]


def _image(contrast: np.ndarray, plans: PlansManager, file_ending: str) -> sitk.Image:
    """Make an image from `(z, y, x)`, or from its middle slice, with the dataset's spacing.

    Formats without a grid get whole numbers (0-255), because some of them cannot store others.
    """
    spacing, shape = (
        np.array(of_axes)[plans.transpose_backward]
        for of_axes in (plans.original_median_spacing_after_transp, plans.original_median_shape_after_transp)
    )
    middle, has_grid = len(contrast) // 2, file_ending in GRID_ENDINGS
    if shape[0] == 1:  # not all readers accept 2D images in a 3D format
        contrast = contrast[[middle]] if has_grid else contrast[middle]
    array = contrast if has_grid else (contrast / contrast.max() * 255).astype(np.uint8)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing([float(size) for size in spacing[::-1][: array.ndim]])
    return image
