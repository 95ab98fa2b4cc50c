"""Patterns of file names, from which cases and modalities are told."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nnunet_moe.errors import SettingsError

LABEL = "segmentation"
"""Stands among the modalities' names for the pattern of the segmentations."""
NO_PATTERN = "No pattern matches."
NO_IMAGE = " has a segmentation, as its pattern tells the case, but no image."


class Pattern:
    """A pattern of paths below a folder.

    `{case}` stands for a part of a name, as short as may be, and for the same one wherever it is repeated; other names
    in braces for further parts (`{patient}/{visit}/flair.nii.gz`). `*` is anything within a name, `?` one
    character, `**/` any folders. A pattern without `/` is of the file's name, in whatever folder.

    Args:
        text: the pattern.

    Raises:
        SettingsError: there is no `{case}` or the like in it.
    """

    def __init__(self, text: str) -> None:
        self.fields: list[str] = []
        expression = "".join(map(self._part, re.findall(r"\{\w+\}|\*\*/|\*|\?|[^*?{]+|\{", text)))
        if not self.fields:
            raise SettingsError(f"The pattern {text!r} tells no case. Put {{case}} where its name stands.")
        self._expression = re.compile(expression if "/" in text else f"(?:.*/)?{expression}", re.DOTALL)

    def match(self, path: str) -> dict[str, str] | None:
        """What the fields stand for in a path with `/` between folders; None if it does not match."""
        match = self._expression.fullmatch(path)
        return None if match is None else match.groupdict()

    def _part(self, text: str) -> str:
        if name := re.fullmatch(r"\{(\w+)\}", text):
            if name[1] in self.fields:
                return f"(?P={name[1]})"
            self.fields.append(name[1])
            return f"(?P<{name[1]}>[^/]+?)"
        return {"**/": "(?:.*/)?", "*": "[^/]*", "?": "[^/]"}.get(text) or re.escape(text)


@dataclass
class FoundCase:
    """The files of a case."""

    images: dict[str, Path] = field(default_factory=dict)
    """Modality -> file."""
    label: Path | None = None


@dataclass(frozen=True)
class Problem:
    """A file that was not placed, or not as one might expect."""

    file: Path
    reason: str


def find_cases(
    folder: Path, patterns: Mapping[str, Pattern], file_ending: str
) -> tuple[dict[str, FoundCase], list[Problem]]:
    """Tell the cases of a folder by patterns.

    Args:
        folder: searched with all folders below it.
        patterns: modality -> pattern, and `LABEL` -> pattern of segmentations.
        file_ending: files of other endings are not looked at.

    Returns:
        Case -> files, and the files that could not be placed; a case of which one could not is left out as a whole.
    """
    first = next(iter(patterns.values())).fields
    cases: dict[str, FoundCase] = {}
    fields_of: dict[str, dict[str, str]] = {}
    problems, spoilt = [], {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder).as_posix()
        if not relative.lower().endswith(file_ending.lower()) or path.name.startswith(".") or path.is_dir():
            continue
        matches = {name: match for name, pattern in patterns.items() if (match := pattern.match(relative)) is not None}
        if not matches:
            problems.append(Problem(path, NO_PATTERN))
            continue
        names = {"_".join(match[part] for part in first) for match in matches.values()}
        if len(matches) > 1:
            spoilt |= dict.fromkeys(names, "of which a file matches several patterns")
            problems.append(Problem(path, f"The patterns of {' and '.join(matches)} match. Make them tell it apart."))
            continue
        (name,), ((modality, match),) = names, matches.items()
        if fields_of.setdefault(name, match) != match:
            spoilt.setdefault(name, "which several cases would be called")
        case = cases.setdefault(name, FoundCase())
        before = case.label if modality == LABEL else case.images.get(modality)
        if before is not None:
            spoilt.setdefault(name, "of which there are two files for one modality")
            reason = f"{before} is {modality} of {name}, too. Make the pattern tell which is meant."
            problems.append(Problem(path, reason))
        elif modality == LABEL:
            case.label = path
        else:
            case.images[modality] = path
    for name in sorted(spoilt):
        problems += _left_out(cases.pop(name, FoundCase()), f"It belongs to {name}, {spoilt[name]}.")
    for name in [name for name, case in cases.items() if not case.images]:
        problems += _left_out(cases.pop(name), f"{name}{NO_IMAGE}")
    return dict(sorted(cases.items())), problems


def _left_out(case: FoundCase, reason: str) -> Sequence[Problem]:
    return [Problem(file, reason) for file in (*case.images.values(), case.label) if file is not None]
