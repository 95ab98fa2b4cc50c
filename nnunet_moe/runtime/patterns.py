"""Patterns of names, which identify cases, modalities and patients."""

import re

from nnunet_moe.errors import SettingsError

_WILD = {"**/": "(?:.*/)?", "*": "[^/]*", "?": "[^/]"}


class Pattern:
    """A pattern of paths below a folder.

    - `{case}` matches a part of a name, as short as possible. If it is repeated, it matches the same text each time.
    - Other names in braces match further parts: `{patient}/{visit}/flair.nii.gz`.
    - `*` matches anything within a name, `?` one character, and `**/` any folders.
    - A pattern without `/` matches the file name, in any folder.

    Args:
        text: the pattern.

    Raises:
        SettingsError: the pattern has no name in braces, or one with a digit at its start.
    """

    def __init__(self, text: str) -> None:
        self.fields: list[str] = []
        self.num_fixed = 0
        """The number of characters that a path must have, apart from names in braces, `*`, `?` and `**/`."""
        expression = "".join(map(self._part, re.findall(r"\{\w+\}|\*\*/|\*|\?|[^*?{]+|\{", text)))
        if not self.fields:
            raise SettingsError(
                f"The pattern {text!r} has no name in braces. Put {{case}} in the place of the case's name."
            )
        if bad := [field for field in self.fields if not field.isidentifier()]:
            raise SettingsError(
                f"The pattern {text!r} has the name {{{bad[0]}}}. Names in braces must consist of letters, digits and "
                "_, and not start with a digit. Rename it."
            )
        self._expression = re.compile(expression if "/" in text else f"(?:.*/)?{expression}", re.DOTALL)

    def match(self, path: str) -> dict[str, str] | None:
        """Return the values of the names in braces for a path with `/` between folders, or None without a match."""
        match = self._expression.fullmatch(path)
        return None if match is None else match.groupdict()

    def matches_in_other_case(self, path: str) -> bool:
        """Return whether a path matches if upper and lower case are the same."""
        return re.fullmatch(self._expression.pattern, path, re.DOTALL | re.IGNORECASE) is not None

    def _part(self, text: str) -> str:
        if name := re.fullmatch(r"\{(\w+)\}", text):
            if name[1] in self.fields:
                return f"(?P={name[1]})"
            self.fields.append(name[1])
            return f"(?P<{name[1]}>[^/]+?)"
        if text in _WILD:
            return _WILD[text]
        self.num_fixed += len(text)
        return re.escape(text)
