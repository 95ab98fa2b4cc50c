"""Read and write `mapping.json` of a packaged model: the name of each modality in a challenge."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from nnunet_moe.commands.package import TARGETS
from nnunet_moe.errors import ModalityError, SettingsError
from nnunet_moe.images.alignment.settings import CHOICES, OFF, Align, AlignmentSettings
from nnunet_moe.images.file_names import READABLE_ENDINGS
from nnunet_moe.models.prediction_settings import DEFAULT_STEP_SIZE, require_step_size
from nnunet_moe.runtime.json_files import load_json

GRID_ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha", ".gipl")
"""Endings of formats that store the grid, and images of any dimension."""
IMAGE_ENDINGS = (*sorted(READABLE_ENDINGS.union(GRID_ENDINGS), key=len, reverse=True),)
"""Endings of files that count as images, the longest first. ITK reads all these formats."""
NAME = re.compile(r"[A-Za-z0-9._+-]+")
"""Allowed names of sockets, suffixes and flags. Shells, file systems and all contracts accept them unchanged."""


@dataclass(frozen=True, kw_only=True)
class MappedAlignment(AlignmentSettings):
    """The alignment of a container. Its messages name the keys of the mapping instead of options."""

    def name(self, option: str, value: str | None = None) -> str:
        """See the base class."""
        return f'"{option}" in mapping.json' if value is None else f'"{option}": "{value}" in mapping.json'


@dataclass(frozen=True)
class InputMapping:
    """The modality of each socket, file suffix or flag."""

    target: str
    """The contract to follow, one of `TARGETS`."""
    inputs: dict[str, str | None]
    """Socket's slug (grand-challenge), suffix (brats, plain) or flag (fomo) -> modality; None: accepted, not used."""
    output: str
    """The output socket's slug or relative path (grand-challenge), or the ending of the segmentations' files."""
    step_size: float = DEFAULT_STEP_SIZE
    mirroring: bool = True
    align: Align = OFF
    """How images on different grids are brought onto one, as `--align` of `nnunet_moe predict`."""
    reference: str | None = None
    """The modality whose grid is used where it is available."""
    min_covered: float | None = None
    """The share of the reference's foreground that every image must cover; None: as the training cases."""

    def __post_init__(self) -> None:
        if self.target not in TARGETS:
            raise SettingsError(f"target is {self.target!r}. Use one of {', '.join(TARGETS)}.")
        if not isinstance(self.inputs, dict) or not all(
            key and isinstance(key, str) and (value is None or isinstance(value, str))
            for key, value in self.inputs.items()
        ):
            raise SettingsError(f"inputs is {self.inputs!r}. It must be a table from names to modalities or null.")
        if bad := [key for key in self.inputs if not self._is_name(key)]:
            raise SettingsError(f"inputs has the names {', '.join(map(repr, bad))}. {self._allowed()}.")
        if self.target == "grand-challenge":
            if not isinstance(self.output, str) or not all(map(self._is_name, self.output.split("/"))):
                raise SettingsError(
                    f"output is {self.output!r}. It must be the slug or relative path of the output socket."
                )
        elif self.output not in IMAGE_ENDINGS:
            raise SettingsError(f"output is {self.output!r}. Use one of {', '.join(sorted(IMAGE_ENDINGS))}.")
        require_step_size(self.step_size)
        if not isinstance(self.mirroring, bool):
            raise SettingsError(f"mirroring is {self.mirroring!r}. Use true or false.")
        if not isinstance(self.reference, str | None):
            raise SettingsError(f"reference is {self.reference!r}. It must be a modality or null.")
        if self.align is None:
            raise SettingsError(f"align is null. Use one of {', '.join(CHOICES)}.")
        _ = self.alignment  # which checks the other values

    def _is_name(self, text: str) -> bool:
        is_suffix = self.target in ("brats", "plain")
        return NAME.fullmatch(text) is not None and (is_suffix or text[0].isalnum())

    def _allowed(self) -> str:
        first = "" if self.target in ("brats", "plain") else ", and start with a letter or digit"
        return f"Names must consist of the letters A-Z and a-z, digits, and . _ + -{first}"

    @property
    def alignment(self) -> AlignmentSettings:
        return MappedAlignment(align=self.align, reference=self.reference, least_covered=self.min_covered)

    @property
    def output_file(self) -> Path:
        """The segmentation for grand-challenge, relative to `/output`."""
        folder = self.output if "/" in self.output else f"images/{self.output}"
        return Path(folder) / "output.mha"

    @classmethod
    def read(cls, file: Path) -> "InputMapping":
        """Read a file that `write` wrote and that a user may have changed.

        Raises:
            SettingsError: the file is missing or not JSON, or a value in it is not allowed.
        """
        try:
            content = load_json(file)
            names = [field.name for field in fields(cls)]
            if not isinstance(content, dict) or not set(names[:3]) <= content.keys() <= set(names):
                raise SettingsError(
                    f"it has {_keys(content)}. Allowed are {', '.join(names)}; the first three are required."
                )
            return cls(**content)
        except (SettingsError, OSError, ValueError) as error:
            raise SettingsError(f"{file} cannot be used: {error}") from error

    def write(self, file: Path) -> None:
        file.write_text(json.dumps(asdict(self), indent=4) + "\n", encoding="utf-8")

    def require_modalities(self, modalities: Sequence[str]) -> None:
        """Make sure that the model knows all modalities of the mapping.

        Raises:
            SettingsError: a modality is unknown, or the mapping names none.
        """
        named = {modality for modality in self.inputs.values() if modality is not None}
        if unknown := sorted(named - set(modalities)):
            raise SettingsError(
                f"The mapping names {', '.join(unknown)}. The model has {', '.join(modalities)}. Use these names."
            )
        if not named:
            raise SettingsError(
                f"The mapping names no modality of the model. Name at least one of {', '.join(modalities)}."
            )

    def modality(self, key: str, what: str) -> str | None:
        """Return the modality of a key, None if it is not used.

        Args:
            key: a socket's slug, a suffix or a flag.
            what: the name of this input in the message.

        Raises:
            ModalityError: the key is unknown.
        """
        if key not in self.inputs:
            raise ModalityError(f"{what} is not known. Known are {', '.join(self.inputs)}. Add it to mapping.json.")
        return self.inputs[key]

    def files(self, found: Iterable[tuple[str, Path]]) -> dict[str, Path]:
        """Return the files of a case by modality.

        Args:
            found: keys and files. Files whose key is not used are skipped.

        Raises:
            ModalityError: two files have one modality, one file has two modalities, or no file has a modality.
        """
        files: dict[str, Path] = {}
        keys = []
        for key, file in found:
            keys.append(key)
            if (modality := self.inputs[key]) is None:
                continue
            if modality in files:
                raise ModalityError(f"{files[modality]} and {file} are both {modality}. Send one of them.")
            if file in files.values():
                raise ModalityError(
                    f"{file} was sent for {modality} and for another modality. Send a separate image for each."
                )
            files[modality] = file
        if not files:
            known = ", ".join(f"{key} ({modality})" for key, modality in self.inputs.items() if modality is not None)
            raise ModalityError(
                f"No known modality was sent, only {', '.join(keys) or 'nothing'}. Send any of {known}."
            )
        return files


def image_ending(file: Path) -> str | None:
    """Return the ending of an image file as it is spelled; None for other and hidden files."""
    if file.name.startswith("."):
        return None
    ending = next((ending for ending in IMAGE_ENDINGS if file.name.lower().endswith(ending)), None)
    return None if ending is None else file.name[-len(ending) :]


def _keys(content: object) -> str:
    return ", ".join(map(str, content)) if isinstance(content, dict) else type(content).__name__
