"""`mapping.json` of a packaged model: what a challenge calls each modality."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from nnunet_moe.commands.package import TARGETS
from nnunet_moe.errors import ModalityError, SettingsError
from nnunet_moe.images.file_names import READABLE_ENDINGS
from nnunet_moe.models.prediction_settings import DEFAULT_STEP_SIZE, require_step_size

GRID_ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha", ".gipl")
"""Of formats that hold an image of any dimension and its grid."""
IMAGE_ENDINGS = (*sorted(READABLE_ENDINGS.union(GRID_ENDINGS), key=len, reverse=True),)
"""Of files that are taken for images, the longest first; all are formats that ITK reads."""
NAME = re.compile(r"[A-Za-z0-9._+-]+")
"""Of a socket, suffix or flag: what shells, file systems and the contracts themselves take as it is."""


@dataclass(frozen=True)
class InputMapping:
    """Sockets, suffixes of files or flags, and the modalities that they stand for."""

    target: str
    """Whose contract is followed, one of `TARGETS`."""
    inputs: dict[str, str | None]
    """Socket's slug (grand-challenge), suffix (brats, plain) or flag (fomo) -> modality; None: known and not used."""
    output: str
    """The output socket's slug or relative path (grand-challenge), or the ending of the segmentations' files."""
    step_size: float = DEFAULT_STEP_SIZE
    mirroring: bool = True

    def __post_init__(self) -> None:
        if self.target not in TARGETS:
            raise SettingsError(f"target is {self.target!r}; allowed are {', '.join(TARGETS)}.")
        if not isinstance(self.inputs, dict) or not all(
            key and isinstance(key, str) and (value is None or isinstance(value, str))
            for key, value in self.inputs.items()
        ):
            raise SettingsError(f"inputs is {self.inputs!r}; it is a table of names to modalities, or null.")
        if bad := [key for key in self.inputs if not self._is_name(key)]:
            raise SettingsError(f"inputs names {', '.join(map(repr, bad))}; {self._allowed()}.")
        if self.target == "grand-challenge":
            if not isinstance(self.output, str) or not all(map(self._is_name, self.output.split("/"))):
                raise SettingsError(f"output is {self.output!r}; it is the output socket's slug, or its relative path.")
        elif self.output not in IMAGE_ENDINGS:
            raise SettingsError(f"output is {self.output!r}; allowed are {', '.join(sorted(IMAGE_ENDINGS))}.")
        require_step_size(self.step_size)
        if not isinstance(self.mirroring, bool):
            raise SettingsError(f"mirroring is {self.mirroring!r}; allowed are true and false.")

    def _is_name(self, text: str) -> bool:
        is_suffix = self.target in ("brats", "plain")
        return NAME.fullmatch(text) is not None and (is_suffix or text[0].isalnum())

    def _allowed(self) -> str:
        first = "" if self.target in ("brats", "plain") else ", and begin with a letter or digit"
        return f"names are of the letters A to Z and a to z, digits, and . _ + -{first}"

    @property
    def output_file(self) -> Path:
        """Of grand-challenge: the segmentation, from `/output`."""
        folder = self.output if "/" in self.output else f"images/{self.output}"
        return Path(folder) / "output.mha"

    @classmethod
    def read(cls, file: Path) -> "InputMapping":
        """Read what `write` wrote, or what somebody made of it.

        Raises:
            SettingsError: there is no such file, it is no JSON, or something in it is not allowed.
        """
        try:
            content = json.loads(file.read_text())
            names = [field.name for field in fields(cls)]
            if not isinstance(content, dict) or not set(names[:3]) <= content.keys() <= set(names):
                raise SettingsError(f"it has {_keys(content)}; allowed are {', '.join(names)}, the first three needed.")
            return cls(**content)
        except (SettingsError, OSError, ValueError) as error:
            raise SettingsError(f"{file} cannot be used: {error}") from error

    def write(self, file: Path) -> None:
        file.write_text(json.dumps(asdict(self), indent=4) + "\n")

    def require_modalities(self, modalities: Sequence[str]) -> None:
        """Make sure that the model knows what is sent.

        Raises:
            SettingsError: it does not, or nothing that it knows is sent.
        """
        named = {modality for modality in self.inputs.values() if modality is not None}
        if unknown := sorted(named - set(modalities)):
            raise SettingsError(
                f"The mapping names {', '.join(unknown)}; the model's modalities are {', '.join(modalities)}."
            )
        if not named:
            raise SettingsError(f"The mapping names no modality of {', '.join(modalities)}.")

    def modality(self, key: str, what: str) -> str | None:
        """The modality that a key stands for, None if it is not used.

        Args:
            key: a socket's slug, a suffix or a flag.
            what: what has come with this key, for the message.

        Raises:
            ModalityError: an unknown key.
        """
        if key not in self.inputs:
            raise ModalityError(f"{what} is not known. Known are {', '.join(self.inputs)}; add it to mapping.json.")
        return self.inputs[key]

    def files(self, found: Iterable[tuple[str, Path]]) -> dict[str, Path]:
        """The files of a case by modality.

        Args:
            found: keys and files; those of keys that are not used are left out.

        Raises:
            ModalityError: two files of one modality, one file of two, or no modality at all.
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
                raise ModalityError(f"{file} is sent for {modality} and for another modality. Send each its own image.")
            files[modality] = file
        if not files:
            known = ", ".join(f"{key} ({modality})" for key, modality in self.inputs.items() if modality is not None)
            raise ModalityError(f"No known modality: there is {', '.join(keys) or 'nothing'}. Send any of {known}.")
        return files


def image_ending(file: Path) -> str | None:
    """The ending of a file that is taken for an image, as it is spelt; None for other and hidden files."""
    if file.name.startswith("."):
        return None
    ending = next((ending for ending in IMAGE_ENDINGS if file.name.lower().endswith(ending)), None)
    return None if ending is None else file.name[-len(ending) :]


def _keys(content: object) -> str:
    return ", ".join(map(str, content)) if isinstance(content, dict) else type(content).__name__
