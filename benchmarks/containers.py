"""Build the container of every target of `nnunet_moe package`, and run its `test.sh`. Print Markdown.

    python benchmarks/containers.py --out containers

Trains the model of `nnunet_moe demo` for two steps with nnU-Net's commands, and packages it for each target. A target
passes if `test.sh` does, and if the container's segmentation equals that of the same program outside of it.

The script needs Docker or Podman (Debian: `apt-get install podman buildah runc`), a network for the builds, and
disk for images of several GB. It passes the variables of `test.sh` on, for example where the kernel is restrictive:

    export CONTAINER_ENGINE=podman
    export CONTAINER_BUILD_OPTIONS="--network host --ulimit nofile=1024:1024 --ulimit nproc=4096:4096"
    export CONTAINER_RUN_OPTIONS="--runtime runc --ulimit nofile=1024:1024 --ulimit nproc=4096:4096"

`--debootstrap SUITE` makes the base image from Debian's packages, where Docker Hub cannot be reached (as root; Debian:
`apt-get install debootstrap`). Its Python must have the version of the Python that runs this script.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from demo_model import MODEL, train_demo_model

from nnunet_moe.commands.package import TARGETS
from nnunet_moe.commands.package.mapping import InputMapping
from nnunet_moe.commands.package.sample import sample_arguments, sample_result
from nnunet_moe.reports.table import markdown_table
from nnunet_moe.runtime.environment import machine, versions
from nnunet_moe.runtime.workspace import Workspace

LENGTH = {"num_epochs": 1, "num_iterations_per_epoch": 2, "num_val_iterations_per_epoch": 7}
ENGINES = ("docker", "podman")
PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
PACKAGES = "python3,python3-pip,ca-certificates"
HEADER = ("target", "engine", "result", "image", "test.sh", "the container said")


@dataclass(frozen=True)
class Tested:
    """What came of one target."""

    engine: str
    result: str
    size: str = ""
    seconds: str = ""
    said: str = ""


def main() -> None:
    """Train once, then package, build and run for each target."""
    options = _options()
    engine = _engine()
    workspace = Workspace(options.out, reuse=True)
    base = options.base
    if options.debootstrap is not None:
        base = _made_base(engine, workspace.folder / "root", options.debootstrap, options.mirror)
    train_demo_model(workspace, num_training=5, length=LENGTH)
    rows = []
    for target in options.targets:
        app = _packaged(workspace, target, base, cpu=options.cpu)
        for each in _engines_of(target, engine, base):
            tested = _tested(app, each)
            print(f"{target}, {tested.engine}: {tested.result}", flush=True)
            rows.append((target, tested.engine, tested.result, tested.size, tested.seconds, tested.said))
    print(f"\n{machine()}, {_says(engine)}, torch {versions('torch')['torch']}")
    print(f"Base image: {base or 'the one that the Dockerfile names'}\n")
    print(markdown_table(HEADER, rows))
    if any(row[2] != "passed" and not row[2].startswith("not run") for row in rows):
        sys.exit(1)


def _engine() -> str:
    """Return the engine to use, or exit with what to install."""
    forced = os.environ.get("CONTAINER_ENGINE")
    problems = []
    for name in (forced,) if forced else ENGINES:
        if shutil.which(name) is None:
            problems.append(f"{name} is not installed.")
            continue
        done = subprocess.run([name, "info"], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return name
        problems.append(f"{name} does not work: {done.stderr.strip().splitlines()[-1]}")
    sys.exit(
        f"No program can build the containers. {' '.join(problems)} Install one, for example with "
        "`apt-get install podman buildah runc` on Debian, or name one in CONTAINER_ENGINE."
    )


def _engines_of(target: str, engine: str, base: str | None) -> list[str]:
    """Return the engines for a target. FOMO runs Apptainer, whose base image only comes from Docker Hub here."""
    return [engine, "apptainer"] if target == "fomo" and base is None else [engine]


def _made_base(engine: str, root: Path, suite: str, mirror: str | None) -> str:
    """Make a base image from Debian's packages, unless an earlier run did, and return its name."""
    name = f"localhost/nnunet-moe-{suite}"
    if subprocess.run([engine, "image", "inspect", name], capture_output=True, check=False).returncode == 0:
        return name
    if shutil.which("debootstrap") is None or os.geteuid() != 0:
        sys.exit("--debootstrap needs the program debootstrap (Debian: `apt-get install debootstrap`) and root.")
    shutil.rmtree(root, ignore_errors=True)
    where = [suite, str(root), *([mirror] if mirror else [])]
    subprocess.run(["debootstrap", "--variant=minbase", f"--include={PACKAGES}", *where], check=True)
    if not (root / "usr" / "bin" / PYTHON).exists():
        sys.exit(f"Debian {suite} has no {PYTHON}, which runs this script. Choose another suite or another Python.")
    (root / "usr" / "bin" / "python").symlink_to("python3")
    for marker in root.glob("usr/lib/python3*/EXTERNALLY-MANAGED"):  # the image has no other use for its Python
        marker.unlink()
    with subprocess.Popen(["tar", "-C", str(root), "-c", "."], stdout=subprocess.PIPE) as tar:
        subprocess.run([engine, "import", "-", name], stdin=tar.stdout, check=True)
    shutil.rmtree(root)
    return name


