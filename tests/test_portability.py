"""The package on systems that lack what only POSIX has, such as Windows: these modules and functions are hidden."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from facts import facts

HIDE = """
import importlib.abc, os, pkgutil, signal, sys
# what nnU-Net and torch import is imported before: they have their own ways on Windows
import matplotlib.figure, pandas, timm.models
import nnunetv2.inference.predict_from_raw_data, nnunetv2.training.nnUNetTrainer.nnUNetTrainer
POSIX = {"fcntl", "grp", "pty", "pwd", "resource", "syslog", "termios", "tty"}


class Hidden(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name in POSIX:
            raise ModuleNotFoundError(f"{name} is hidden", name=name)


for name in POSIX:
    sys.modules.pop(name, None)
sys.meta_path.insert(0, Hidden())
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name in POSIX else find_spec(name, package)
for name in ("fork", "getpgid", "getuid", "geteuid", "getgid", "killpg", "setsid", "sched_getaffinity", "uname"):
    delattr(os, name)
for name in ("SIGHUP", "SIGKILL", "SIGQUIT", "SIGALRM", "SIGUSR1"):
    delattr(signal, name)
"""

pytestmark = pytest.mark.short_processes


def python(script: str, folder: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", HIDE + script]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_every_module_can_be_imported(tmp_path):
    script = """
import nnunet_moe
found = [each.name for each in pkgutil.walk_packages(nnunet_moe.__path__, "nnunet_moe.")]
modules = [name for name in found if "external" not in name and not name.endswith("__main__")]
for module in modules:
    importlib.import_module(module)
print(len(modules))
"""
    done = python(script, tmp_path)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 100


def test_a_study_says_that_it_cannot_run(tmp_path):
    (tmp_path / "study.yaml").write_text("dataset: 1")
    arguments = ["study", str(tmp_path / "study.yaml"), "-o", str(tmp_path / "out")]
    done = python(f"from nnunet_moe.cli import main\nmain({arguments!r})", tmp_path)
    assert done.returncode == 1
    assert re.search(facts("Windows", "Linux", "nnUNetv2_train"), done.stderr) and "Traceback" not in done.stderr


OF_DISTRIBUTIONS = ("found.read_text('METADATA')", "installed.read_text(name)")
"""What `importlib.metadata` reads, always as UTF-8."""


def text_files_without_encoding(code: str) -> list[str]:
    """Calls that read or write a text file in the encoding of the system, which on Windows is not UTF-8."""
    found = []
    for node in ast.walk(ast.parse(code)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        given = {keyword.arg for keyword in node.keywords}
        is_text = node.func.attr in ("read_text", "write_text")
        modes = [
            each.value for each in node.args if isinstance(each, ast.Constant) and each.value in ("r", "w", "a", "x")
        ]
        if (is_text or (node.func.attr == "open" and modes)) and "encoding" not in given:
            found.append(ast.unparse(node))
    return [call for call in found if call not in OF_DISTRIBUTIONS]


@pytest.mark.parametrize("folder", ["nnunet_moe", "architectures", "trainers"])
def test_text_files_are_utf_8_on_every_system(folder):
    files = sorted((Path(__file__).parents[1] / folder).rglob("*.py"))
    assert {str(file): found for file in files if (found := text_files_without_encoding(file.read_text()))} == {}
