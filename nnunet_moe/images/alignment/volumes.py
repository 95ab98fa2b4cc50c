"""Images with their positions in space, for alignment."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import SimpleITK as sitk
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from nnunet_moe.errors import ModalityError, SettingsError
from nnunet_moe.images.alignment.settings import AlignmentSettings
from nnunet_moe.images.geometry import Grid, ReadFile
from nnunet_moe.images.placeholders import single_value
from nnunet_moe.images.reading import read_channel, read_segmentation

WITH_POSITIONS = (".nii.gz", ".nii", ".nrrd", ".mha")
"""Endings of the formats that store where an image lies, and that every reader of nnU-Net for them can read."""


@dataclass(frozen=True)
class Space:
    """A grid of voxels in space, in ITK's order of axes (x, y, z) and its directions (left, posterior, superior)."""

    size: tuple[int, ...]
    spacing: tuple[float, ...]
    """In mm."""
    origin: tuple[float, ...]
    """Position of the first voxel's center, in mm."""
    direction: tuple[float, ...]
    """The 9 cosines of a 3x3 matrix, row by row."""

    @classmethod
    def of(cls, image: sitk.Image) -> "Space":
        return cls(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())

    @classmethod
    def of_read(cls, read: ReadFile) -> "Space":
        """Return the grid of a file that nnU-Net's reader has read.

        Raises:
            ModalityError: the file is not a volume.
        """
        stuff = read.properties["sitk_stuff"]
        if len(stuff["spacing"]) != 3:
            raise ModalityError(f"{read.file} cannot be aligned, because it is not a volume. Use it without alignment.")
        return cls(read.shape[::-1], tuple(stuff["spacing"]), tuple(stuff["origin"]), tuple(stuff["direction"]))

    def image(self, array: np.ndarray) -> sitk.Image:
        """Return an image `(z, y, x)` that lies on this grid."""
        image = sitk.GetImageFromArray(array)
        image.SetSpacing(self.spacing)
        image.SetOrigin(self.origin)
        image.SetDirection(self.direction)
        return image

    def points(self, indices: np.ndarray) -> np.ndarray:
        """Return the positions of voxels.

        Args:
            indices: `(voxels, 3)`, in the order (x, y, z); fractions are allowed.

        Returns:
            `(voxels, 3)`, in mm.
        """
        return indices @ self.steps.T + np.array(self.origin)

    @property
    def steps(self) -> np.ndarray:
        """`(3, 3)`; column i is the step along axis i, in mm."""
        return np.reshape(self.direction, (3, 3)) * np.array(self.spacing)

    @property
    def center(self) -> tuple[float, float, float]:
        """The position of the middle of the grid, in mm."""
        x, y, z = self.points((np.array(self.size) - 1) / 2)
        return float(x), float(y), float(z)

    @property
    def extent(self) -> float:
        """The edge, in mm, of the cube with the volume of the grid."""
        return float(np.prod(np.array(self.size) * np.array(self.spacing)) ** (1 / 3))

    @property
    def voxel(self) -> float:
        """The edge, in mm, of the cube with the volume of a voxel."""
        return float(np.prod(self.spacing) ** (1 / 3))


@dataclass(frozen=True)
class Volume:
    """A file of a case."""

    modality: str
    read: ReadFile
    """What nnU-Net's reader found in the header."""
    image: sitk.Image
    """The voxels, float32."""

    @classmethod
    def of_file(cls, modality: str, file: str, notes: list[str]) -> "Volume":
        """Read a file.

        Args:
            modality: its name.
            file: a file in one of the formats `WITH_POSITIONS`.
            notes: list to which messages on the file are added.

        Raises:
            ModalityError: the file cannot be used, or is not a volume with positions.
        """
        require_positions(file)
        array, read = read_channel(SimpleITKIO(), file, notes)
        return cls(modality, read, Space.of_read(read).image(array.astype(np.float32)))

    @property
    def file(self) -> str:
        return self.read.file

    @cached_property
    def array(self) -> np.ndarray:
        """The voxels `(z, y, x)`."""
        return sitk.GetArrayViewFromImage(self.image)

    @property
    def space(self) -> Space:
        return Space.of(self.image)

    @cached_property
    def value_everywhere(self) -> float | None:
        """The value of all voxels of a placeholder, or None for an image."""
        return single_value(self.array)

    @cached_property
    def foreground(self) -> np.ndarray:
        """Return the voxels `(z, y, x)` above the image's mean, which leaves out the air in CT and the zeros in MR."""
        return self.array > self.array.mean(dtype=np.float64)

    def shift(self, other: "Volume") -> float:
        """Return the largest distance between the same voxel of two files, in voxels; infinite for other shapes."""
        return Grid.of(self.read).shift(Grid.of(other.read))[0]


@dataclass(frozen=True)
class LabelVolume:
    """A segmentation with its position in space."""

    read: ReadFile
    """What nnU-Net's reader found in the header."""
    labels: np.ndarray
    """Labels `(z, y, x)`."""

    @classmethod
    def of_file(cls, file: str) -> "LabelVolume":
        """Read a segmentation.

        Raises:
            ModalityError: the file cannot be used, or is not a volume with positions.
        """
        require_positions(file)
        labels, properties = read_segmentation(file, SimpleITKIO())
        read = ReadFile(file, labels.shape, properties)
        Space.of_read(read)  # which refuses slices
        return cls(read, labels)

    @property
    def space(self) -> Space:
        return Space.of_read(self.read)

    @property
    def volumes(self) -> dict[int, float]:
        """The volume of each label, without the background: label -> mm3."""
        values, counts = np.unique(self.labels[self.labels != 0], return_counts=True)
        voxel = float(np.prod(self.space.spacing))
        return {int(value): float(count) * voxel for value, count in zip(values, counts, strict=True)}


def require_positions(file: str) -> None:
    """Refuse formats that do not store where an image lies.

    Raises:
        ModalityError: the file has another ending.
    """
    if not file.lower().endswith(WITH_POSITIONS):
        raise ModalityError(
            f"{file} cannot be aligned, because its format does not store where the image lies. Use one of "
            f"{', '.join(WITH_POSITIONS)}, or use it without alignment."
        )


def require_positions_in(ending: str, settings: AlignmentSettings) -> None:
    """Refuse to align a dataset whose format does not store where an image lies.

    Args:
        ending: the file ending of the dataset.
        settings: whether and how to align.

    Raises:
        SettingsError: the format is such a one.
    """
    if settings.is_on and ending not in WITH_POSITIONS:
        raise SettingsError(
            f"--align {settings.align}: files that end in {ending} do not store where an image lies. Convert them to "
            f"one of {', '.join(WITH_POSITIONS)}, or remove --align."
        )


def require_positions_for_dicom(ending: str) -> None:
    """Refuse to write DICOM series in a format that does not store where an image lies.

    Raises:
        SettingsError: the format is such a one.
    """
    if ending not in WITH_POSITIONS:
        raise SettingsError(
            f"DICOM series cannot become files that end in {ending}, because these do not store where an image lies. "
            f"Use one of {', '.join(WITH_POSITIONS)} for the dataset."
        )
