"""Patterns of file names, which identify cases and modalities."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nnunet_moe.errors import SettingsError

LABEL = "segmentation"
"""The key of the segmentations' pattern among the names of the modalities."""
NO_PATTERN = "No pattern matches."
NO_IMAGE = " has a segmentation, but no image. Check the patterns."


class Pattern:
    """A pattern of paths below a folder.

    - `{case}` matches a part of a name, as short as possible. If it is repeated, it matches the same text each time.
    - Other names in braces match further parts: `{patient}/{visit}/flair.nii.gz`.
    - `*` matches anything within a name, `?` one character, and `**/` any folders.
    - A pattern without `/` matches the file name, in any folder.

    Args:
        text: the pattern.

    Raises:
        SettingsError: the pattern has no name in braces.
    """

    def __init__(self, text: str) -> None:
        self.fields: list[str] = []
        expression = "".join(map(self._part, re.findall(r"\{\w+\}|\*\*/|\*|\?|[^*?{]+|\{", text)))
        if not self.fields:
            raise SettingsError(
                f"The pattern {text!r} has no name in braces. Put {{case}} in the place of the case's name."
            )
        self._expression = re.compile(expression if "/" in text else f"(?:.*/)?{expression}", re.DOTALL)

    def match(self, path: str) -> dict[str, str] | None:
        """Return the values of the names in braces for a path with `/` between folders, or None without a match."""
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
    """A file that was not placed, or that looks suspect."""

    file: Path
    reason: str


def find_cases(
    folder: Path, patterns: Mapping[str, Pattern], file_ending: str
) -> tuple[dict[str, FoundCase], list[Problem]]:
    """Find the cases of a folder by patterns.

    Args:
        folder: the folder; all folders below it are searched, too.
        patterns: modality -> pattern, and `LABEL` -> pattern of the segmentations.
        file_ending: files with other endings are ignored.

    Returns:
        Case -> files, and the files that could not be placed. If any file of a case is ambiguous, the whole case is
        skipped.
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
            spoilt |= dict.fromkeys(names, "which has a file that matches several patterns")
            problems.append(
                Problem(path, f"The patterns of {' and '.join(matches)} match. Make the patterns more specific.")
            )
            continue
        (name,), ((modality, match),) = names, matches.items()
        if fields_of.setdefault(name, match) != match:
            spoilt.setdefault(name, "a name that several cases would get")
        case = cases.setdefault(name, FoundCase())
        before = case.label if modality == LABEL else case.images.get(modality)
        if before is not None:
            spoilt.setdefault(name, "which has two files for one modality")
            reason = f"{before} is {modality} of {name}, too. Make the pattern match only one of them."
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
