"""Compute nnU-Net's dataset fingerprint from cases that may have missing files."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from batchgenerators.utilities.file_and_folder_operations import save_json
from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
from nnunetv2.paths import nnUNet_preprocessed
from nnunetv2.preprocessing.cropping.cropping import crop_to_nonzero

from nnunet_moe.commands.plan_and_preprocess.fingerprint_files import require_same_files, states_of, write_states
from nnunet_moe.commands.plan_and_preprocess.raw_dataset import read_raw_dataset, require_none
from nnunet_moe.errors import ModalityError, NnunetMoeError
from nnunet_moe.images.notes import OncePerModality
from nnunet_moe.images.reading import read_case, read_segmentation_of
from nnunet_moe.labels.voxels import require_known
from nnunet_moe.modalities.availability import Availability
from nnunet_moe.modalities.codes import Code
from nnunet_moe.runtime.file_state import FileState
from nnunet_moe.runtime.files import atomic_write, nnunet_folder
from nnunet_moe.runtime.json_files import read_json
from nnunet_moe.runtime.processes import map_cases

AXES_FILE = "axis_codes.json"
"""The file with the number of training cases for each direction of the axes, such as `{"LPS": 40}`."""
PERCENTILES = (0.5, 50.0, 99.5)
UNSEEN = {
    "mean": 0.0,
    "median": 0.0,
    "std": 1.0,
    "min": 0.0,
    "max": 0.0,
    "percentile_99_5": 0.0,
    "percentile_00_5": 0.0,
}
"""Properties of a channel without a foreground voxel in any case. Normalization with them gives zeros."""


@dataclass(frozen=True)
class AnalysedCase:
    """The properties of a case that the fingerprint needs."""

    shape_after_crop: tuple[int, ...]
    spacing: Sequence[float]
    available: Code
    intensities: dict[int, np.ndarray]
    """Channel -> a sample of its foreground voxels, for the available channels."""
    relative_size_after_crop: float
    states: dict[str, FileState]
    """Path -> the state of the file before it was read."""
    axis_codes: tuple[str, ...] = ()
    """The directions of the axes of the files, as in `Grid.axis_codes`."""
    notes: tuple[tuple[str, ...], ...] = ()
    """Messages on the files, on copies among them, and on the grid of the segmentation."""


class IncompleteDatasetFingerprintExtractor(DatasetFingerprintExtractor):
    """nnU-Net's extractor for cases that may have missing files.

    It crops a case to the region in which any of its images is not zero. The intensities of a channel come only from
    the cases that have it. For complete cases, the fingerprint equals nnU-Net's. The extractor also writes
    `availability.csv`, the table of available modalities, to the same folder.
    """

    availability: Availability
    """Set by `run`."""
    notes: tuple[str, ...] = ()
    """Set by `run`: messages on files that may be wrong, or on an existing fingerprint of unknown files."""

    def run(self, overwrite_existing: bool = False) -> dict[str, Any]:
        """Write `dataset_fingerprint.json`, or read it if it exists with its table and must not be overwritten.

        Raises:
            ModalityError: a case cannot be used, or the files changed since the fingerprint was computed.
        """
        folder = nnunet_folder(nnUNet_preprocessed) / self.dataset_name
        fingerprint_file, table_file = folder / "dataset_fingerprint.json", folder / "availability.csv"
        dataset = read_raw_dataset(self.dataset_name)
        # without a table, nnU-Net wrote the fingerprint, and zero-filled channels may have entered it
        if fingerprint_file.exists() and table_file.exists() and not overwrite_existing:
            self.availability = _availability_of(fingerprint_file, table_file, dataset.availability())
            warning = require_same_files(folder, dataset, self.num_processes)
            self.notes = () if warning is None else (warning,)
            return read_json(fingerprint_file)
        num_samples = int(self.num_foreground_voxels_for_intensitystats // len(dataset.cases))
        results = map_cases(
            analyse_case,
            [
                (case["images"], case["label"], dataset.reader_class, dataset.dataset_json, num_samples)
                for case in dataset.cases.values()
            ],
            self.num_processes,
            description="Extracting dataset fingerprint",
            show_progress=self.show_progress_bar,
        )
        require_none([str(result) for result in results if isinstance(result, NnunetMoeError)], str(dataset.folder))
        cases = [result for result in results if isinstance(result, AnalysedCase)]
        codes = {name: case.available for name, case in zip(dataset.cases, cases, strict=True)}
        self.availability = dataset.availability(codes)
        self.notes = tuple(line for kind in zip(*[case.notes for case in cases], strict=True) for line in _first(kind))
        stored = [case.axis_codes for case in cases if case.axis_codes]
        axes = Counter(codes[0] for codes in stored)
        if stored and not set.intersection(*map(set, stored)):
            listed = ", ".join(f"{code} in {number}" for code, number in axes.most_common())
            self.notes += (
                f"The axes of the training images point to different directions: {listed} cases. nnU-Net does not "
                "reorient images, so it needs more cases. Reorient them, or set the reader NibabelIOWithReorient.",
            )
        fingerprint = fingerprint_of(cases, len(dataset.modalities))
        folder.mkdir(parents=True, exist_ok=True)
        table_file.unlink(
            missing_ok=True
        )  # without its table, the fingerprint is never mistaken for one of these files
        with atomic_write(fingerprint_file) as unfinished:
            save_json(fingerprint, str(unfinished))
        write_states(folder, dataset, {path: state for case in cases for path, state in case.states.items()})
        with atomic_write(table_file) as unfinished:
            unfinished.write_text(self.availability.csv(), encoding="utf-8")
        with atomic_write(folder / AXES_FILE) as unfinished:
            save_json(dict(axes.most_common()), str(unfinished))
        return fingerprint


def analyse_case(
    images: Sequence[str], label: str, reader_class: Any, dataset_json: dict[str, Any], num_samples: int
) -> AnalysedCase:
    """Read and crop a case as nnU-Net does, with zeros in missing channels.

    Raises:
        ModalityError: a file cannot be used, the shapes of segmentation and images differ, or dataset.json does not
            have one of the labels.
    """
    states = states_of(images, label)
    reader = reader_class()
    read = read_case(images, reader, dataset_json)
    image, properties = read.image, read.properties
    segmentation, label_notes = read_segmentation_of(label, reader, min(images), read, largest_shift=np.inf)
    require_known(segmentation, label, dataset_json)
    present = np.flatnonzero([not np.isnan(channel).any() for channel in image])
    cropped, segmentation, _ = crop_to_nonzero(np.nan_to_num(image, copy=False), segmentation[None])
    samples, _ = DatasetFingerprintExtractor.collect_foreground_intensities(
        segmentation, cropped[present], num_samples=num_samples
    )
    shape = cropped.shape[1:]
    return AnalysedCase(
        shape,
        properties["spacing"],
        tuple(channel in present for channel in range(len(image))),
        dict(zip(present.tolist(), map(np.asarray, samples), strict=True)),
        float(np.prod(shape) / np.prod(image.shape[1:])),
        states,
        read.axis_codes,
        (read.notes, read.copies, label_notes),
    )


def fingerprint_of(cases: Sequence[AnalysedCase], num_modalities: int) -> dict[str, Any]:
    """Return the properties of a dataset that nnU-Net's planner needs."""
    return {
        "spacings": [case.spacing for case in cases],
        "shapes_after_crop": [case.shape_after_crop for case in cases],
        "foreground_intensity_properties_per_channel": {
            channel: intensity_properties([case.intensities[channel] for case in cases if case.available[channel]])
            for channel in range(num_modalities)
        },
        "median_relative_size_after_cropping": np.median([case.relative_size_after_crop for case in cases], 0),
    }


