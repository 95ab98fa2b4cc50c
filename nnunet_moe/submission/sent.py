"""The cases that are sent under each contract: which files there are, of which modality, and where the result goes."""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from nnunet_moe.errors import ModalityError, SettingsError
from nnunet_moe.submission.mapping import IMAGE_ENDINGS, InputMapping, image_ending

INPUT, OUTPUT = Path("/input"), Path("/output")


@dataclass(frozen=True)
class SentCase:
    """A case as it was sent."""

    name: str
    found: tuple[tuple[str, Path], ...]
    """Sockets, suffixes or flags, and their files."""
    out: Path
    """The segmentation's file."""


class Parser(argparse.ArgumentParser):
    """One whose errors are this package's."""

    def error(self, message: str) -> NoReturn:
        raise SettingsError(message)


def sent_cases(mapping: InputMapping, options: argparse.Namespace) -> list[SentCase]:
    """The cases under the mapping's contract.

    Args:
        options: as `add_options` made the parser read them.

    Raises:
        ModalityError: something was sent that the mapping does not know, or nothing at all.
        SettingsError: an output file of an unknown format.
    """
    return _CONTRACTS[mapping.target](mapping, options)


def add_options(parser: argparse.ArgumentParser, mapping: InputMapping) -> None:
    """What the contract hands over: two folders, or a flag for each modality and the segmentation's file.

    Raises:
        SettingsError: a flag of the mapping has another meaning already.
    """
    if mapping.target != "fomo":
        parser.add_argument("--input", type=Path, default=INPUT, help="folder (default: %(default)s)")
        parser.add_argument("--output", type=Path, default=OUTPUT, help="folder (default: %(default)s)")
        return
    parser.add_argument("--output", type=Path, required=True, help="the segmentation's file")
    for flag, modality in mapping.inputs.items():
        try:
            parser.add_argument(f"--{flag}", type=Path, action="append", help=modality or "known and not used")
        except argparse.ArgumentError as error:
            raise SettingsError(f"The mapping's flag --{flag} has another meaning. Name it otherwise.") from error


def _from_sockets(mapping: InputMapping, options: argparse.Namespace) -> list[SentCase]:
    """grand-challenge.org: `inputs.json` lists the sockets of the one case, each with a folder that holds an image."""
    found = []
    for slug, folder in _sockets(options.input / "inputs.json"):
        if slug in dict(found):
            raise ModalityError(f"{options.input / 'inputs.json'} lists the socket {slug} twice.")
        if mapping.modality(slug, f"The socket {slug}") is not None:
            found.append((slug, _only_image(slug, options.input / folder)))
    return [SentCase("case", tuple(found), options.output / "images" / mapping.output / "output.mha")]


def _from_suffixes(mapping: InputMapping, options: argparse.Namespace) -> list[SentCase]:
    """BraTS and nnU-Net: files CASE and a suffix, in folders of their cases or all in one."""
    found: dict[str, list[tuple[str, Path]]] = {}
    if not options.input.is_dir():
        raise ModalityError(f"{options.input} is no folder.")
    for file in sorted(options.input.rglob("*")):
        if (ending := image_ending(file)) is None:
            continue
        stem = file.name.removesuffix(ending)
        suffix = max((key for key in mapping.inputs if stem.endswith(key) and stem != key), key=len, default=None)
        if suffix is None:
            known = ", ".join(f"CASE{key}{mapping.output}" for key in mapping.inputs)
            raise ModalityError(f"{file} is not known. Known are {known}; add its suffix to mapping.json.")
        found.setdefault(stem.removesuffix(suffix), []).append((suffix, file))
    if not found:
        raise ModalityError(f"{options.input} holds no image, in whatever folder. Images end in {_ENDINGS}.")
    return [SentCase(case, tuple(files), options.output / f"{case}{mapping.output}") for case, files in found.items()]


def _from_flags(mapping: InputMapping, options: argparse.Namespace) -> list[SentCase]:
    """FOMO: a flag for each sequence that there is, and one for the segmentation's file."""
    out = options.output
    if image_ending(out) is None:
        raise SettingsError(f"--output is {out}; it must end in one of {_ENDINGS}.")
    given = vars(options)
    found = [(flag, file) for flag in mapping.inputs for file in given[flag.replace("-", "_")] or ()]
    return [SentCase(out.name.removesuffix(image_ending(out) or ""), tuple(found), out)]


_ENDINGS = ", ".join(sorted(IMAGE_ENDINGS))
_CONTRACTS: dict[str, Callable[[InputMapping, argparse.Namespace], list[SentCase]]] = {
    "grand-challenge": _from_sockets,
    "brats": _from_suffixes,
    "fomo": _from_flags,
    "plain": _from_suffixes,
}


def _sockets(file: Path) -> list[tuple[str, str]]:
    """The slugs and folders that the platform lists; it has called a socket an interface before."""
    try:
        listed = [entry.get("socket") or entry["interface"] for entry in json.loads(file.read_text())]
        return [(socket["slug"], socket.get("relative_path") or f"images/{socket['slug']}") for socket in listed]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModalityError(
            f"{file} cannot be read as grand-challenge.org writes it, a list of sockets with their slugs: "
            f"{type(error).__name__}: {error}."
        ) from error


def _only_image(slug: str, folder: Path) -> Path:
    files: Sequence[Path] = sorted(folder.iterdir()) if folder.is_dir() else ()
    images = [file for file in files if image_ending(file) is not None]
    if len(images) != 1:
        what = ", ".join(map(str, images or files)) or "nothing"
        raise ModalityError(
            f"The socket {slug} must have one image in {folder}, ending in one of {_ENDINGS}; there is {what}."
        )
    return images[0]
