"""How nnU-Net finds our trainers: its documented variable `nnUNet_extTrainer`."""

import importlib.util
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

VARIABLE = "nnUNet_extTrainer"


def external_trainers_folder() -> Path:
    """The folder that holds nothing but the module of re-exports; finding it does not import the trainers."""
    spec = importlib.util.find_spec("nnunet_moe.trainers")
    assert spec is not None and spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]).resolve() / "external"


def export_line(shell: str) -> str:
    """The line that makes our trainers known in `bash` (also zsh, sh) or `fish`; folders already named stay."""
    folder = shlex.quote(str(external_trainers_folder()))
    if shell == "fish":
        return f"set -gx --path {VARIABLE} {folder} ${VARIABLE}"
    return f"export {VARIABLE}={folder}${{{VARIABLE}:+{os.pathsep}${VARIABLE}}}"


@contextmanager
def trainers_known() -> Iterator[None]:
    """Let nnU-Net find our trainers inside the block, whatever the environment says."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = os.pathsep.join(filter(None, (str(external_trainers_folder()), before)))
    try:
        yield
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before
