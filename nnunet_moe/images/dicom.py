"""Read a folder with one DICOM series as a volume, with GDCM through SimpleITK.

A volume holds voxels and their positions, and nothing else of the files: no name, date or identifier of the patient.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_moe.errors import ModalityError
from nnunet_moe.images.new_files import OriginalNames
from nnunet_moe.runtime.files import visible

PREFIX = b"DICM"
"""What every DICOM file has at byte 128 (DICOM PS3.10, 7.1)."""
INDEX = "DICOMDIR"
"""The name of the file that lists all others of an exported study (DICOM PS3.10, 8.6). It has no image."""
UNEVEN = 0.02
"""The largest difference between distances of slices, as a share of their median. Headers are rounded."""
TILTED = 0.5
"""The largest angle in degrees between the direction of the stack and the normal of its slices."""
SERIES, DESCRIPTION, MODALITY, FRAME = "0020|000e", "0008|103e", "0008|0060", "0020|0052"
SAMPLES, FRAMES, UNITS, THICKNESS = "0028|0002", "0028|0008", "0054|1001", "0018|0050"
NUMBERS = ("0020|1002", "0054|0081")
"""Images in the acquisition; slices of PET."""
KIND = "0008|0008"
POSITION, ORIENTATION = "0020|0032", "0020|0037"

Tags = Mapping[str, str]


@dataclass(frozen=True)
class Series:
    """A volume that was read from a DICOM series."""

    image: sitk.Image
    """float32, without metadata."""
    frame_of_reference: str | None
    """The identifier of the coordinates. Images with the same one were not moved against each other."""
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


def holds_dicom(path: Path) -> bool:
    """Return whether a file is a DICOM image, or whether a folder has one directly in it.

    What cannot be opened does not count.
    """
    if path.is_dir():
        return any(holds_dicom(inside) for inside in visible(path) if inside.is_file())
    try:
        return _is_dicom(path)
    except OSError:
        return False


def images_of_series(files: Mapping[str, str], targets: Mapping[str, Path]) -> ImagesOfSeries:
    """Write an image for each folder with a DICOM series.

    Args:
        files: modality -> file or folder, in channel order.
        targets: modality -> the image to write if it is a folder.

    Raises:
        ModalityError: see `read_series`.
    """
    used, frames, notes, originals = dict(files), {}, {}, {}
    for modality, file in files.items():
        if Path(file).is_dir():
            series, target = read_series(Path(file)), targets[modality]
            target.parent.mkdir(parents=True, exist_ok=True)
            sitk.WriteImage(series.image, str(target), useCompression=True)
            used[modality] = str(target)
            originals[str(target)] = file
            notes[modality] = series.notes
            if series.frame_of_reference is not None:
                frames[modality] = series.frame_of_reference
    return ImagesOfSeries(used, frames, notes, OriginalNames(originals))


def read_series(folder: Path) -> Series:
    """Read the series of a folder.

    Raises:
        ModalityError: the folder does not hold exactly one series of gray slices, each in a file of its own, that are
            parallel, complete, equally far apart and not shifted against each other.
    """
    paths, others = _images(folder)
    headers = {path: _tags(path) for path in paths}
    _require_one_series(folder, headers)
    spacing, origin, direction, ordered = _stack(folder, headers)
    reader = sitk.ImageSeriesReader()
    reader.SetOutputPixelType(sitk.sitkFloat32)
    reader.SetFileNames([str(path) for path in ordered])
    try:
        image = reader.Execute()
    except RuntimeError as error:
        raise ModalityError(f"The DICOM series in {folder} cannot be read: {error}. Export it again.") from error
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    image.SetDirection(direction)
    for key in image.GetMetaDataKeys():
        image.EraseMetaData(key)
    tags = headers[ordered[0]]
    notes = [f"{path} is not DICOM and was not used" for path in others]
    told = max((int(tags[tag]) for tag in NUMBERS if tags.get(tag, "").isdigit()), default=0)
    if told > len(ordered):
        notes.append(f"{folder} has {len(ordered)} slices, but the headers list {told}. Perhaps some are missing")
    if tags.get(UNITS) == "BQML":
        notes.append(f"{folder} is PET in Bq/ml and not in SUV. Its values depend on dose, weight and time")
    return Series(image, tags.get(FRAME) or None, tuple(notes))


def _images(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the DICOM images directly in a folder, and the other files.

    Raises:
        ModalityError: a file cannot be opened, or one of no other kind than the images is no image, so that it may be
            a damaged slice.
    """
    files = [path for path in visible(folder) if path.is_file() and path.name.upper() != INDEX]
    try:
        images = [path for path in files if _is_dicom(path)]
    except OSError as error:
        raise ModalityError(f"{error.filename} cannot be opened: {error.strerror}. It may be a slice.") from error
    others = [path for path in files if path not in set(images)]
    endings = {path.suffix.lower() for path in images if not path.suffix[1:].isdigit()}
    if damaged := [path for path in others if path.suffix.lower() in endings]:
        raise ModalityError(
            f"{damaged[0]} is not DICOM, but is named like the slices in {folder}. Copy it again if it is a slice. "
            "Otherwise move it to another folder."
        )
    return images, others


