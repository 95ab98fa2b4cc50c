"""Names of files in BIDS datasets, and filters that choose files by their entities.

A name is a chain of entities and a suffix, such as `sub-01_ses-02_ce-gadolinium_T1w.nii.gz`
(https://bids-specification.readthedocs.io/en/stable/common-principles.html#filenames). The list of entities grows with
each version of BIDS, so every `name-value` counts as one. Their order is not checked, because it has no meaning and
changed between versions.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from nnunet_moe.errors import ModalityError, SettingsError

SUBJECT, SESSION = "sub", "ses"
DERIVATIVES = "derivatives"
KEY = "bids"
"""The key in dataset.json under which `nnunet_moe import` stores the filter of each modality."""
_WITHOUT_VOXELS = re.compile(r"\.(json|tsv|tsv\.gz|bval|bvec|(\w+\.)?gii|\w+\.nii)", re.IGNORECASE)
"""Endings of files with the name of an image that describe it, or hold a surface (GIFTI, CIFTI)."""
FREE = frozenset({"acq", "dir", "rec", "run", "task"})
"""Entities that a filter need not name: they say how and when an image was acquired, not what it shows."""
_RAW_FOLDERS = frozenset({"rawbids", "rawdata"})
"""Folders that may hold the raw images next to `derivatives`."""
NOT_SEARCHED = ("sourcedata", "code", "docs", "logs", "phenotype", "stimuli")
_INDICES = frozenset({"chunk", "echo", "flip", "inv", "run", "split"})
"""Entities whose values are numbers, so that `run-01` equals `run-1`."""
_ENTITY, _SUFFIX = re.compile(r"([a-z]+)-([0-9a-zA-Z+]+)"), re.compile(r"[0-9a-zA-Z]+")


@dataclass(frozen=True)
class BidsName:
    """What the path of a file says about it."""

    subject: str
    """Like `sub-01`, the `participant_id` of BIDS."""
    session: str | None
    """Like `ses-02`."""
    entities: Mapping[str, str]
    """All others."""
    suffix: str
    ending: str
    dataset: str
    """The folders above that of the subject: empty for raw images, or like `derivatives/manual`."""
    place: str
    """All folders but those of the subject and the session, like `derivatives/manual/anat`."""
    misplaced: str | None
    """The folder of another subject or session in which the file lies."""

    @property
    def case(self) -> str:
        return self.subject if self.session is None else f"{self.subject}_{self.session}"

    @property
    def has_voxels(self) -> bool:
        """Whether the file can be an image, rather than its description or a surface."""
        return _WITHOUT_VOXELS.fullmatch(self.ending) is None

    @property
    def is_raw(self) -> bool:
        return DERIVATIVES not in self.dataset.split("/")

    @property
    def not_searched(self) -> str | None:
        """The folder for other things than images and derivatives in which the file lies."""
        return next((part for part in self.dataset.split("/") if part in NOT_SEARCHED), None)

    @property
    def root(self) -> str:
        """The folder of the study, which holds the raw images and `derivatives`; empty for the top folder."""
        folders = self.dataset.split("/")
        if not self.is_raw:
            folders = folders[: folders.index(DERIVATIVES)]
        return "/".join(folders[:-1] if folders and folders[-1] in _RAW_FOLDERS else folders)

    @property
    def kind(self) -> str:
        """The entities and the suffix, like `ce-gadolinium_T1w`."""
        return "_".join([*(f"{name}-{value}" for name, value in self.entities.items()), self.suffix])

    @property
    def filter(self) -> str:
        """A filter that matches the file."""
        return f"{self.dataset}/{self.kind}" if self.dataset else self.kind


def read_name(path: str) -> BidsName:
    """Read the path of a file below the top folder of a dataset, with `/` between folders.

    Raises:
        ModalityError: the file has not the name of a subject's file in BIDS.
    """
    *folders, name = path.split("/")
    stem, dot, ending = name.partition(".")
    try:
        entities, suffix = _parts(stem)
    except ValueError as error:
        example = "sub-01_ses-02_acq-3D_T1w.nii.gz"
        raise ModalityError(f"{error}. Rename it like {example}.") from None
    if SUBJECT not in entities:
        raise ModalityError(f"Its name has no {SUBJECT}-LABEL, so it belongs to no subject. Rename it.")
    subject, session = f"{SUBJECT}-{entities.pop(SUBJECT)}", entities.pop(SESSION, None)
    session = None if session is None else f"{SESSION}-{session}"
    of_subject = [number for number, folder in enumerate(folders) if folder.startswith(f"{SUBJECT}-")]
    first = of_subject[-1] if of_subject else len(folders)
    below, misplaced = folders[first + 1 :], None
    if first < len(folders) and folders[first] != subject:
        misplaced = folders[first]
    if below and below[0].startswith(f"{SESSION}-"):
        misplaced = misplaced or (below[0] if below[0] != session else None)
        below = below[1:]
    dataset = folders[:first]
    places = "/".join(dataset), "/".join([*dataset, *below])
    return BidsName(subject, session, entities, suffix, dot + ending, *places, misplaced)


class Choice:
    """A filter without alternatives: `FOLDER/entity-value_suffix`, where folder and entities may be left out."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.folder, _, kind = text.rpartition("/")
        self.entities, self.suffix = _parts(kind)
        if used := [name for name in (SUBJECT, SESSION) if name in self.entities]:
            raise ValueError(f"{used[0]}- is in it, but every subject and session is used")

    @property
    def num_named(self) -> tuple[int, int]:
        """How specific the filter is: the numbers of entities and of folders."""
        return len(self.entities), len([part for part in self.folder.split("/") if part])

    def fits(self, name: BidsName, *, ignore_case: bool = False) -> bool:
        """Return whether a file has the suffix and the entities."""
        mine, its = ({**of.entities, "": of.suffix} for of in (self, name))
        if ignore_case:
            mine, its = ({key: value.lower() for key, value in each.items()} for each in (mine, its))
        return mine.items() <= its.items()

    def is_in_place(self, name: BidsName, *, derivatives: bool) -> bool:
        """Return whether a file lies where the filter searches.

        Args:
            name: the file.
            derivatives: whether a filter without a folder searches derivatives, too.
        """
        if self.folder:
            return f"{name.place}/".startswith(f"{self.folder}/")
        return name.not_searched is None and (derivatives or name.is_raw)

    def not_named(self, name: BidsName) -> list[str]:
        """Return the entities of a file that the filter does not name, but should, like `ce-gadolinium`."""
        more = name.entities.keys() - self.entities.keys() - FREE
        return [f"{key}-{value}" for key, value in name.entities.items() if key in more]


