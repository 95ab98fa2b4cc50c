"""Check what the header of an image file says, with the libraries that read it."""

import math
import os
import re
from collections.abc import Mapping
from typing import Any

import nibabel
import nibabel.openers
import nibabel.spatialimages
import numpy as np
import SimpleITK as sitk
from nibabel.spatialimages import HeaderDataError
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from nnunet_moe.errors import ModalityError
from nnunet_moe.images.tiff import TIFF, require_whole, values_in_tiff

NIFTI = (".nii", ".nii.gz")
GZIP_RATIO = 1032
"""How many bytes one byte of a gzip file can stand for at most, by the format (RFC 1951)."""
SFORM, QFORM = "sform", "qform"
PNG_GRAY_AND_ALPHA = b"\x04"
"""The color type of a PNG of gray values and opacity, at `PNG_COLOR_TYPE`."""
PNG_COLOR_TYPE = 25
"""The position of the color type in a PNG."""
_SEPARATE = (
    ((".nrrd", ".nhdr"), rb"^data ?file: *(.+)$"),
    ((".mha", ".mhd"), rb"^ElementDataFile *= *(?!LOCAL\s*$)(.+)$"),
)


def is_nifti(file: str) -> bool:
    """Return whether the file ending is NIfTI's."""
    return file.lower().endswith(NIFTI)


def stored_image(file: str) -> Any:
    """Open a NIfTI file with nibabel, which does not read the voxels yet.

    Raises:
        Exception: of any class that nibabel raises for a damaged file.
    """
    stored = nibabel.load(file)
    assert isinstance(stored, nibabel.spatialimages.SpatialImage)
    return stored


def stored_forms(file: str, *, in_mm: bool) -> Mapping[str, np.ndarray]:
    """Return the two placements that a NIfTI header can hold.

    Args:
        file: the file.
        in_mm: whether to convert positions from the header's unit to mm, which ITK does and nibabel does not.

    Returns:
        `sform` and `qform` -> affine `(4, 4)` from voxels to positions in RAS, for those that the header has. Empty
        for other formats.
    """
    header = stored_image(file).header if is_nifti(file) else None
    if not isinstance(header, nibabel.Nifti1Header):
        return {}
    sform = header.get_sform(coded=True)[0]
    try:
        qform = header.get_qform(coded=True)[0]
    except HeaderDataError:  # its rotation is invalid; nibabel uses the sform then
        qform = None
    unit = {"meter": 1e3, "micron": 1e-3}.get(str(header.get_xyzt_units()[0]), 1.0) if in_mm else 1.0
    scale = np.diag([unit, unit, unit, 1.0])
    return {name: scale @ form for name, form in ((SFORM, sform), (QFORM, qform)) if form is not None}


def require_room(file: str) -> None:
    """Make sure that a file is large enough for the voxels in its header, before memory is taken for them.

    This concerns NIfTI files and TIFFs. For other formats, ITK does it.

    Raises:
        ModalityError: the header promises more voxels than the file can hold.
        RuntimeError: a TIFF was cut off.
    """
    if file.lower().endswith(TIFF):
        require_whole(file)
    if not is_nifti(file):
        return
    header = stored_image(file).header
    shape, size = header.get_data_shape(), os.path.getsize(file)
    largest = size * (GZIP_RATIO if file.lower().endswith(".gz") else 1)
    if (needed := math.prod(int(length) for length in shape) * header.get_data_dtype().itemsize) > largest:
        raise ModalityError(
            f"{file} has {size} bytes, but its header promises {' x '.join(map(str, shape))} voxels, which need at "
            f"least {needed}. The file was cut off, or its header is damaged. Copy or convert it again."
        )


