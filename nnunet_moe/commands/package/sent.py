"""The cases that are sent under each contract: which files there are, of which modality, and where the result goes."""

import argparse
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import NoReturn

from nnunet_moe.commands.package.mapping import GRID_ENDINGS, IMAGE_ENDINGS, InputMapping, image_ending
from nnunet_moe.errors import ModalityError, SettingsError

INPUT, OUTPUT = Path("/input"), Path("/output")
NO_IMAGES = (".json", ".txt", ".csv", ".tsv", ".md", ".xml", ".bval", ".bvec")
"""Of files that may lie beside images."""
_ENDINGS = ", ".join(sorted(IMAGE_ENDINGS))


@dataclass(frozen=True)
class InputCase:
    """A case as it was sent."""

    name: str
    found: tuple[tuple[str, Path], ...]
    """Sockets, suffixes or flags, and their files."""
    out: Path
    """The segmentation's file."""
    problem: str | None = None
    """Why it cannot be segmented, as far as the names of the files tell."""

    def files(self, mapping: InputMapping) -> dict[str, Path]:
        """Modality -> file.

        Raises:
            ModalityError: there is a problem, two files are of one modality, or none is of any.
        """
        if self.problem is not None:
            raise ModalityError(self.problem)
        return mapping.files(self.found)


class Parser(argparse.ArgumentParser):
    """One whose errors are this package's."""

    def error(self, message: str) -> NoReturn:
        raise SettingsError(message)


def sent_cases(mapping: InputMapping, options: argparse.Namespace) -> list[InputCase]:
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
        what = (modality or "known and not used").replace("%", "%%")
        try:
            parser.add_argument(
                f"--{flag}", dest=f"--{flag}", type=Path, action="append", default=[], metavar="FILE", help=what
            )
        except argparse.ArgumentError as error:
            raise SettingsError(f"The mapping's flag --{flag} has another meaning. Name it otherwise.") from error


def _from_sockets(mapping: InputMapping, options: argparse.Namespace) -> list[InputCase]:
    """grand-challenge.org: `inputs.json` lists the sockets of the one case, each with a folder that holds an image."""
    found: list[tuple[str, Path]] = []
    for slug, folder in _sockets(options.input / "inputs.json"):
        if slug in dict(found):
            raise ModalityError(f"{options.input / 'inputs.json'} lists the socket {slug} twice.")
        if mapping.modality(slug, f"The socket {slug}") is not None:
            found.append((slug, _only_image(slug, options.input / folder)))
    return [InputCase("case", tuple(found), options.output / mapping.output_file)]


def _from_subjects(mapping: InputMapping, options: argparse.Namespace) -> list[InputCase]:
    """BraTS: a folder for each subject, with files SUBJECT and a suffix; or such files without folders."""
    cases = {case.name: case for case in _cases_in(options.input, mapping, options.output)}
    for path in sorted(path for path in options.input.iterdir() if not path.name.startswith(".")):
        if path.is_file() or image_ending(path) is not None:
            continue
        of_folder = _case_of(path, mapping, options.output)
        if path.name in cases:
            of_folder = replace(of_folder, problem=f"There are files of {path.name} beside the folder {path}, too.")
        cases[path.name] = of_folder
    return list(cases.values())


def _case_of(folder: Path, mapping: InputMapping, out: Path) -> InputCase:
    """The one subject whose folder it is."""
    case = InputCase(folder.name, (), out / f"{folder.name}{mapping.output}")
    try:
        if not folder.exists():
            return replace(case, problem=f"{folder} is a link to something that is not there.")
        found = [*_cases_in(folder, mapping, out), *_nested(folder, mapping, out)]
    except OSError as error:
        return replace(case, problem=f"{folder} cannot be read: {error.strerror}.")
    if not found:
        return replace(case, problem=f"{folder} holds no image. Images end in {_ENDINGS}.")
    if problem := next((of_files.problem for of_files in found if of_files.problem), None):
        return replace(case, problem=problem)
    if [of_files.name for of_files in found] != [folder.name]:
        names = ", ".join(of_files.name for of_files in found)
        return replace(case, problem=f"The files in {folder} are named {names}, not {folder.name} and a suffix.")
    return found[0]


def _from_folder(mapping: InputMapping, options: argparse.Namespace) -> list[InputCase]:
    """nnU-Net's naming: files CASE_XXXX in one folder."""
    return [
        *_cases_in(options.input, mapping, options.output),
        *_nested(options.input, mapping, options.output),
    ]


def _nested(folder: Path, mapping: InputMapping, out: Path) -> list[InputCase]:
    """A problem for each folder in another one, where there should be files alone, that holds an image."""
    return [
        InputCase(path.name, (), out / f"{path.name}{mapping.output}", f"{path} is a folder with images in a folder.")
        for path in sorted(folder.iterdir())
        if path.is_dir() and image_ending(path) is None and any(map(image_ending, path.rglob("*")))
    ]


def _cases_in(folder: Path, mapping: InputMapping, out: Path) -> list[InputCase]:
    """The cases of which files lie in a folder; an unknown image is a problem of the case that its name begins with."""
    if not folder.is_dir():
        raise ModalityError(f"{folder} is no folder.")
    found: dict[str, list[tuple[str, Path]]] = {}
    unknown: dict[str, Path] = {}
    others: list[Path] = []
    for file in sorted(path for path in folder.iterdir() if not path.name.startswith(".")):
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
        problems[max(named, key=len, default=stem)] = f"{file} is not known. Known are {known}; see mapping.json."
    for file in others:
        stem = file.name.partition(".")[0]
        suffix = _suffix(stem, mapping)
        if suffix is None or file.suffix.lower() in NO_IMAGES or file.is_dir():
            continue
        case = stem.removesuffix(suffix)
        if suffix not in dict(found.get(case, ())):
            problems[case] = f"{file} is in no format that is read. Images end in {_ENDINGS}."
    return [
        InputCase(case, tuple(found.get(case, ())), out / f"{case}{mapping.output}", problems.get(case))
        for case in sorted({*found, *problems})
    ]


def _suffix(stem: str, mapping: InputMapping) -> str | None:
    """The suffix with which a file's name without its ending ends."""
    return max((key for key in mapping.inputs if stem.endswith(key) and stem != key), key=len, default=None)


def _from_flags(mapping: InputMapping, options: argparse.Namespace) -> list[InputCase]:
    """FOMO: a flag for each sequence that there is, and one for the segmentation's file."""
    out: Path = options.output
    ending = next((ending for ending in GRID_ENDINGS if out.name.endswith(ending)), None)
    if ending is None or out.name == ending:
        raise SettingsError(f"--output is {out}; it must have a name and end in one of {', '.join(GRID_ENDINGS)}.")
    found = [(flag, file) for flag in mapping.inputs for file in vars(options)[f"--{flag}"]]
    return [InputCase(out.name.removesuffix(ending), tuple(found), out)]


_CONTRACTS: dict[str, Callable[[InputMapping, argparse.Namespace], list[InputCase]]] = {
    "grand-challenge": _from_sockets,
    "brats": _from_subjects,
    "fomo": _from_flags,
    "plain": _from_folder,
}


def _sockets(file: Path) -> list[tuple[str, str]]:
    """The slugs and folders that the platform lists; it has called a socket an interface before."""
    try:
        listed = json.loads(file.read_text())
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
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModalityError(
            f"{file} cannot be read as grand-challenge.org writes it, a list of sockets with slugs and paths: "
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
