"""The options of `nnunet_moe import`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nnunet_moe.errors import SettingsError
from nnunet_moe.images.alignment.settings import AlignmentSettings
from nnunet_moe.labels.regions import regions_in_dataset_json
from nnunet_moe.layouts.found import LABEL
from nnunet_moe.runtime.options import NamedValues, named_value, one_of, option, options_of


def _region(text: str) -> tuple[str, tuple[str, ...]]:
    """Parse `NAME=LABEL,LABEL`."""
    name, value = named_value(text)
    labels = tuple(label.strip() for label in value.split(","))
    if not all(labels) or len(set(labels)) < len(labels):
        raise SettingsError(f"-regions {text}: name each label of the region once, with commas between them.")
    return name, labels


def _label(text: str) -> tuple[str, int]:
    """Parse `NAME=NUMBER`."""
    name, value = named_value(text)
    if not value.isdecimal():
        raise SettingsError(f"-labels {text}: a label must be a whole number from 1. Change it.")
    return name, int(value)


@dataclass(frozen=True)
class BidsFolder:
    """A folder whose files are chosen by their BIDS names."""

    path: Path


def _bids(text: str) -> BidsFolder:
    return BidsFolder(Path(text))


@dataclass(frozen=True, kw_only=True)
class Request:
    """The options of `nnunet_moe import`.

    Raises:
        SettingsError: an option has a value that is not allowed.
    """

    folder: Path | BidsFolder = one_of(
        option("-i", type=Path, group="input and output", help="search this folder and all folders below it"),
        option(
            "--bids",
            type=_bids,
            group="input and output",
            help="search this BIDS dataset; -m and -l are then filters instead of patterns",
        ),
    )
    dataset: str = option(
        "-d", group="input and output", help="create this dataset in nnUNet_raw, named like Dataset502_Lesions"
    )
    modalities: Mapping[str, str] = option(
        "-m",
        action=NamedValues,
        type=named_value,
        metavar="NAME=PATTERN",
        default_factory=dict,
        group="modalities and labels",
        help="add a modality and the pattern of its files, e.g. FLAIR='{case}-t2f.nii.gz', or with --bids the filter, "
        "e.g. T1ce=ce-gadolinium_T1w; repeat it for every modality, in channel order (default: with --bids, each "
        "suffix of the images in anat, pet and ct)",
    )
    """Name -> pattern or filter, in the order of the channels. Empty: the suffixes in a BIDS dataset."""
    label: str = option(
        "-l",
        metavar="PATTERN",
        group="modalities and labels",
        help="find the segmentations by this pattern, e.g. '{case}-seg.nii.gz', or with --bids by this filter, e.g. "
        "label-lesion_mask",
    )
    labels: Mapping[str, int] | None = option(
        "-labels",
        nargs="+",
        action=NamedValues,
        type=_label,
        default=None,
        metavar="NAME=VALUE",
        group="modalities and labels",
        help="name the labels, e.g. necrosis=1 edema=2 (default: label_1, label_2, ...)",
    )
    """Name -> value, without the background. None: `label_1` and so on for all values in the segmentations."""
    renumber: bool = option(
        "--renumber",
        action="store_true",
        group="modalities and labels",
        help="write the segmentations with the values 1, 2, 3 and so on if those of -labels have gaps, e.g. 1, 2, 4",
    )
    regions: Mapping[str, tuple[str, ...]] | None = option(
        "-regions",
        nargs="+",
        action=NamedValues,
        type=_region,
        default=None,
        metavar="NAME=LABELS",
        group="modalities and labels",
        help="train and score regions instead of labels, large ones first, e.g. whole=edema,core core=core (default: "
        "the labels)",
    )
    """Name -> labels, large regions first. It needs `labels`."""
    file_ending: str | None = option(
        "-ending",
        default=None,
        group="input and output",
        help="use only files with this ending, e.g. .nii.gz (default: the ending that all files share)",
    )
    link: bool = option(
        "--link", action="store_true", group="input and output", help="link the files instead of copying them"
    )
    unlabelled_to_test: bool = option(
        "--unlabelled_to_test",
        action="store_true",
        group="modalities and labels",
        help="put cases without a segmentation into imagesTs",
    )
    filled_as_absent: bool = option(
        "--filled_as_absent",
        action="store_true",
        group="modalities and labels",
        help="treat a file as missing if it holds a single value or repeats the voxels of another modality",
    )
    originals: tuple[str, ...] = option(
        "-original",
        nargs="+",
        default=(),
        metavar="NAME",
        group="modalities and labels",
        help="keep the first of these modalities if files of a case are equal (default: channel order)",
    )
    """Modalities that count as the original if several files of a case are equal, first choice first."""
    patient: str | None = option(
        "-patient",
        default=None,
        metavar="NAME",
        group="modalities and labels",
        help="name what identifies the patient of a case: a name in braces of the patterns, or a column of -patients "
        "(default: patient, or subject or sub in braces; with --bids the subject)",
    )
    patients: Path | None = option(
        "-patients",
        type=Path,
        default=None,
        metavar="TABLE",
        group="modalities and labels",
        help="read the patient of each case from this table with a column named case, e.g. a CSV file (default: none)",
    )
    """None: the patterns contain the patient, or each case is a separate patient."""
    alignment: AlignmentSettings = options_of(AlignmentSettings)
    num_processes: int = option(
        "-np", type=int, default=8, group="compute", help="read cases in this many processes (default: %(default)s)"
    )
    show_progress: bool = option("--no_pbar", action="store_false", group="compute", help="hide the progress bar")

    def __post_init__(self) -> None:
        from nnunet_moe.modalities.codes import MAX_MODALITIES

        if not re.fullmatch(r"Dataset\d{3,}_\w+", self.dataset):
            raise SettingsError(
                f"-d {self.dataset} is not a name that nnU-Net accepts. Datasets are named like Dataset502_Lesions."
            )
        if not (self.is_bids or self.modalities):
            raise SettingsError("-m is missing. Name the modalities and the patterns of their files.")
        if len(self.modalities) > MAX_MODALITIES:
            raise SettingsError(
                f"-m gives {len(self.modalities)} modalities. Supported are 1 to {MAX_MODALITIES}. Change -m."
            )
        if LABEL in self.modalities:
            raise SettingsError(
                f"-m {LABEL}=...: this name is reserved for segmentations, which -l finds. Rename the modality."
            )
        if unknown := [name for name in self.originals if name not in self.modalities]:
            raise SettingsError(
                f"-original {' '.join(unknown)}: unknown modality. Choose from {', '.join(self.modalities)}."
            )
        self._require_usable_labels()
        if not self.source.is_dir():
            from nnunet_moe.runtime.files import broken_link  # imports nnU-Net, which --help does not wait for

            what = broken_link(self.source) or "no folder"
            raise SettingsError(f"{'--bids' if self.is_bids else '-i'} {self.source} is {what}. Check the path.")

    @property
    def source(self) -> Path:
        """The folder to search."""
        return self.folder.path if isinstance(self.folder, BidsFolder) else self.folder

    @property
    def is_bids(self) -> bool:
        """Whether modalities and segmentations are chosen by BIDS filters."""
        return isinstance(self.folder, BidsFolder)

    @property
    def searched_by(self) -> str:
        """How messages call the values of -m and -l."""
        return "filters" if self.is_bids else "patterns"

    def _require_usable_labels(self) -> None:
        """Make sure that labels can be written, and that regions are made of them.

        Raises:
            SettingsError: they cannot, or they are not.
        """
        labels = self.labels or {}
        if not labels and (self.renumber or self.regions is not None):
            raise SettingsError("--renumber and -regions need -labels. Name the labels and their values.")
        values = sorted(labels.values())
        if self.renumber and (0 in values or len(set(values)) < len(values)):
            raise SettingsError(f"-labels are {dict(labels)}. With --renumber, they must be different numbers from 1.")
        if not self.renumber and values != list(range(1, len(values) + 1)):
            raise SettingsError(
                f"-labels are {dict(labels)}. nnU-Net needs 1, 2, 3 and so on, without gaps. Change the values, or let "
                "--renumber change them in the segmentations."
            )
        if self.regions is not None:
            regions_in_dataset_json(self.regions, labels)
