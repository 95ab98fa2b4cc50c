"""Installed versions, and the variable `nnUNet_extTrainer`, by which nnU-Net finds our trainers."""

import importlib.util
import os
import platform
import re
import shlex
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

VARIABLE = "nnUNet_extTrainer"
DISTRIBUTION = "nnunet-moe"
TRAINING_PACKAGES = ("torch", "nnunetv2", "batchgeneratorsv2", "dynamic-network-architectures")
"""The packages that draw, augment and compute in a training, apart from this one."""


def own_version() -> str:
    """Return the version of this package, or "not installed" in a checkout that was never installed."""
    return _version(DISTRIBUTION)


def version_line() -> str:
    """Return one line with the versions that a bug report needs."""
    others = ", ".join(f"{name} {number}" for name, number in versions("nnunetv2", "torch").items())
    return f"nnunet_moe {own_version()} ({others}, Python {platform.python_version()})"


def versions(*packages: str) -> dict[str, str]:
    """Return package -> version, or "not installed", which this package is in a checkout that was never installed."""
    return {package: _version(package) for package in packages}


def training_versions() -> dict[str, str]:
    """Return the versions of the packages on which the result of a training depends."""
    return versions(DISTRIBUTION, *TRAINING_PACKAGES)


def external_trainers_folder() -> Path:
    """Return the folder that holds only the module of re-exports, without importing the trainers."""
    spec = importlib.util.find_spec("nnunet_moe.trainers")
    assert spec is not None and spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]).resolve() / "external"


def export_line(shell: str) -> str:
    """Return the line that adds our trainers to the variable, for `bash` (also zsh, sh), `fish` or `powershell`."""
    folder = shlex.quote(str(external_trainers_folder()))
    if shell == "powershell":
        folder = "'" + str(external_trainers_folder()).replace("'", "''") + "'"
        return f"$env:{VARIABLE} = {folder} + $(if ($env:{VARIABLE}) {{'{os.pathsep}' + $env:{VARIABLE}}})"
    if shell == "fish":
        return f"set -gx --path {VARIABLE} {folder} ${VARIABLE}"
    return f"export {VARIABLE}={folder}${{{VARIABLE}:+{os.pathsep}${VARIABLE}}}"


@contextmanager
def variable(name: str, value: str) -> Iterator[None]:
    """Set an environment variable inside the block."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def trainers_known() -> AbstractContextManager[None]:
    """Let nnU-Net find our trainers inside the block, also if the user did not set the variable."""
    folders = (str(external_trainers_folder()), os.environ.get(VARIABLE))
    return variable(VARIABLE, os.pathsep.join(filter(None, folders)))


def machine() -> str:
    """Describe this machine in words, for reports of measurements."""
    cpuinfo = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", cpuinfo.read_text(encoding="utf-8")) if cpuinfo.exists() else []
    return f"{platform.platform()}, {f'{len(names)} x {names[0]}' if names else platform.processor()}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
