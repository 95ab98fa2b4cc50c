"""Read YAML, and check the values in it."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from nnunet_moe.errors import SettingsError

NAME = re.compile(r"(?!.*__)[A-Za-z0-9]([A-Za-z0-9_.+-]*[A-Za-z0-9+])?")


class _Loader(yaml.SafeLoader):
    """A YAML loader that reads numbers as a person does, and refuses repeated keys.

    Here `010` is a text and `1e-3` a number. By default, YAML reads `010` as the number eight and `1e-3` as a text.
    Of two equal keys, YAML uses the last one, where this loader raises an error.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]  # pyright: ignore[reportArgumentType]
        if twice := [key for number, key in enumerate(keys) if key in keys[:number]]:
            raise yaml.constructor.ConstructorError(None, None, f"the key {twice[0]!r} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


_WHOLE = r"-?(0|[1-9][0-9]*)"
_NUMBERS = {"int": rf"{_WHOLE}$", "float": rf"({_WHOLE}(\.[0-9]*)?|-?\.[0-9]+)([eE][-+]?[0-9]+)?$"}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.rpartition(":")[2] not in _NUMBERS]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for kind, pattern in _NUMBERS.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{kind}", re.compile(pattern), list("-.0123456789"))


def load_yaml(file: Path, what: str) -> Any:
    """Return the content of a YAML file.

    Args:
        file: the file.
        what: what it should be, for the error.

    Raises:
        SettingsError: the file is missing or not YAML.
    """
    try:
        return yaml.load(file.read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError:
        raise SettingsError(f"{file} does not exist.{unset_variable(file)} Give {what}.") from None
    except OSError as error:
        raise SettingsError(f"{file} cannot be read: {error}. Give {what}.") from error
    except (yaml.YAMLError, UnicodeDecodeError, TypeError) as error:
        raise SettingsError(f"{file} is not valid YAML: {error}") from error


def path_in(folder: Path, given: str) -> Path:
    """Return a path from a study's file: relative to a folder, and with `$VARIABLES` and `~` replaced."""
    return folder / os.path.expanduser(os.path.expandvars(given))


def unset_variable(path: Path) -> str:
    """Return a sentence for an error about a path if it still has a variable, otherwise an empty text."""
    return " An environment variable in it is not set." if "$" in str(path) else ""


def checked(given: Any, where: str, keys: Mapping[str, Any], required: Sequence[str] = ()) -> dict[str, Any]:
    """Check the keys of an object, and convert each value with the function of its key.

    Raises:
        SettingsError: a key is unknown or missing, or a function refuses its value.
    """
    if not isinstance(given, dict):
        raise SettingsError(f"{where} is {given!r}. It must be an object with the keys {', '.join(keys)}.")
    if unknown := [str(key) for key in given if key not in keys]:
        raise SettingsError(f"{where} has the unknown key {', '.join(unknown)}. Allowed are {', '.join(keys)}.")
    if missing := [key for key in required if key not in given]:
        raise SettingsError(f"{where} lacks {', '.join(missing)}. Add it.")
    return {key: keys[key](value, key) for key, value in given.items()}


def text(value: Any, key: str) -> str:
    """Return a text or a whole number as text.

    Raises:
        SettingsError: the value is something else, or empty.
    """
    if not isinstance(value, (str, int)) or isinstance(value, bool) or not str(value):
        raise SettingsError(f"{key} is {value!r}. It must be a name.")
    return str(value)


def file_name(value: Any, key: str) -> str:
    """Return a text that may become part of file names.

    Raises:
        SettingsError: the value is something else.
    """
    if not isinstance(value, str) or not NAME.fullmatch(value):
        raise SettingsError(
            f"{key} is {value!r}. It becomes part of file names. Letters, digits and single _ . + - are allowed."
        )
    return value


def filled_list(value: Any, key: str) -> list:
    """Return a list with at least one entry.

    Raises:
        SettingsError: the value is something else.
    """
    if not isinstance(value, list) or not value:
        raise SettingsError(f"{key} is {value!r}. It must be a list with at least one entry.")
    return value


def is_number(value: Any) -> bool:
    """Return whether a value is a number, which `true` and `false` are not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)
