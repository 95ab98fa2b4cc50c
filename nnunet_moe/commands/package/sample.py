"""A phantom as the sample case of a packaged model, sent as its challenge sends cases. It is simulated."""

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
    """The program's arguments for the sample case.

    Args:
        modalities: those that the case has.
        folder: where it lies, `/input` in a container.
        output: the folder for the segmentation.
    """
    if mapping.target != "fomo":
        return ["--input", folder, "--output", output]
    flags = [(f"--{key}", f"{folder}/{key}{NIFTI}") for key in _keys(mapping, modalities)]
    return [word for flag in flags for word in flag] + ["--output", f"{output}/{sample_result(mapping)}"]


def sample_result(mapping: InputMapping) -> str:
    """The segmentation of the sample case, from the output folder."""
    if mapping.target == "grand-challenge":
        return str(mapping.output_file)
    return f"{CASE}{mapping.output}"


def write_sample(
    folder: Path, mapping: InputMapping, modalities: Sequence[str], plans: PlansManager, file_ending: str
) -> None:
    """Write one image for each modality that the case has.

    Args:
        folder: `/input` of the container; it is made.
        plans: of the model: the phantom has the dataset's spacing, and is a slice where the dataset has slices.
        file_ending: of the dataset; where its format has whole numbers alone, the phantom has, too.
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
        (folder / "inputs.json").write_text(json.dumps(sockets, indent=4) + "\n")


def _keys(mapping: InputMapping, modalities: Sequence[str]) -> list[str]:
    """The first socket, suffix or flag of each modality."""
    return [next(key for key, named in mapping.inputs.items() if named == name) for name in modalities]


def _image(contrast: np.ndarray, plans: PlansManager, file_ending: str) -> sitk.Image:
    """`(z, y, x)` with the dataset's spacing, or its middle slice; in whole numbers for formats that may want them."""
    spacing, shape = (
        np.array(of_axes)[plans.transpose_backward]
        for of_axes in (plans.original_median_spacing_after_transp, plans.original_median_shape_after_transp)
    )
    middle, has_grid = len(contrast) // 2, file_ending in GRID_ENDINGS
    if shape[0] == 1:  # not all readers take images of two dimensions, where a format has three
        contrast = contrast[[middle]] if has_grid else contrast[middle]
    array = contrast if has_grid else (contrast / contrast.max() * 255).astype(np.uint8)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing([float(size) for size in spacing[::-1][: array.ndim]])
    return image
