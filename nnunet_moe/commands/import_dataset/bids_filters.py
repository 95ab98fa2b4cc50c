"""The filters of a BIDS dataset: those that the user gives, or one for each suffix."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from nnunet_moe.commands.import_dataset.request import Request
from nnunet_moe.errors import SettingsError
from nnunet_moe.images.bids_names import FREE, BidsName, Filter
from nnunet_moe.layouts.bids_kinds import images_of, kinds_text
from nnunet_moe.layouts.found import LABEL
from nnunet_moe.layouts.listing import Listing

_DATA_TYPES = frozenset({"anat", "pet", "ct"})
"""Folders of images that are modalities unless the user names others. `ct` is not part of BIDS, but common."""
_NO_MODALITIES = frozenset({"mask", "dseg", "probseg", "roi", "defacemask"})


def with_bids_filters(request: Request, listing: Listing) -> tuple[Request, dict[str, Filter]]:
    """Return the request with its modalities, and modality -> filter, with `LABEL` for that of the segmentations.

    Raises:
        SettingsError: the folder has no files of subjects, a filter cannot be understood or matches no file, or the
            modalities are not clear.
    """
    names = images_of(listing)
    if not names:
        raise SettingsError(
            f"--bids {request.source} has no image with a name like sub-01_T1w.nii.gz. In a BIDS dataset, each subject "
            "has a folder sub-LABEL. Check the path, or use -i with patterns."
        )
    label = Filter(request.label, "-l ", derivatives=True)
    if not request.modalities:
        request = replace(request, modalities=_modalities(request, names, label))
    of_images = {
        modality: Filter(text, f"-m {modality}=", derivatives=False) for modality, text in request.modalities.items()
    }
    filters = {**of_images, LABEL: label}
    for each in filters.values():
        if all(each.choice(name) is None for name in names):
            there_are = kinds_text(names, {choice.suffix.lower() for choice in each.choices})
            raise SettingsError(f"{each.option}{each.text} matches no image. There are{there_are}\nCorrect it.")
    return request, filters


def _modalities(request: Request, names: Sequence[BidsName], label: Filter) -> dict[str, str]:
    """Return suffix -> filter for all raw images; each suffix must have only one kind of images.

    Raises:
        SettingsError: there are several kinds, or no images.
    """
    by_suffix: dict[str, Counter[str]] = {}
    for name in names:
        is_modality = name.place.rpartition("/")[2] in _DATA_TYPES and name.suffix not in _NO_MODALITIES
        if is_modality and name.is_raw and name.not_searched is None and label.choice(name) is None:
            kept = [f"{key}-{value}" for key, value in name.entities.items() if key not in FREE]
            by_suffix.setdefault(name.suffix, Counter())["_".join([*kept, name.suffix])] += 1
    if not by_suffix:
        raise SettingsError(
            f"--bids {request.source} has no images in folders anat, pet or ct outside derivatives. There are"
            f"{kinds_text(names)}\nName the modalities with -m."
        )
    if unclear := [kind for kinds in by_suffix.values() if len(kinds) > 1 for kind in kinds]:
        options = " ".join(f"-m {_name(kind)}={kind}" for kinds in by_suffix.values() for kind in sorted(kinds))
        raise SettingsError(
            f"--bids {request.source} has several kinds of images with one suffix: {', '.join(sorted(unclear))}. Name "
            f"the modalities that you want, such as {options}"
        )
    return {suffix: next(iter(by_suffix[suffix])) for suffix in sorted(by_suffix)}


def _name(kind: str) -> str:
    """Return a name for a modality of some kind: the suffix, then the values of the entities."""
    *entities, suffix = kind.split("_")
    return "_".join([suffix, *(entity.partition("-")[2] for entity in entities)])
