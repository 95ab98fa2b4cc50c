"""What `package` writes to build containers: the choice of the engine in `test.sh`, and the variant for CPUs.

The engines here are scripts that write down how they are called. `test_package` has one that builds and contains.
"""

import json
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

from facts import facts
from nnunet_moe.cli import main
from nnunet_moe.commands.package.wheel import constraints

NEEDED = ("bash", "chmod", "cp", "dirname", "grep", "id", "mkdir", "mktemp", "readlink", "rm", "touch")
ENGINE = """#!/bin/sh
echo "{name} $*" >>"{log}"
case $1 in
    info | version) {answer} ;;
    --version) echo "{version} version 1.2.3" ;;
    run | exec) for word; do case $word in *:/output) echo labels >"${{word%:/output}}/phantom.nii.gz" ;; esac; done ;;
esac
"""
REFUSES = "echo Warning: slow disk >&2; echo Cannot connect to the service. >&2; exit 1"
READ_ONLY = "--read-only-tmpfs=false"
DOCKER_GPU, PODMAN_GPU, APPTAINER_GPU = "--gpus all", "--device nvidia.com/gpu=all", "--nv"


@pytest.fixture(scope="module")
def packages(trained, tmp_path_factory) -> dict[tuple[str, ...], Path]:
    """The options of the container -> what they package, always in a folder of the same name."""
    model = ("-d", 901, "-c", "3d_tiny", "-tr", "nnUNetTrainerMoESD", "-f", 0, "-device", "cpu", "--disable_tta")
    folders = {}
    for options in (("plain",), ("fomo",), ("fomo", "--cpu")):
        folders[options] = tmp_path_factory.mktemp("packages") / "app"
        main(["package", *map(str, (*model, "-o", folders[options], "--target", *options))])
    return folders


def run_script(
    app: Path, folder: Path, engines: dict[str, tuple[str, bool]], variables: dict[str, str], *, gpu: bool = False
):
    """Run a copy of a package's `test.sh` where only these engines exist.

    Args:
        engines: name -> which program answers to it, and whether it works.
        variables: environment variables besides PATH.
        gpu: whether the machine has NVIDIA's driver.

    Returns:
        The finished process, and the calls of the engines.
    """
    app, programs, log = Path(shutil.copytree(app, folder / "app")), folder / "bin", folder / "log"
    programs.mkdir()
    for name in NEEDED:
        (programs / name).symlink_to(str(shutil.which(name)))
    for name, (says, works) in engines.items():
        answer = "true" if works else REFUSES
        (programs / name).write_text(ENGINE.format(name=name, log=log, answer=answer, version=says))
        (programs / name).chmod(0o755)
    if gpu:
        (programs / "nvidia-smi").touch(0o755)
    environment = {"PATH": str(programs), **variables}
    command = [str(programs / "bash"), str(app / "test.sh")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=folder)
    return done, log.read_text().splitlines() if log.exists() else []


DOCKER, DEAD, PODMAN, APPTAINER = ("Docker", True), ("Docker", False), ("podman", True), ("apptainer", True)


@pytest.mark.parametrize(
    ("target", "engines", "forced", "used", "is_podman"),
    [
        ("plain", {"docker": DOCKER, "podman": PODMAN}, "", "docker", False),
        ("plain", {"docker": DEAD, "podman": PODMAN}, "", "podman", True),
        ("plain", {"podman": PODMAN}, "", "podman", True),
        ("plain", {"docker": PODMAN}, "", "docker", True),  # a package of Debian names Podman so
        ("plain", {"docker": DOCKER, "podman": PODMAN}, "podman", "podman", True),
        ("fomo", {"docker": DOCKER, "apptainer": APPTAINER}, "", "apptainer", False),
        ("fomo", {"docker": DOCKER, "apptainer": APPTAINER}, "docker", "docker", False),
        ("fomo", {"podman": PODMAN}, "", "podman", True),
    ],
)
@pytest.mark.parametrize("gpu", [False, True])
def test_the_first_engine_that_works_or_the_forced_one_builds_and_runs(
    target, engines, forced, used, is_podman, gpu, packages, tmp_path
):
    variables = {"CONTAINER_ENGINE": forced} if forced else {}
    done, calls = run_script(packages[target,], tmp_path, engines, variables, gpu=gpu)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"Using {used}\n" in done.stdout
    assert "The container works: sample/output/phantom.nii.gz\n" in done.stdout
    assert (tmp_path / "app" / "sample" / "output" / "phantom.nii.gz").read_text() == "labels\n"
    build, run = (call for call in calls if not re.search(r" (info|version|--version)$", call))
    assert build.startswith(f"{used} build ") and run.startswith(f"{used} {'exec' if used == 'apptainer' else 'run'} ")
    assert " --network none " in run and (f" {READ_ONLY} " in run) == is_podman
    for option in (DOCKER_GPU, PODMAN_GPU, APPTAINER_GPU):
        of_engine = APPTAINER_GPU if used == "apptainer" else PODMAN_GPU if is_podman else DOCKER_GPU
        assert (f" {option} " in run) == (gpu and option == of_engine)