def _packaged(workspace: Workspace, target: str, base: str | None, *, cpu: bool) -> Path:
    """Package the model, and return the folder. Another base image replaces that of the Dockerfile."""
    app = workspace.folder / f"container-{target}{'-cpu' if cpu else ''}"
    shutil.rmtree(app, ignore_errors=True)
    more = ("--cpu",) if cpu else ()
    workspace.run("nnunet_moe", "package", *MODEL, "--disable_tta", "-o", str(app), "--target", target, *more)
    if base is not None:
        first, _, others = (app / "Dockerfile").read_text(encoding="utf-8").partition("\n")
        assert first.startswith("FROM ")
        (app / "Dockerfile").write_text(f"FROM {base}\n{others}", encoding="utf-8")
    return app


def _tested(app: Path, engine: str) -> Tested:
    """Run `test.sh`, whose output goes to a file next to the folder."""
    if shutil.which(engine) is None:
        return Tested(engine, f"not run: {engine} is not installed")
    start, log = time.monotonic(), app.with_name(f"{app.name}-{Path(engine).name}.log")
    shutil.rmtree(app / "sample" / "output", ignore_errors=True)
    with log.open("w", encoding="utf-8") as out:
        environment = {**os.environ, "CONTAINER_ENGINE": engine}
        done = subprocess.run([app / "test.sh"], stdout=out, stderr=subprocess.STDOUT, env=environment, check=False)
    seconds = f"{time.monotonic() - start:.0f} s"
    if done.returncode != 0:
        return Tested(engine, f"FAILED: see {log}", seconds=seconds)
    said = [line for line in log.read_text(encoding="utf-8").splitlines() if "volumes: " in line][-1]
    result = "passed" if _equals_outside(app) else "FAILED: another segmentation than outside of the container"
    return Tested(engine, result, _size(engine, app), seconds, said)


def _equals_outside(app: Path) -> bool:
    """Return whether the container's segmentation equals that of its program in this environment."""
    mapping, inside, outside = InputMapping.read(app / "mapping.json"), app / "sample" / "output", app / "outside"
    modalities = [modality for modality in mapping.inputs.values() if modality is not None]
    arguments = sample_arguments(mapping, modalities, str(app / "sample" / "input"), str(outside))
    subprocess.run([sys.executable, app / "predict.py", *arguments, "--device", "cpu"], check=True, capture_output=True)
    first, second = (sitk.ReadImage(str(folder / sample_result(mapping))) for folder in (inside, outside))
    return np.array_equal(sitk.GetArrayFromImage(first), sitk.GetArrayFromImage(second))


def _size(engine: str, app: Path) -> str:
    if engine == "apptainer":
        num_bytes = (app / f"{app.name}.sif").stat().st_size
    else:
        inspect = [engine, "image", "inspect", "--format", "{{.Size}}", app.name]
        num_bytes = int(subprocess.run(inspect, capture_output=True, text=True, check=True).stdout)
    return f"{num_bytes / 1e9:.2f} GB"


def _says(engine: str) -> str:
    return subprocess.run([engine, "--version"], capture_output=True, text=True, check=True).stdout.strip()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--out", type=Path, required=True, help="write all files to this folder; a model in it is used again"
    )
    parser.add_argument(
        "--targets", nargs="+", choices=TARGETS, default=TARGETS, help="test these targets (default: all)"
    )
    parser.add_argument("--cpu", action="store_true", help="test the variant for CPUs")
    base = parser.add_mutually_exclusive_group()
    base.add_argument("--base", metavar="IMAGE", help="build on this image (default: that of the Dockerfile)")
    base.add_argument("--debootstrap", metavar="SUITE", help="build on an image of this Debian release")
    parser.add_argument("--mirror", metavar="URL", help="use this mirror of Debian's packages (default: debootstrap's)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