def _is_dicom(path: Path) -> bool:
    if path.name.upper() == INDEX:
        return False
    with path.open("rb") as opened:
        opened.seek(128)
        return opened.read(len(PREFIX)) == PREFIX


def _tags(path: Path) -> Tags:
    """Return the tags of a file.

    Raises:
        ModalityError: it has no image that can be read.
    """
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise ModalityError(
            f"{path} is DICOM without an image that can be read. It is cut off, or it is an RTSTRUCT or a report. Copy "
            "it again, or move it to another folder."
        ) from error
    tags = {key: reader.GetMetaData(key).strip(" \0") for key in reader.GetMetaDataKeys()}
    size, spacing = reader.GetSize(), reader.GetSpacing()
    return {**tags, "size": f"{size[0]} x {size[1]}", "spacing": f"{spacing[0]:g} x {spacing[1]:g}"}


def _require_one_series(folder: Path, headers: Mapping[Path, Tags]) -> None:
    if not headers:
        raise ModalityError(
            f"{folder} has no DICOM images. Put the files of one series directly into it, or remove the folder."
        )
    series = Counter((tags.get(SERIES, ""), tags.get(DESCRIPTION, "")) for tags in headers.values())
    if len({uid for uid, _ in series}) > 1:
        found = ", ".join(f"{number} files of {text or uid}" for (uid, text), number in sorted(series.items()))
        raise ModalityError(f"{folder} has several DICOM series: {found}. Put each into a folder of its own.")
    for path, tags in headers.items():
        if int(tags.get(SAMPLES, 1)) != 1:
            raise ModalityError(f"{path} is a color image. A modality needs gray values. Remove it from {folder}.")
        if "MOSAIC" in tags.get(KIND, "").split("\\"):
            raise ModalityError(
                f"{path} is a mosaic: all slices of a volume beside each other in one image. Convert the series to "
                "NIfTI, for example with dcm2niix."
            )
        if int(tags.get(FRAMES) or 1) != 1:
            raise ModalityError(
                f"{path} has {tags[FRAMES]} slices in one file (enhanced DICOM), whose positions this reader does not "
                "take. Convert the series to NIfTI, for example with dcm2niix."
            )


def _stack(
    folder: Path, headers: Mapping[Path, Tags]
) -> tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...], list[Path]]:
    """Order the slices.

    Returns:
        Spacing `(x, y, z)`, position of the first voxel, the 9 cosines of ITK's direction, and the files in order.
    """
    for what in (ORIENTATION, "size", "spacing"):
        found = Counter(tags.get(what, "") for tags in headers.values())
        if len(found) > 1 or "" in found:
            name = "orientation" if what == ORIENTATION else what
            raise ModalityError(
                f"The slices in {folder} differ in {name}: {', '.join(found)}. A series must have one. Perhaps it "
                "contains a localizer. Put each part into a folder of its own."
            )
    paths = [*headers]
    if without := [path for path in paths if POSITION not in headers[path]]:
        raise ModalityError(f"{without[0]} does not say where it lies (Image Position). Export the series again.")
    tags = headers[paths[0]]
    rows = np.reshape(_numbers(tags[ORIENTATION]), (2, 3))
    normal = np.cross(rows[0], rows[1])
    positions = np.array([_numbers(headers[path][POSITION]) for path in paths])
    order = np.argsort(positions @ normal)
    positions = positions[order]
    distance = _distance(folder, [paths[index] for index in order], positions, normal, tags)
    x, y = (float(value) for value in tags["spacing"].split(" x "))
    direction = np.stack([*rows, normal], axis=1).ravel()
    return (x, y, distance), (*positions[0].tolist(),), (*direction.tolist(),), [paths[index] for index in order]


def _distance(folder: Path, ordered: Sequence[Path], positions: np.ndarray, normal: np.ndarray, tags: Tags) -> float:
    """Return the distance between slices in mm, and refuse stacks that are no regular grid."""
    if len(ordered) == 1:
        if not (thickness := float(tags.get(THICKNESS) or 0)):
            raise ModalityError(f"{folder} has one slice of unknown thickness. Export the whole series.")
        return thickness
    steps = np.diff(positions, axis=0)
    gaps = steps @ normal
    typical = float(np.median(gaps))
    for index, gap in enumerate(gaps):
        if gap <= UNEVEN * typical:
            raise ModalityError(
                f"{ordered[index]} and {ordered[index + 1]} lie at the same place. Each slice may be there only once. "
                "Remove the double ones."
            )
        if abs(gap - typical) > UNEVEN * typical:
            raise ModalityError(
                f"{ordered[index]} and {ordered[index + 1]} are {gap:.4g} mm apart, most slices {typical:.4g} mm. "
                "Perhaps slices are missing. Export the whole series."
            )
    whole = positions[-1] - positions[0]
    angle = float(np.degrees(np.arccos(np.clip(whole @ normal / np.linalg.norm(whole), -1, 1))))
    if angle > TILTED:
        raise ModalityError(
            f"The slices in {folder} are shifted against each other by a gantry tilt of {angle:.3g} degrees, which no "
            "grid can store. Correct the tilt first, for example with dcm2niix."
        )
    return float(gaps.mean())


def _numbers(text: str) -> np.ndarray:
    return np.array([float(number) for number in text.split("\\")])