def stored_voxels(file: str, array: np.ndarray, properties: Mapping[str, Any]) -> np.ndarray:
    """Return the voxels of a NIfTI file as nibabel reads them, and make sure that ITK read the same.

    They differ for some damaged headers. ITK also puts zeros in place of the missing end of a file, and of what is not
    finite.

    Args:
        file: the file.
        array: what nnU-Net's reader returned.
        properties: the properties that it returned.

    Returns:
        The voxels, in nibabel's order of axes and type of numbers.

    Raises:
        ModalityError: ITK read other voxels.
    """
    voxels = np.asanyarray(stored_image(file).dataobj)
    if {"sitk_stuff", "sent"} & properties.keys() and np.isfinite(voxels).all():
        in_order = voxels.ravel(order="F").astype(np.float32)
        rounding = 1e-5 * float(np.abs(array).max(initial=0))
        if in_order.size != array.size or not np.allclose(in_order, array.ravel(), rtol=0, atol=rounding):
            if (offset := _offset_without_scale(file)) is not None:
                raise ModalityError(
                    f"{file} has the scale 0 (scl_slope) and the offset {offset:g} (scl_inter) in its header. Programs "
                    "disagree about what this means. Write the voxels as they should be, with the scale 1."
                )
            raise ModalityError(
                f"nibabel and ITK, which nnU-Net uses, find other voxels in {file}. Perhaps it is damaged, or "
                "another file has the same name with the ending .nii. Convert it again, or rename that file."
            )
    return voxels


def _offset_without_scale(file: str) -> float | None:
    """Return the offset of the values of a NIfTI file if its header has an offset, but the scale 0; None otherwise."""
    with nibabel.openers.ImageOpener(file) as opened:
        header = nibabel.Nifti1Header.from_fileobj(opened, check=False)
    offset = float(header["scl_inter"])
    return offset if float(header["scl_slope"]) == 0 and offset != 0 else None


def separate_voxels(file: str) -> str | None:
    """Return the name of the file with the voxels of a NRRD or MetaImage, or None if they lie in the file itself.

    Raises:
        OSError: the file cannot be opened.
    """
    mark = next((mark for endings, mark in _SEPARATE if file.lower().endswith(endings)), None)
    if mark is None:
        return None
    with open(file, "rb") as opened:
        header = re.split(rb"\n\r?\n|ElementDataFile *= *LOCAL", opened.read(1 << 16))[0]
    found = re.search(mark, header, re.MULTILINE | re.IGNORECASE)
    return None if found is None else found[1].decode(errors="backslashreplace").strip()


def require_one_component(file: str, reader: Any, *, is_segmentation: bool = False) -> None:
    """Make sure that a file has one number in each voxel, because readers take colors for slices or channels.

    Args:
        file: the file.
        reader: the reader of nnU-Net that will read it.
        is_segmentation: whether three or four planes of a TIFF are slices. nnU-Net writes them like colors.

    Raises:
        ModalityError: it has colors, other vectors or complex numbers.
    """
    number, remedy = 1, "Convert it to gray values, or split it into files."
    if isinstance(reader, SimpleITKIO):
        header = sitk.ImageFileReader()
        header.SetFileName(file)
        header.ReadImageInformation()
        number = header.GetNumberOfComponents()
    elif file.lower().endswith(TIFF):
        require_whole(file)  # tifffile prints about a file that is cut off
        number = values_in_tiff(file, is_segmentation=is_segmentation)
        remedy += " If these are slices, save them as slices (tifffile: photometric='minisblack', axes 'ZYX')."
    elif isinstance(reader, NaturalImage2DIO):
        number = _values_in_png(file)
    if is_nifti(file):
        stored = stored_image(file).dataobj.dtype
        if stored.kind == "c":
            raise ModalityError(
                f"{file} holds complex numbers. Only real numbers are allowed. Write magnitudes, or remove the file."
            )
        number = max(number, len(stored.names or ()))
    if number != 1:
        raise ModalityError(
            f"{file} has {number} values in each voxel, such as colors. A modality must have one. {remedy}"
        )


def _values_in_png(file: str) -> int:
    """Return 2 for a PNG with opacity, on which nnU-Net's reader fails. It counts colors itself."""
    with open(file, "rb") as opened:
        beginning = opened.read(PNG_COLOR_TYPE + 1)
    return 2 if beginning.startswith(b"\x89PNG") and beginning[PNG_COLOR_TYPE:] == PNG_GRAY_AND_ALPHA else 1
