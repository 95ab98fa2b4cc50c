"""Files that belong to an image: spacing files of TIFFs, which are placed, and separate voxels, which are refused."""

import io
import re
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO

from nnunet_moe.errors import ModalityError
from nnunet_moe.images.headers import separate_voxels
from nnunet_moe.images.spacing_files import read_spacing
from nnunet_moe.layouts.found import FoundCase
from nnunet_moe.layouts.listing import Problem

_CHANNEL = re.compile(r"_\d{4}$", re.ASCII)


class TiffOfSpacing(Tiff3DIO):
    """nnU-Net's reader of 3D TIFFs, for a case whose spacing is known.

    The spacing files of an original folder can have other names than those that nnU-Net's reader looks for.
    """

    def __init__(self, spacing: Sequence[float]) -> None:
        super().__init__()
        self.spacing = spacing

    def read_images(self, image_fnames: Any) -> tuple[np.ndarray, dict]:
        """Read images; see nnU-Net's reader, whose message on missing spacing files is dropped."""
        with redirect_stdout(io.StringIO()):
            image, properties = super().read_images(image_fnames)
        return image, {**properties, "spacing": self.spacing}

    def read_seg(self, seg_fname: str) -> tuple[np.ndarray, dict]:
        """Read a segmentation; see nnU-Net's reader."""
        with redirect_stdout(io.StringIO()):
            segmentation, properties = super().read_seg(seg_fname)
        return segmentation, {**properties, "spacing": self.spacing}


@dataclass
class Spacings:
    """The spacings of the cases of a folder of 3D TIFFs."""

    of_cases: dict[str, tuple[float, ...]] = field(default_factory=dict)
    """Case -> spacing; a case without a spacing file has none."""
    files: dict[str, Path] = field(default_factory=dict)
    """Case -> the file that holds the spacing."""
    unused: list[Problem] = field(default_factory=list)
    """Spacing files that repeat another one, and those that cannot be used."""
    unusable: dict[str, str] = field(default_factory=dict)
    """Case -> why its spacing is not known, although it has a spacing file."""


def find_spacings(cases: Mapping[str, FoundCase]) -> Spacings:
    """Find the spacing files of 3D TIFFs.

    nnU-Net reads the spacing of `CASE_XXXX.tif` from `CASE.json`, and that of a segmentation `CASE.tif` from
    `CASE.json` next to it. A file named like the image itself, `CASE_XXXX.json`, counts, too. One file suffices for all
    images and the segmentation of a case, because they lie on the same grid.
    """
    found = Spacings()
    for name, case in cases.items():
        spacings: dict[Path, tuple[float, ...]] = {}
        for file in dict.fromkeys(file for image in case.files for file in _spacing_files(image)):
            try:
                spacings[file] = read_spacing(file)
            except ModalityError as error:
                found.unusable[name] = str(error)
                found.unused.append(Problem(file, str(error)))
        if len(set(spacings.values())) > 1:
            texts = ", ".join(f"{file} {list(spacing)}" for file, spacing in spacings.items())
            found.unusable[name] = f"its files have different spacings: {texts}. Correct them."
        elif spacings and name not in found.unusable:
            (first, spacing), *_ = spacings.items()
            found.of_cases[name], found.files[name] = spacing, first
            reason = f"It repeats the spacing of {first}, which was placed."
            found.unused += [Problem(file, reason, rank=2) for file in spacings if file != first]
    return found


def require_own_voxels(file: str) -> None:
    """Refuse a NRRD or MetaImage whose voxels lie in another file, because only the header would be placed.

    Raises:
        ModalityError: the voxels lie in another file.
    """
    if (other := separate_voxels(file)) is not None:
        raise ModalityError(
            f"{file} is only a header, its voxels lie in {other}. Save the image as one file, with both in it."
        )


def _spacing_files(image: Path) -> list[Path]:
    """Return the existing spacing files of an image."""
    stems = dict.fromkeys((_CHANNEL.sub("", image.stem), image.stem))
    return [file for stem in stems if (file := image.with_name(f"{stem}.json")).is_file()]
