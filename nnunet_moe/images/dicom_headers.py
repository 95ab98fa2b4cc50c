"""Read the header of a DICOM image as numbers, and compare its texts.

Any text in a header may identify the patient, also a free one such as the description of a series. So no text enters a
message or a file. Messages name files, and numbers that were read as such.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk

from nnunet_moe.errors import ModalityError

SUV = "GML"
_UNITS = {
    "BQML": "in Bq/ml",
    "CM2ML": "in cm2/ml",
    "CNTS": "in counts",
    "CPS": "in counts per second",
    "PROPCNTS": "in numbers proportional to counts",
    "PROPCPS": "in numbers proportional to counts per second",
    "PCNT": "in percent",
}
"""Units of PET (DICOM PS3.3, C.8.9.1), and how a message says them."""
_PERPENDICULAR = 0.01
"""By how much the lengths and the dot product of the directions in a header may differ from 1 and 0."""
_NOT_IN_NUMBERS = re.compile(r"[^0-9.,+\-\\ ]")


class _Element(NamedTuple):
    """Numbers in a header."""

    tag: str
    name: str
    amount: int


_POSITION = _Element("0020|0032", "Image Position", 3)
_ORIENTATION = _Element("0020|0037", "Image Orientation", 6)
_SPACING = _Element("0028|0030", "Pixel Spacing", 2)
_THICKNESS = _Element("0018|0050", "Slice Thickness", 1)
_SAMPLES = _Element("0028|0002", "Samples per Pixel", 1)
_FRAMES = _Element("0028|0008", "Number of Frames", 1)
_SCALING = (_Element("0028|1053", "Rescale Slope", 1), _Element("0028|1052", "Rescale Intercept", 1))
_NUMBERS_OF_SLICES = ("0020|1002", "0054|0081")
"""Images in the acquisition; slices of PET."""
_SERIES, _FRAME, _PATIENT = "0020|000e", "0020|0052", "0010|0020"
_KIND, _MODALITY, _UNIT = "0008|0008", "0008|0060", "0054|1001"


@dataclass(frozen=True)
class Header:
    """The header of a file with an image."""

    path: Path
    size: tuple[int, ...]
    """`(x, y)`; longer for volumes."""
    spacing: tuple[float, ...]
    """In mm."""
    _tags: Mapping[str, str] = field(repr=False)

    @classmethod
    def of_file(cls, path: Path) -> "Header":
        """Read a header.

        Raises:
            ModalityError: the file has no image that can be read, or numbers that scale it cannot be understood.
        """
        reader = sitk.ImageFileReader()
        reader.SetImageIO("GDCMImageIO")
        reader.SetFileName(str(path))
        try:
            reader.ReadImageInformation()
        except RuntimeError:
            raise ModalityError(
                f"{path} is DICOM without an image that can be read. It is cut off, or it is an RTSTRUCT or a report. "
                "Copy it again, or move it to another folder."
            ) from None  # ITK's message may cite the header
        tags = {key: reader.GetMetaData(key).strip(" \0") for key in reader.GetMetaDataKeys()}
        header = cls(path, reader.GetSize(), reader.GetSpacing(), tags)
        for element in (_SPACING, *_SCALING):  # GDCM takes what it does not understand for 1 or 0
            header._numbers(element)
        return header

    @property
    def series(self) -> str:
        """The identifier of the series, which may not be printed."""
        return self._tags.get(_SERIES, "")

    @property
    def patient(self) -> str:
        """The identifier of the patient, which may not be printed; empty if there is none."""
        return self._tags.get(_PATIENT, "")

    @property
    def frame_of_reference(self) -> str | None:
        """The identifier of the coordinates, which may not be printed."""
        return self._tags.get(_FRAME) or None

    @property
    def is_color(self) -> bool:
        return self._numbers(_SAMPLES) not in (None, (1,))

    @property
    def is_mosaic(self) -> bool:
        """Whether the slices of a volume lie beside each other in one image, as Siemens writes them."""
        return "MOSAIC" in self._tags.get(_KIND, "").split("\\")

    @property
    def num_frames(self) -> int:
        (number,) = self._numbers(_FRAMES) or (1,)
        return round(number)

    @property
    def num_slices(self) -> int:
        """The largest number of slices that the header lists; 0 if it lists none."""
        return max(
            (int(text) for tag in _NUMBERS_OF_SLICES if (text := self._tags.get(tag, "")).isdecimal()), default=0
        )

    @property
    def thickness(self) -> float | None:
        """The thickness of the slice in mm; None if it is not known.

        Raises:
            ModalityError: it is no number.
        """
        (thickness,) = self._numbers(_THICKNESS) or (0,)
        return thickness if thickness > 0 else None

    @property
    def position(self) -> tuple[float, ...]:
        """The position `(x, y, z)` of the first voxel in mm.

        Raises:
            ModalityError: it is missing, or not three numbers.
        """
        return self._required(_POSITION)

    @property
    def directions(self) -> np.ndarray:
        """The directions of x and y, `(2, 3)`, of length 1 and perpendicular.

        Raises:
            ModalityError: they are missing, not six numbers, or no directions of an image.
        """
        numbers = self._required(_ORIENTATION)
        x, y = np.reshape(numbers, (2, 3))
        if max(abs(x @ x - 1), abs(y @ y - 1), abs(x @ y)) > _PERPENDICULAR:
            text = ", ".join(f"{number:g}" for number in numbers)
            raise ModalityError(
                f"{self.path}: Image Orientation is {text}. It must be two directions of length 1 that are "
                "perpendicular. Export the series again."
            )
        x = x / np.linalg.norm(x)
        y = y - (x @ y) * x  # headers are rounded
        return np.stack([x, y / np.linalg.norm(y)])

    @property
    def unit_of_pet(self) -> str | None:
        """What a PET holds, such as 'in Bq/ml, not in SUV'; None for SUV by body weight, and for other images."""
        unit = self._tags.get(_UNIT, "")
        if unit == SUV or (not unit and self._tags.get(_MODALITY) != "PT"):
            return None
        if not unit:
            return "whose header names no units, so it may not be in SUV"
        return f"{_UNITS.get(unit, 'in other units')}, not in SUV"

    def _required(self, element: _Element) -> tuple[float, ...]:
        numbers = self._numbers(element)
        if numbers is None:
            raise ModalityError(f"{self.path} does not say where it lies ({element.name}). Export the series again.")
        return numbers

    def _numbers(self, element: _Element) -> tuple[float, ...] | None:
        """Return the numbers of an element; None if it is missing or empty.

        Raises:
            ModalityError: it holds something else. Of a text, the message shows only characters of numbers.
        """
        text = self._tags.get(element.tag, "").strip()
        if not text:
            return None
        try:
            numbers = tuple(float(number) for number in text.split("\\"))
            if len(numbers) == element.amount and all(map(math.isfinite, numbers)):
                return numbers
        except ValueError:
            pass
        wanted = "a number" if element.amount == 1 else f"{element.amount} numbers with \\ between them"
        shown = _NOT_IN_NUMBERS.sub("?", text)[:60]
        raise ModalityError(
            f"{self.path}: {element.name} is {shown}. It must be {wanted}, with a decimal point. Export the series "
            "again, or correct the header."
        )
