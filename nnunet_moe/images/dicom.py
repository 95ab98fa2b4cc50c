"""Read a folder with one DICOM series as a volume, with GDCM through SimpleITK.

A volume holds voxels and their positions, and nothing else of the files: no name, date or identifier of the patient.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import SimpleITK as sitk

from nnunet_moe.errors import ModalityError
from nnunet_moe.images.dicom_files import files_of_series
from nnunet_moe.images.dicom_headers import Header
from nnunet_moe.images.dicom_stack import require_one_series, stack
from nnunet_moe.images.new_files import OriginalNames


@dataclass(frozen=True)
class Series:
    """A volume that was read from a DICOM series."""

    image: sitk.Image
    """float32, without metadata."""
    frame_of_reference: str | None = field(repr=False)
    """The identifier of the coordinates. Images with the same one were not moved against each other."""
    patient: str = field(repr=False)
    """The identifier of the patient, only to compare it; empty if the files name none."""
    notes: tuple[str, ...]


@dataclass(frozen=True)
class ImagesOfSeries:
    """The files of a case, with an image in the place of each folder with a DICOM series."""

    files: Mapping[str, str]
    """Modality -> file."""
    frames: Mapping[str, str] = field(default_factory=dict)
    """Modality -> the frame of reference of its series, if the files name one."""
    notes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Modality -> messages on its folder."""
    names: OriginalNames = field(default_factory=OriginalNames)


def images_of_series(files: Mapping[str, str], targets: Mapping[str, Path]) -> ImagesOfSeries:
    """Write an image for each folder with a DICOM series.

    Args:
        files: modality -> file or folder, in channel order.
        targets: modality -> the image to write if it is a folder.

    Raises:
        ModalityError: see `read_series`.
    """
    used, frames, notes, originals = dict(files), {}, {}, {}
    first: tuple[str, str] | None = None  # folder and patient
    for modality, file in files.items():
        if Path(file).is_dir():
            series, target = read_series(Path(file)), targets[modality]
            target.parent.mkdir(parents=True, exist_ok=True)
            sitk.WriteImage(series.image, str(target), useCompression=True)
            used[modality] = str(target)
            originals[str(target)] = file
            notes[modality] = series.notes
            if series.patient:
                first = first or (file, series.patient)
                if series.patient != first[1]:
                    text = f"{file} seems to be of another patient than {first[0]}, because their Patient IDs differ"
                    notes[modality] += (text,)
            if series.frame_of_reference is not None:
                frames[modality] = series.frame_of_reference
    return ImagesOfSeries(used, frames, notes, OriginalNames(originals))


def read_series(folder: Path) -> Series:
    """Read the series of a folder.

    Raises:
        ModalityError: the folder does not hold exactly one series of gray slices, each in a file of its own, that are
            parallel, complete, equally far apart and not shifted against each other.
    """
    paths, others = files_of_series(folder)
    headers = [Header.of_file(path) for path in paths]
    require_one_series(folder, headers)
    spacing, origin, direction, ordered = stack(folder, headers)
    image = _voxels(folder, [header.path for header in ordered])
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    image.SetDirection(direction)
    first = ordered[0]
    notes = [f"{path} is {'a folder' if path.is_dir() else 'not DICOM'} and was not used" for path in others]
    if first.num_slices > len(ordered):
        notes.append(
            f"{folder} has {len(ordered)} slices, but the headers list {first.num_slices}. Perhaps some are missing"
        )
    if (unit := first.unit_of_pet) is not None:
        notes.append(f"{folder} is PET {unit}. Its values may depend on dose, weight and time")
    frames = {header.frame_of_reference for header in ordered}
    patient = next((header.patient for header in ordered if header.patient), "")
    return Series(image, frames.pop() if len(frames) == 1 else None, patient, tuple(notes))


def _voxels(folder: Path, ordered: Sequence[Path]) -> sitk.Image:
    """Return the gray values of the slices, float32, without metadata."""
    reader = sitk.ImageSeriesReader()
    reader.SetImageIO("GDCMImageIO")  # also for files without a preamble
    reader.SetOutputPixelType(sitk.sitkFloat32)
    reader.SetFileNames([str(path) for path in ordered])
    try:
        image = reader.Execute()
    except RuntimeError:
        raise ModalityError(
            f"The voxels of the DICOM series in {folder} cannot be read. A file is cut off, or GDCM does not know its "
            "compression. Export the series again, without compression."
        ) from None  # ITK's message may cite the header
    for key in image.GetMetaDataKeys():
        image.EraseMetaData(key)
    return image
