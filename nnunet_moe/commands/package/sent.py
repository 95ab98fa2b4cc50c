"""Find the cases that a contract sends: their files and modalities, and the file for each result."""

import argparse
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import NoReturn

from nnunet_moe.commands.package.mapping import GRID_ENDINGS, IMAGE_ENDINGS, InputMapping, image_ending
from nnunet_moe.errors import ModalityError, SettingsError
from nnunet_moe.runtime.files import visible
from nnunet_moe.runtime.json_files import load_json

INPUT, OUTPUT = Path("/input"), Path("/output")
NO_IMAGES = (".json", ".txt", ".csv", ".tsv", ".md", ".xml", ".bval", ".bvec")
"""Endings of other files that may lie next to images."""
_ENDINGS = ", ".join(sorted(IMAGE_ENDINGS))


@dataclass(frozen=True)
class InputCase:
    """A case as it was sent."""

    name: str
    found: tuple[tuple[str, Path], ...]
    """Sockets, suffixes or flags, and their files."""
    out: Path
    """The file of the segmentation."""
    problem: str | None = None
    """Why the case cannot be segmented, if the file names show it already."""

    def files(self, mapping: InputMapping) -> dict[str, Path]:
        """Return the file of each modality.

        Raises:
            ModalityError: the case has a problem, two files have one modality, or no file has a known modality.
        """
        if self.problem is not None:
            raise ModalityError(self.problem)
        return mapping.files(self.found)


class Parser(argparse.ArgumentParser):
    """A parser that raises this package's errors."""

    def error(self, message: str) -> NoReturn:
        raise SettingsError(message)


def sent_cases(mapping: InputMapping, options: argparse.Namespace) -> list[InputCase]:
    """Find the cases as the mapping's contract sends them.

    Args:
        options: the parsed options that `add_options` added.

    Raises:
        ModalityError: the mapping does not contain an input that was sent, or nothing was sent.
        SettingsError: the format of the output file is unknown.
    """
    return _CONTRACTS[mapping.target](mapping, options)


def add_options(parser: argparse.ArgumentParser, mapping: InputMapping) -> None:
    """Add the contract's options: two folders, or one flag for each modality and one for the segmentation.

    Raises:
        SettingsError: a flag of the mapping is already taken.
    """
    if mapping.target != "fomo":
        parser.add_argument(
            "--input", type=Path, default=INPUT, help="read cases from this folder (default: %(default)s)"
        )
        parser.add_argument(
            "--output", type=Path, default=OUTPUT, help="write segmentations to this folder (default: %(default)s)"
        )
        return
    parser.add_argument("--output", type=Path, required=True, help="write the segmentation to this file")
    for flag, modality in mapping.inputs.items():
        what = (f"read {modality} from this file" if modality else "accept this file, but do not use it").replace(
            "%", "%%"
        )
        try:
            parser.add_argument(
                f"--{flag}", dest=f"--{flag}", type=Path, action="append", default=[], metavar="FILE", help=what
            )
        except argparse.ArgumentError as error:
            raise SettingsError(
                f"mapping.json: the flag --{flag} is already taken by the program. Choose another name."
            ) from error


def _from_sockets(mapping: InputMapping, options: argparse.Namespace) -> list[InputCase]:
    """Find the case of grand-challenge.org: `inputs.json` lists its sockets, each with a folder for one image."""
    found: list[tuple[str, Path]] = []
    for slug, folder in _sockets(options.input / "inputs.json"):
        if slug in dict(found):
            raise ModalityError(
                f"{options.input / 'inputs.json'} lists the socket {slug} twice. List each socket once."
            )
        if mapping.modality(slug, f"The socket {slug}") is not None:
            found.append((slug, _only_image(slug, options.input / folder)))
    return [InputCase("case", tuple(found), options.output / mapping.output_file)]


def _from_subjects(mapping: InputMapping, options: argparse.Namespace) -> list[InputCase]:
    """Find the cases of BraTS: files named CASE and a suffix, in one folder for each case or without folders."""
    cases = {case.name: case for case in _cases_in(options.input, mapping, options.output)}
    for path in visible(options.input):
        if path.is_file() or image_ending(path) is not None:
            continue
        of_folder = _case_of(path, mapping, options.output)
        if path.name in cases:
            of_folder = replace(
                of_folder, problem=f"{path.name} has files in the folder {path} and next to it. Keep one of them."
            )
        cases[path.name] = of_folder
    return list(cases.values())


def _case_of(folder: Path, mapping: InputMapping, out: Path) -> InputCase:
    """Find the case of a folder."""
    case = InputCase(folder.name, (), out / f"{folder.name}{mapping.output}")
    try:
        if not folder.exists():
            return replace(case, problem=f"{folder} is a link to a path that does not exist.")
        found = [*_cases_in(folder, mapping, out), *_nested(folder, mapping, out)]
    except OSError as error:
        return replace(case, problem=f"{folder} cannot be read: {error.strerror}.")
    if not found:
        return replace(case, problem=f"{folder} has no image. Images must end in one of {_ENDINGS}.")
    if problem := next((of_files.problem for of_files in found if of_files.problem), None):
        return replace(case, problem=problem)
    if [of_files.name for of_files in found] != [folder.name]:
        names = ", ".join(of_files.name for of_files in found)
        return replace(
            case, problem=f"The files in {folder} are named {names}. They must be named {folder.name} and a suffix."
        )
    return found[0]


