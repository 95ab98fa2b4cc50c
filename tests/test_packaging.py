"""The package works as a wheel, as an editable install, from the checkout, and in spawned workers."""

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow

EVERYTHING = """
import importlib.resources, importlib.util, multiprocessing, pickle, sys
from pathlib import Path

FILES = (
    ("reports", "report.html.jinja"),
    ("commands.export", "card.md.jinja"),
    ("commands.study", "Snakefile"),
    ("commands.package", "Dockerfile.jinja"),
    ("commands.study", "profiles/slurm/config.yaml"),
)

def preprocessor_name(pickled):
    return pickle.loads(pickled).preprocessor_class.__name__

def main():
    import nnunet_moe, nnunet_moe.architectures, nnunet_moe.trainers
    from nnunet_moe.runtime.environment import trainers_known
    from nnunet_moe.preprocessing import MissingModalityConfigurationManager
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

    for package, file in FILES:
        assert importlib.resources.files(f"nnunet_moe.{package}").joinpath(file).is_file()
    with trainers_known():
        trainer = recursive_find_trainer_class_by_name("nnUNetTrainerMoESD")
    assert sys.modules[trainer.__module__].__name__ == "nnunet_moe.trainers.moesd"
    configuration = MissingModalityConfigurationManager({"architecture": {}})
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(preprocessor_name, (pickle.dumps(configuration),)) == "MissingModalityPreprocessor"
        assert pool.apply(pickle.loads, (pickle.dumps(trainer),)).__name__ == trainer.__name__
    packages = (nnunet_moe, nnunet_moe.architectures, nnunet_moe.trainers)
    print("FOUND", *[Path(package.__file__).resolve() for package in packages])
    print("TOP", *[name for name in ("architectures", "trainers", "tests") if importlib.util.find_spec(name)])

if __name__ == "__main__":
    main()
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A clean copy of the files that git tracks, so that no build changes this checkout."""
    folder = tmp_path_factory.mktemp("checkout")
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True).stdout.decode()
    for name in filter(None, files.split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((ROOT / name).read_bytes())
    return folder


def fresh_environment(folder: Path) -> Path:
    """A virtual environment that sees what is installed here as dependencies; returns its Python."""
    venv.create(folder, with_pip=False, symlinks=True)
    site = next(folder.glob("lib/python*/site-packages"))
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"])  # after the site's own packages
    return folder / "bin" / "python"


def install(python: Path, *what: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--quiet", *what],
        check=True,
        capture_output=True,
    )


def run_everything(python: Path, folder: Path) -> tuple[list[Path], list[str]]:
    script = folder / "everything.py"
    script.write_text(EVERYTHING)
    result = subprocess.run([str(python), str(script)], cwd=folder, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    lines = {line.split()[0]: line.split()[1:] for line in result.stdout.splitlines() if line[:3] in ("FOU", "TOP")}
    return [Path(path) for path in lines["FOUND"]], lines["TOP"]


def test_a_wheel_works_in_a_fresh_environment_outside_the_checkout(checkout, tmp_path):
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "-w", str(tmp_path), str(checkout)],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("nnunet_moe-*.whl")
    python = fresh_environment(tmp_path / "env")
    install(python, str(wheel))
    found, top = run_everything(python, tmp_path)
    assert all(path.is_relative_to(tmp_path / "env") for path in found) and not top
    command = [str(python.parent / "nnunet_moe"), "env"]
    assert str(tmp_path / "env") in subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_an_editable_install_works(checkout, tmp_path):
    python = fresh_environment(tmp_path / "env")
    install(python, "--editable", str(checkout))
    found, top = run_everything(python, tmp_path)
    assert found == [checkout / name / "__init__.py" for name in ("nnunet_moe", "architectures", "trainers")]
    assert not top


def test_python_m_works_from_the_root_of_a_checkout_that_is_not_installed(checkout, tmp_path):
    python = fresh_environment(tmp_path / "env")
    command = [str(python), "-m", "nnunet_moe", "env"]
    shown = subprocess.run(command, cwd=checkout, check=True, capture_output=True, text=True).stdout
    assert str(checkout / "trainers" / "external") in shown
    search = "from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name as find\n"
    search += "print('FOUND', find('nnUNetTrainerMoESD').__module__)"
    environment = {"nnUNet_extTrainer": str(checkout / "trainers" / "external")}
    result = subprocess.run([str(python), "-c", search], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert "FOUND nnunet_moe.trainers.moesd" in result.stdout, result.stderr
    script = checkout / "everything.py"
    found, _ = run_everything(python, checkout)
    script.unlink()
    assert found == [checkout / name / "__init__.py" for name in ("nnunet_moe", "architectures", "trainers")]
