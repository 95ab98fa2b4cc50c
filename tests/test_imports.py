"""Imports point one way: trainers -> architectures -> leaves; leaves know torch, numpy and the standard library."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LEAVES = (
    "codes",
    "election",
    "errors",
    "label_sets",
    "labels",
    "losses",
    "masking",
    "precision",
    "settings",
    "environment",
    "training_log",
)
FOREIGN = {"torch", "numpy"}


def modules():
    for folder, package in (("nnunet_moe", ""), ("architectures", "architectures."), ("trainers", "trainers.")):
        for file in sorted((ROOT / folder).rglob("*.py")):
            yield file, f"nnunet_moe.{package}{file.stem}"


def imported(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names.add(node.module)
    return names


@pytest.mark.parametrize("name", LEAVES)
def test_a_leaf_imports_leaves_torch_numpy_and_the_standard_library_alone(name):
    allowed = {f"nnunet_moe.{leaf}" for leaf in LEAVES}
    for module in imported(ROOT / "nnunet_moe" / f"{name}.py"):
        assert module in allowed or module.split(".")[0] in FOREIGN | set(sys.stdlib_module_names), module


@pytest.mark.parametrize(("file", "name"), list(modules()), ids=lambda value: value if isinstance(value, str) else "")
def test_only_trainers_import_trainers_and_architectures_import_leaves_alone(file, name):
    for module in imported(file):
        if module.startswith("nnunet_moe.trainers"):
            assert name.startswith("nnunet_moe.trainers."), f"{name} imports {module}"
        if name.startswith("nnunet_moe.architectures.") and module.startswith("nnunet_moe"):
            leaf = module.split(".")[1]
            assert leaf in (*LEAVES, "architectures"), f"{name} imports {module}"


def test_importing_the_package_does_not_import_nnunet():
    script = "import sys, nnunet_moe, nnunet_moe.cli; assert not {'nnunetv2', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)
