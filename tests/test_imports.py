"""Imports point down, as the contracts in pyproject.toml say; import-linter checks them."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nnunet_moe.runtime.environment import external_trainers_folder

ROOT = Path(__file__).parents[1]
FOLDERS = {"nnunet_moe": ".", "architectures": "architectures", "trainers": "trainers"}
pytestmark = pytest.mark.short_processes


@pytest.fixture
def installed(tmp_path) -> Path:
    """A folder that holds the package as it is installed: the three folders of the checkout in one."""
    package = tmp_path / "nnunet_moe"
    for source, target in FOLDERS.items():
        ignored = shutil.ignore_patterns("__pycache__", "external" if source == "trainers" else "__pycache__")
        shutil.copytree(ROOT / source, package / target, ignore=ignored, dirs_exist_ok=True)
    return tmp_path


def broken_contracts(folder: Path) -> str:
    """What import-linter says of the package in a folder; empty if no contract is broken."""
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"]
    options = ["--no-cache", "--no-logo", "--config", str(ROOT / "pyproject.toml")]  # as releases for 3.10 take it
    # PYTHONPATH and the working directory put the copy before an installed nnunet_moe
    done = subprocess.run(
        [*command, *options], cwd=folder, env={"PYTHONPATH": str(folder)}, capture_output=True, text=True
    )
    assert "Contracts: " in done.stdout, done.stdout + done.stderr
    return done.stdout if done.returncode else ""


def test_imports_point_down(installed):
    assert broken_contracts(installed) == ""


@pytest.mark.parametrize(
    ("module", "imported", "contract"),
    [
        ("modalities", "reports.table", "The layers of nnunet_moe"),
        ("architectures", "models.folders", "The layers of nnunet_moe"),
        ("trainers", "commands.parser", "Trainers use models and what is below them"),
        ("models", "trainers.base", "Nothing imports trainers"),
        ("commands/predict", "commands.evaluate.metrics", "No command imports another"),
        ("losses", "nnunetv2", "The lowest modules do not know nnU-Net"),
    ],
)
def test_an_import_that_points_up_breaks_a_contract(installed, module, imported, contract):
    name = imported if imported == "nnunetv2" else f"nnunet_moe.{imported}"
    (installed / "nnunet_moe" / module / "offending.py").write_text(f"import {name}\n")
    said = broken_contracts(installed)
    assert any(line.startswith(contract) and "BROKEN" in line for line in said.splitlines()), said
    assert "offending" in said


def test_importing_the_command_line_imports_neither_torch_nor_nnunet():
    script = "import sys, nnunet_moe.cli; sys.exit(bool({'nnunetv2', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", script], check=False, cwd=ROOT).returncode == 0


def test_every_folder_with_modules_is_listed_as_a_package():
    """The list in pyproject.toml is written by hand: the three folders of a checkout are one package."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    listed = ast.literal_eval(text[text.index("packages = [") + len("packages = ") :].partition("]")[0] + "]")
    found = {
        ".".join(("nnunet_moe", *(() if top == "nnunet_moe" else (top,)), *folder.relative_to(ROOT / top).parts))
        for top in ("nnunet_moe", "architectures", "trainers")
        for folder in (init.parent for init in (ROOT / top).rglob("__init__.py"))
    }
    assert sorted(listed) == sorted({*found, "nnunet_moe.trainers.external"})


def test_finding_a_trainer_imports_nothing_large_that_only_one_network_needs(tmp_path):
    script = "import sys; sys.path.insert(0, sys.argv[1]); import nnunet_moe_trainers; print('timm' in sys.modules)"
    command = [sys.executable, "-c", script, str(external_trainers_folder())]
    assert subprocess.check_output(command, cwd=tmp_path, text=True) == "False\n"
