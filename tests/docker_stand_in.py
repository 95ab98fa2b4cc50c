"""What `test.sh` asks of Docker, by namespaces: `build` copies, `run` contains. Anything else is an error.

`info` and `--version` work. `RUN pip` is left out: this Python has the packages. An image is a folder with
`image.json`.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from dockerfile_parse import DockerfileParser

from contained import run_contained


@dataclass(frozen=True)
class Image:
    """What a Dockerfile says of the process that runs."""

    folder: str
    """WORKDIR."""
    files: str
    """Where what was copied into it lies here."""
    environment: dict[str, str]
    user: str
    entry_point: list[str]


def read_dockerfile(file: Path) -> list[tuple[str, str]]:
    """Instructions and what they say."""
    parser = DockerfileParser(path=str(file), cache_content=True)
    return [(line["instruction"], line["value"]) for line in parser.structure if line["instruction"] != "COMMENT"]


def copy(value: str, context: Path, workdir: Path) -> None:
    """One COPY line: folders' contents, and files, into a folder of the image."""
    *sources, target = value.split()
    folder = workdir / target
    folder.mkdir(parents=True, exist_ok=True)
    for source in sources:
        if (context / source).is_dir():
            shutil.copytree(context / source, folder, dirs_exist_ok=True)
        else:
            shutil.copy(context / source, folder)


def build(context: Path, files: Path) -> Image:
    """Copy what the Dockerfile copies.

    Args:
        files: an empty folder, for the image's working directory.
    """
    said = dict(read_dockerfile(context / "Dockerfile"))
    for instruction, value in read_dockerfile(context / "Dockerfile"):
        if instruction == "COPY":
            copy(value, context, files)
    environment = dict(pair.split("=", 1) for pair in said["ENV"].split())
    return Image(said["WORKDIR"], str(files), environment, said["USER"], json.loads(said["ENTRYPOINT"]))


def run(
    image: Image,
    arguments: list[str],
    read_only: Mapping[str, Path],
    writable: Mapping[str, Path],
    user: str | None = None,
):
    """Run an image's entry point as its user, or another, without a network."""
    if image.user.partition(":")[0] in ("", "root", "0"):
        raise SystemExit("The user is root.")
    # Python's own folder alone: in the image there is no fc-list either, of which matplotlib would ask for fonts
    environment = {**image.environment, "PATH": str(Path(sys.executable).parent), "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as root:
        return run_contained(
            [sys.executable if word == "python" else word for word in image.entry_point] + arguments,
            Path(root),
            read_only={image.folder: Path(image.files), **read_only},
            writable=writable,
            environment=environment,
            user=user or image.user,
        )


def main() -> int:
    images = Path(os.environ["STAND_IN_IMAGES"])
    if sys.argv[1:] in (["info"], ["--version"]):
        print("Docker's stand-in")
        return 0
    if sys.argv[1] == "build":
        parser = argparse.ArgumentParser(allow_abbrev=False)
        parser.add_argument("--platform", choices=["linux/amd64"], required=True)
        parser.add_argument("--tag", required=True)
        parser.add_argument("context", type=Path)
        options = parser.parse_args(sys.argv[2:])
        folder = images / options.tag
        (folder / "files").mkdir(parents=True)
        (folder / "image.json").write_text(json.dumps(asdict(build(options.context, folder / "files"))))
        return 0
    assert sys.argv[1] == "run"
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for flag in ("--rm", "--read-only"):
        parser.add_argument(flag, action="store_true", required=True)
    for option, allowed in {
        "--platform": "linux/amd64",
        "--network": "none",
        "--tmpfs": "/tmp",
        "--cap-drop": "ALL",
        "--security-opt": "no-new-privileges",
    }.items():
        parser.add_argument(option, choices=[allowed], required=True)
    parser.add_argument("--user")
    parser.add_argument("--volume", action="append", default=[])
    parser.add_argument("image")
    parser.add_argument("arguments", nargs="*")
    options = parser.parse_args(sys.argv[2:])
    volumes = [volume.split(":") for volume in options.volume]
    done = run(
        Image(**json.loads((images / options.image / "image.json").read_text())),
        options.arguments,
        {inside: Path(path) for path, inside, *how in volumes if how == ["ro"]},
        {inside: Path(path) for path, inside, *how in volumes if not how},
        options.user,
    )
    print(done.stdout, end="")
    print(done.stderr, end="", file=sys.stderr)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
