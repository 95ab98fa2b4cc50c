import ast
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

import nnunet_moe
from facts import facts
from nnunet_moe.cli import main
from nnunet_moe.runtime import environment
from nnunet_moe.runtime.environment import VARIABLE, export_line, external_trainers_folder, trainers_known, versions

TRAINERS = ("nnUNetTrainerMoESD", "nnUNetTrainerModalityDropout")


@pytest.mark.parametrize("name", TRAINERS)
def test_nnunet_finds_the_trainer_and_it_is_the_importable_class(name):
    with trainers_known():
        found = recursive_find_trainer_class_by_name(name)
    assert found.__module__.startswith("nnunet_moe.trainers.")
    assert pickle.loads(pickle.dumps(found)) is found


def test_the_folder_holds_nothing_but_the_module_of_re_exports():
    (file,) = (path for path in external_trainers_folder().iterdir() if path.name != "__pycache__")
    assert file.name == "nnunet_moe_trainers.py"
    defined = [type(node).__name__ for node in ast.parse(file.read_text()).body]
    assert not {"ClassDef", "FunctionDef"} & set(defined)


@pytest.mark.parametrize("before", [None, "/some/where"])
def test_the_bash_line_sets_the_variable_and_keeps_what_was_there(before):
    environment = {"PATH": os.environ["PATH"], **({} if before is None else {VARIABLE: before})}
    script = f'{export_line("bash")}\nprintf %s "${VARIABLE}"'
    shown = subprocess.run(["bash", "-c", script], env=environment, check=True, capture_output=True, text=True).stdout
    assert shown.split(":") == [str(external_trainers_folder()), *([] if before is None else [before])]


def test_an_eval_without_quotes_works_too(capsys):
    main(["env"])
    script = f"eval $(cat <<'E'\n{capsys.readouterr().out}E\n)\nprintf %s ${VARIABLE}"
    shown = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout
    assert shown.split(":")[0] == str(external_trainers_folder())


def test_env_prints_lines_that_bash_can_evaluate_and_fish_lines_on_demand(capsys):
    main(["env"])
    both = capsys.readouterr().out
    shown = subprocess.run(["bash", "-c", f"{both}\nprintf %s ${VARIABLE}"], capture_output=True, text=True, check=True)
    assert str(external_trainers_folder()) in shown.stdout
    main(["env", "--shell", "fish"])
    fish = capsys.readouterr().out.strip()
    assert fish == f"set -gx --path {VARIABLE} {external_trainers_folder()} ${VARIABLE}" and f"# {fish}" in both


@pytest.mark.parametrize("before", [None, "/some/where"])
def test_inside_the_block_the_trainers_are_known_and_afterwards_all_is_as_before(monkeypatch, before):
    if before is None:
        monkeypatch.delenv(VARIABLE, raising=False)
    else:
        monkeypatch.setenv(VARIABLE, before)
    with pytest.raises(KeyError), trainers_known():
        assert os.environ[VARIABLE].split(os.pathsep)[0] == str(external_trainers_folder())
        raise KeyError
    assert os.environ.get(VARIABLE) == before


def test_a_demo_folder_that_is_in_use_is_refused_with_one_line_and_left_alone(tmp_path):
    (tmp_path / "mine").write_text("mine")
    command = [sys.executable, "-m", "nnunet_moe", "demo", "-o", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert result.returncode == 1
    assert re.search(facts(tmp_path, "not an empty folder", "-o"), result.stderr)
    assert len(result.stderr.strip().splitlines()) == 1 and [p.name for p in tmp_path.iterdir()] == ["mine"]


def test_versions_of_what_is_installed_and_of_what_is_not():
    shown = versions("numpy", "no-such-package")
    assert shown == {"numpy": np.__version__, "no-such-package": "not installed"}


def test_the_version_has_one_source(monkeypatch, capsys):
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    others = versions("nnunetv2", "torch")
    shown = capsys.readouterr().out
    assert end.value.code == 0 and shown.startswith(f"nnunet_moe {nnunet_moe.__version__} (")
    assert all(f"{name} {number}" in shown for name, number in others.items())
    assert nnunet_moe.__version__ == versions("nnunet-moe")["nnunet-moe"]
    monkeypatch.setattr(environment, "DISTRIBUTION", "a-distribution-that-is-not-here")
    assert nnunet_moe.__version__ == "not installed"
    with pytest.raises(AttributeError, match="nothing_like_it"):
        nnunet_moe.nothing_like_it  # noqa: B018 - the look-up is the test


def test_the_line_for_powershell_keeps_folders_that_are_set_and_quotes_an_apostrophe(monkeypatch):
    monkeypatch.setattr("nnunet_moe.runtime.environment.external_trainers_folder", lambda: Path("/o'neill/external"))
    line = export_line("powershell")
    assert line.startswith("$env:nnUNet_extTrainer = '/o''neill/external' + $(if ($env:nnUNet_extTrainer) {'")
    assert line.endswith("' + $env:nnUNet_extTrainer})")