@pytest.mark.parametrize("target", ["plain", "fomo"])
def test_options_in_variables_reach_the_build_and_the_run(target, packages, tmp_path):
    engines = {"podman": PODMAN} if target == "plain" else {"apptainer": APPTAINER}
    of_build, of_run = "--network host --volume /a:/b:ro", "--runtime runc --ulimit nofile=1024:1024"
    variables = {"CONTAINER_BUILD_OPTIONS": of_build, "CONTAINER_RUN_OPTIONS": of_run}
    done, calls = run_script(packages[target,], tmp_path, engines, variables)
    assert (done.returncode, done.stderr) == (0, "")
    (build,) = (call for call in calls if " build " in call)
    (run,) = (call for call in calls if re.match(r"\w+ (run|exec) ", call))
    assert f" {of_build} " in build and of_run not in build
    assert f" {of_run} " in run and of_build not in run


@pytest.mark.parametrize(
    ("engines", "forced", "expected"),
    [
        ({}, "", ("docker is not installed", "podman is not installed", "Install docker or podman")),
        ({"docker": DEAD}, "", ("docker does not work: Cannot connect to the service", "podman is not installed")),
        ({"docker": DOCKER}, "podman", ("podman is not installed", "CONTAINER_ENGINE")),
    ],
)
def test_without_an_engine_the_script_says_what_is_missing_and_builds_nothing(
    engines, forced, expected, packages, tmp_path
):
    variables = {"CONTAINER_ENGINE": forced} if forced else {}
    done, calls = run_script(packages["plain",], tmp_path, engines, variables)
    assert done.returncode == 1 and re.search(facts("FAILED", *expected), done.stderr)
    assert done.stderr.count("\n") == 1 and done.stdout == ""
    assert not [call for call in calls if " build" in call or " run" in call]


def changed_lines(before: Path, after: Path, name: str) -> tuple[set[str], set[str]]:
    """The lines of a file that only the first folder has, and those that only the second has."""
    first, second = (set((folder / name).read_text().splitlines()) for folder in (before, after))
    return first - second, second - first


def test_the_variant_for_cpus_differs_only_in_the_build_of_torch_and_takes_no_gpu(packages, tmp_path):
    before, after = packages["fomo",], packages["fomo", "--cpu"]
    files = [sorted(path.relative_to(app) for path in app.rglob("*") if path.is_file()) for app in (before, after)]
    assert files[0] == files[1]
    different = {str(file) for file in files[0] if (before / file).read_bytes() != (after / file).read_bytes()}
    assert different == {"constraints.txt", "Dockerfile", "Apptainer.def", "README.md", "test.sh"}
    (wheel,) = (path.name for path in after.glob("*.whl"))
    install = "pip install --no-cache-dir {}--constraint constraints.txt ./" + wheel
    old, new = install.format(""), install.format("--extra-index-url https://download.pytorch.org/whl/cpu ")
    assert changed_lines(before, after, "Dockerfile") == ({f"RUN {old}"}, {f"RUN {new}"})
    assert changed_lines(before, after, "Apptainer.def") == ({f"    {old}"}, {f"    {new}"})
    versions = {name: version(name).partition("+")[0] for name in ("torch", "torchvision")}
    assert changed_lines(before, after, "constraints.txt") == (
        {f"{name}=={number}" for name, number in versions.items()},
        {f"{name}=={number}+cpu" for name, number in versions.items()},
    )
    assert all("gpu" in line or "nvidia" in line for line in changed_lines(before, after, "test.sh")[0])
    assert changed_lines(before, after, "test.sh")[1] == set()
    done, calls = run_script(after, tmp_path, {"docker": DOCKER}, {}, gpu=True)
    assert done.returncode == 0 and not [call for call in calls if "gpu" in call]


def test_the_readme_says_which_variant_it_is(packages):
    cuda, cpu = (packages[options].joinpath("README.md").read_text() for options in (("fomo",), ("fomo", "--cpu")))
    assert "**CUDA variant**" in cuda and "CPU variant" not in cuda
    assert "**CPU variant**" in cpu and "CUDA variant" not in cpu and "https://download.pytorch.org/whl/cpu" in cpu


def test_pip_takes_the_cpu_build_of_both_and_refuses_the_other_alone(tmp_path):
    """Both builds of torch lie in a folder of wheels, as pip finds them in two indexes."""
    (pinned,) = (line for line in constraints(cpu=True) if line.startswith("torch=="))
    (tmp_path / "constraints.txt").write_text(pinned)
    dry = [sys.executable, "-m", "pip", "install", "--isolated", "--dry-run", "--ignore-installed", "--quiet"]
    where = ["--no-index", "--find-links", ".", "--constraint", "constraints.txt", "--report", "report.json", "torch"]
    public = version("torch").partition("+")[0]
    write_empty_wheel(tmp_path, "torch", public)
    assert subprocess.run([*dry, *where], cwd=tmp_path, capture_output=True).returncode == 1
    write_empty_wheel(tmp_path, "torch", f"{public}+cpu")
    subprocess.run([*dry, *where], cwd=tmp_path, capture_output=True, check=True)
    (taken,) = json.loads((tmp_path / "report.json").read_text())["install"]
    assert taken["metadata"]["version"] == f"{public}+cpu"


def write_empty_wheel(folder: Path, name: str, number: str) -> None:
    information = f"{name}-{number}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{number}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{information}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {number}\n")
        wheel.writestr(f"{information}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{information}/RECORD", "")