def intensity_properties(samples: Sequence[np.ndarray]) -> dict[str, float]:
    """Return the statistics of a channel's foreground intensities that nnU-Net uses.

    Args:
        samples: one array `(voxels,)` for each case that has the channel; empty if the case has no foreground.
    """
    intensities = np.concatenate(samples) if samples else np.empty(0)
    if not intensities.size:
        return dict(UNSEEN)
    percentile_00_5, median, percentile_99_5 = np.percentile(intensities, np.array(PERCENTILES))
    return {
        "mean": float(np.mean(intensities)),
        "median": float(median),
        "std": float(np.std(intensities)),
        "min": float(np.min(intensities)),
        "max": float(np.max(intensities)),
        "percentile_99_5": float(percentile_99_5),
        "percentile_00_5": float(percentile_00_5),
    }


def without_foreground(fingerprint: dict[str, Any], availability: Availability) -> list[str]:
    """Return a warning if no case has a labeled voxel, or one for each modality whose cases all have none."""
    properties = fingerprint["foreground_intensity_properties_per_channel"]
    by_channel = {int(channel): values for channel, values in properties.items()}
    had = [channel for channel in by_channel if any(code[channel] for code in availability.codes.values())]
    unseen = [channel for channel in had if by_channel[channel] == UNSEEN]
    if unseen == had:
        return [
            f"None of the {len(availability.codes)} training cases has a labeled voxel: their segmentations hold only "
            "the background. A model that trains on them learns to find nothing. Check the files in labelsTr."
        ]
    return [
        f"No case that has {name} has a labeled voxel. Normalization by the dataset's intensities (CT) will turn "
        f"{name} into zeros. Other normalizations are not affected."
        for name in (availability.modalities[channel] for channel in unseen)
    ]


def _first(notes: Sequence[Sequence[str]]) -> list[str]:
    """Return some of the messages of one kind, from all cases, and say how many there are."""
    lines = OncePerModality().new(line for of_case in notes for line in of_case)
    return [*lines[:5], *([f"... and {len(lines) - 5} more messages of this kind"] if len(lines) > 5 else [])]


def _availability_of(fingerprint_file: Path, table_file: Path, files: Availability) -> Availability:
    """Read the availability from which a fingerprint was computed, and check that the files are still the same."""
    try:
        made_from = Availability.from_csv(table_file.read_text(encoding="utf-8"), files.modalities)
    except (ModalityError, OSError, UnicodeDecodeError) as error:
        raise ModalityError(
            f"{table_file} cannot be used: {error} Recompute it and the fingerprint with --clean."
        ) from error
    if made_from.files != files.files:
        raise ModalityError(
            f"{fingerprint_file} was computed from other files than the dataset has now. Recompute it with --clean."
        )
    return made_from