def _from_folder(mapping: InputMapping, options: argparse.Namespace) -> list[InputCase]:
    """Find the cases of a folder with nnU-Net's file names, CASE_XXXX."""
    return [
        *_cases_in(options.input, mapping, options.output),
        *_nested(options.input, mapping, options.output),
    ]


def _nested(folder: Path, mapping: InputMapping, out: Path) -> list[InputCase]:
    """Report each subfolder with images as a problem, because images must lie directly in the folder."""
    return [
        InputCase(
            path.name,
            (),
            out / f"{path.name}{mapping.output}",
            f"{path} is a subfolder with images. Move the images one folder up.",
        )
        for path in visible(folder)
        if path.is_dir() and image_ending(path) is None and any(map(image_ending, path.rglob("*")))
    ]


def _cases_in(folder: Path, mapping: InputMapping, out: Path) -> list[InputCase]:
    """Find the cases whose files lie in a folder.

    An unknown image becomes a problem of the case whose name it starts with.
    """
    if not folder.is_dir():
        raise ModalityError(f"{folder} is not a folder.")
    found: dict[str, list[tuple[str, Path]]] = {}
    unknown: dict[str, Path] = {}
    others: list[Path] = []
    for file in visible(folder):
        if (ending := image_ending(file)) is None:
            others.append(file)
            continue
        stem = file.name.removesuffix(ending)
        suffix = _suffix(stem, mapping)
        if suffix is None:
            unknown[stem] = file
        else:
            found.setdefault(stem.removesuffix(suffix), []).append((suffix, file))
    known = ", ".join(f"CASE{key}{mapping.output}" for key in mapping.inputs)
    problems: dict[str, str] = {}
    for stem, file in unknown.items():
        named = [case for case in found if re.match(rf"{re.escape(case)}[^A-Za-z0-9]", stem)]
        problems[max(named, key=len, default=stem)] = (
            f"{file} is not known. Known names are {known}. Rename the file, or change mapping.json."
        )
    for file in others:
        stem = file.name.partition(".")[0]
        suffix = _suffix(stem, mapping)
        if suffix is None or file.suffix.lower() in NO_IMAGES or file.is_dir():
            continue
        case = stem.removesuffix(suffix)
        if suffix not in dict(found.get(case, ())):
            problems[case] = f"{file} has an unknown format. Images must end in one of {_ENDINGS}."
    return [
        InputCase(case, tuple(found.get(case, ())), out / f"{case}{mapping.output}", problems.get(case))
        for case in sorted({*found, *problems})
    ]


def _suffix(stem: str, mapping: InputMapping) -> str | None:
    """Return the longest known suffix of a file name that was stripped of its ending."""
    return max((key for key in mapping.inputs if stem.endswith(key) and stem != key), key=len, default=None)


def _from_flags(mapping: InputMapping, options: argparse.Namespace) -> list[InputCase]:
    """Find the case of FOMO: one flag for each available modality, and one for the segmentation."""
    out: Path = options.output
    ending = next((ending for ending in GRID_ENDINGS if out.name.endswith(ending)), None)
    if ending is None or out.name == ending:
        raise SettingsError(f"--output is {out}. It must have a name and end in one of {', '.join(GRID_ENDINGS)}.")
    found = [(flag, file) for flag in mapping.inputs for file in vars(options)[f"--{flag}"]]
    return [InputCase(out.name.removesuffix(ending), tuple(found), out)]


_CONTRACTS: dict[str, Callable[[InputMapping, argparse.Namespace], list[InputCase]]] = {
    "grand-challenge": _from_sockets,
    "brats": _from_subjects,
    "fomo": _from_flags,
    "plain": _from_folder,
}


def _sockets(file: Path) -> list[tuple[str, str]]:
    """Read the slugs and folders that the platform lists. Older versions call a socket an interface."""
    try:
        listed = load_json(file)
        if not isinstance(listed, list):
            raise ValueError(f"it holds a {type(listed).__name__}")
        sockets = [entry.get("socket") or entry["interface"] for entry in listed]
        found = [(socket["slug"], socket.get("relative_path") or f"images/{socket['slug']}") for socket in sockets]
        for slug, path in found:
            if not (isinstance(slug, str) and isinstance(path, str)):
                raise ValueError(f"the slug is {slug!r}, its path {path!r}")
            if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
                raise ValueError(f"the path of {slug} is {path}")
        return found
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModalityError(
            f"{file} cannot be read: {type(error).__name__}: {error}. It must be a list of sockets with slugs and "
            "paths, as grand-challenge.org writes it."
        ) from error


def _only_image(slug: str, folder: Path) -> Path:
    files: Sequence[Path] = visible(folder) if folder.is_dir() else ()
    images = [file for file in files if image_ending(file) is not None]
    if len(images) != 1:
        what = ", ".join(map(str, images or files)) or "nothing"
        raise ModalityError(
            f"The socket {slug} must have one image in {folder}, but it has {what}. Images must end in "
            f"one of {_ENDINGS}."
        )
    return images[0]