class Filter:
    """Choose the files of a modality by entities and suffix.

    - `T1w` matches files with this suffix and without entities, but for the subject, the session and those in `FREE`.
    - `ce-gadolinium_T1w` matches files with this suffix and this entity. The order of entities does not matter.
    - `derivatives/manual/label-lesion_mask` matches only below this folder, whatever the subject and session.
    - `run-2_T1w,T1w` has alternatives: the first one that matches a file of a case is used.

    Args:
        text: the filter.
        option: what stands before it in errors, like `-m T1w=`.
        derivatives: whether to search derivatives if no folder is named.

    Raises:
        SettingsError: the filter cannot be understood.
    """

    def __init__(self, text: str, option: str, *, derivatives: bool) -> None:
        self.text, self.option, self.derivatives = text, option, derivatives
        try:
            self.choices = [Choice(each.strip()) for each in text.split(",")]
        except ValueError as error:
            raise SettingsError(
                f"{option}{text}: {error}. With --bids, a filter is a suffix with entities before it, such as T1w, "
                "ce-gadolinium_T1w or derivatives/manual/label-lesion_mask. Correct it."
            ) from None

    def choice(self, name: BidsName) -> int | None:
        """Return the number of the first alternative that matches a file, or None without a match."""
        if not name.has_voxels:
            return None
        for number, choice in enumerate(self.choices):
            in_place = choice.is_in_place(name, derivatives=self.derivatives)
            if in_place and choice.fits(name) and not choice.not_named(name):
                return number
        return None

    def match(self, path: str) -> BidsName | None:
        """Return what the path of a file below the dataset says if the filter matches it, otherwise None."""
        try:
            name = read_name(path)
        except ModalityError:
            return None
        return None if self.choice(name) is None else name


def _parts(stem: str) -> tuple[dict[str, str], str]:
    """Return the entities and the suffix of a name without its ending.

    Raises:
        ValueError: a part of the name is neither.
    """
    *chain, suffix = stem.split("_")
    entities: dict[str, str] = {}
    for part in chain:
        match = _ENTITY.fullmatch(part)
        if match is None:
            raise ValueError(f"{part!r} is no entity, which is like acq-3D, with letters, digits and + in its value")
        key, value = match.groups()
        if key in entities:
            raise ValueError(f"the entity {key} is in it twice")
        entities[key] = (value.lstrip("0") or "0") if key in _INDICES else value
    if _SUFFIX.fullmatch(suffix) is None:
        raise ValueError(f"{suffix!r} is no suffix, which has only letters and digits, like T1w")
    return entities, suffix
