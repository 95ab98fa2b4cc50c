"""Write this installation as a wheel, and list the installed versions of its requirements."""

import base64
import hashlib
import re
import zipfile
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution, distributions
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from nnunet_moe.errors import SettingsError

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable  # since Python 3.11

NAME, PACKAGE = "nnunet-moe", "nnunet_moe"
SUBPACKAGES = ("architectures", "trainers")
"""Folders that lie next to the package in a checkout, and inside the package in a wheel."""
WITH_CPU_BUILDS = ("torch", "torchvision")
"""Packages that have a CPU build in `CPU_INDEX`, of those that this package needs directly or indirectly."""
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
"""PyTorch's index of CPU builds. For Linux on x86-64, PyPI only has builds with CUDA."""
OF_TORCH = ("nvidia-", "cuda-", "triton")
"""Packages whose exact versions torch requires itself. They differ between the builds of torch."""
WHEEL = "Wheel-Version: 1.0\nGenerator: nnunet-moe\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def write_wheel(folder: Path) -> Path:
    """Write a wheel of this package as it is installed here, editable or not.

    Returns:
        The file of the wheel.

    Raises:
        SettingsError: the package is not installed; it runs from a checkout.
    """
    installed = _installed()
    release = f"{PACKAGE}-{installed.version}"
    contents = dict(_package_files())
    for name in ("METADATA", "entry_points.txt", "licenses/LICENSE"):
        contents[f"{release}.dist-info/{name}"] = (installed.read_text(name) or "").encode()
    contents[f"{release}.dist-info/WHEEL"] = WHEEL.encode()
    record = f"{release}.dist-info/RECORD"
    rows = [f"{name},sha256={_digest(content)},{len(content)}\n" for name, content in contents.items()]
    contents[record] = "".join([*rows, f"{record},,\n"]).encode()
    wheel = folder / f"{release}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content, zipfile.ZIP_DEFLATED)
    return wheel


def constraints(*, cpu: bool) -> list[str]:
    """Return `NAME==VERSION` of all installed packages that this package needs, directly or indirectly.

    The build of an installed version (`+cu130` in `2.9.1+cu130`) is removed, because not all indexes name it.

    Args:
        cpu: whether to require the CPU builds of torch. Their versions end in `+cpu`, so pip accepts no other.
    """
    found: dict[str, str] = {}
    waiting: list[tuple[Distribution, frozenset[str]]] = [(_installed(), frozenset())]
    seen = set()
    while waiting:
        needing, extras = waiting.pop()
        for requirement in map(Requirement, needing.requires or ()):
            name, more = canonicalize_name(requirement.name), frozenset(requirement.extras)
            if (name, more) in seen or name.startswith(OF_TORCH) or not _applies(requirement, extras):
                continue
            seen.add((name, more))
            try:
                needed = distribution(name)
            except PackageNotFoundError:  # needed only on another platform
                continue
            found[name] = needed.version.partition("+")[0] + ("+cpu" if cpu and name in WITH_CPU_BUILDS else "")
            waiting.append((needed, more))
    return sorted(f"{name}=={version}" for name, version in found.items())


def _applies(requirement: Requirement, extras: frozenset[str]) -> bool:
    """Return whether a requirement holds for a package that is installed with these extras, on any platform."""
    marker = requirement.marker
    return marker is None or "extra" not in str(marker) or any(marker.evaluate({"extra": each}) for each in extras)


def _installed() -> Distribution:
    """Return the installed distribution of this package.

    A build may leave metadata next to a checkout. They are not an installation and are skipped.
    """
    for found in distributions(name=NAME):
        if found.read_text("METADATA"):
            return found
    raise SettingsError(
        f"{NAME} is not installed here, but the container needs it. Run `pip install PATH_OF_THE_CHECKOUT`."
    )


def _package_files() -> Iterator[tuple[str, bytes]]:
    yield from _files_below(files(PACKAGE), PACKAGE)
    for name in SUBPACKAGES:
        yield from _files_below(files(f"{PACKAGE}.{name}"), f"{PACKAGE}/{name}")


def _files_below(folder: "Traversable", name: str) -> Iterator[tuple[str, bytes]]:
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.is_file() and not entry.name.endswith(".pyc"):
            yield f"{name}/{entry.name}", entry.read_bytes()
        elif entry.is_dir() and not re.fullmatch(r"__pycache__|\..*", entry.name):
            yield from _files_below(entry, f"{name}/{entry.name}")


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
