"""Read JSON, so that all content that Python or nnU-Net cannot read is refused in the same way."""

import codecs
import json
from pathlib import Path
from typing import Any

from nnunet_moe.errors import FileError


def parse_json(content: str | bytes) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: it is not JSON in UTF-8, or has too many brackets within each other.
    """
    try:
        return json.loads(content if isinstance(content, str) else content.decode("utf-8"))
    except RecursionError as error:
        raise ValueError("it has too many brackets within each other") from error


def load_json(file: Path) -> Any:
    """Return the content of a JSON file of any kind, if nnU-Net can read it, too.

    Raises:
        OSError: the file cannot be read.
        ValueError: see `parse_json`; or it starts with a byte order mark.
    """
    content = file.read_bytes()
    if content.startswith(codecs.BOM_UTF8):
        raise ValueError("it starts with a byte order mark (BOM). Save it as UTF-8 without BOM")
    return parse_json(content)


def read_json(file: Path, kind: type = dict) -> Any:
    """Return the content of a JSON file.

    Args:
        file: the file.
        kind: what the content must be, `dict` or `list`.

    Raises:
        FileError: the file cannot be read, is not JSON, or has other content.
    """
    try:
        content = load_json(file)
    except (OSError, ValueError) as error:
        raise FileError(
            f"{file} cannot be read as JSON: {error}. Restore it, or rerun the command that wrote it."
        ) from error
    if not isinstance(content, kind):
        wanted = "an object" if kind is dict else "a list"
        raise FileError(f"{file} does not contain {wanted}. Restore it, or rerun the command that wrote it.")
    return content
