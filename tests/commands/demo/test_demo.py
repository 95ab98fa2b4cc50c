import re

import pytest

from facts import facts
from nnunet_moe.cli import main
from nnunet_moe.commands.demo import demo
from nnunet_moe.commands.demo.progress import case_line, epoch_line
from nnunet_moe.errors import CommandError
from nnunet_moe.runtime.workspace import Workspace


@pytest.mark.slow
def test_the_demo_runs_from_start_to_end_and_prints_the_table_of_codes(tmp_path, monkeypatch, capsys):
    """The demo itself, with a training too short to learn anything and heads as small as the tests' own."""
    monkeypatch.setattr(demo, "PHANTOM_SHAPE", (32, 36, 32))
    monkeypatch.setattr(
        demo, "TRAINING_LENGTH", {**demo.TRAINING_LENGTH, "num_epochs": 1, "num_iterations_per_epoch": 2}
    )
    main(["demo", "-o", str(tmp_path / "demo"), "-device", "cpu"])
    shown = capsys.readouterr().out
    rows = re.findall(r"^\| ([\w+]+) \| ([\d.]+) \|$", shown, flags=re.MULTILINE)
    assert [name for name, _ in rows] == ["T1w", "T2w", "FLAIR", "T1w+T2w", "T1w+FLAIR", "T2w+FLAIR", "T1w+T2w+FLAIR"]
    mean = float(re.search(r"\*\*mean over codes\*\* \| \*\*([\d.]+)\*\*", shown)[1])
    assert mean == pytest.approx(sum(float(dice) for _, dice in rows) / 7, abs=2e-3)
    assert "Epoch 0" in shown and shown.count("Predicting phantomTs") == 28
    assert (tmp_path / "demo" / "demo.png").stat().st_size > 10_000


def test_a_command_that_fails_is_an_error_that_names_its_log(tmp_path):
    workspace = Workspace(tmp_path / "work")
    with pytest.raises(CommandError, match=facts("nnUNetv2_train", "failed with status", "0_nnUNetv2_train.log")):
        workspace.run("nnUNetv2_train", "1", "3d_fullres")
    assert "the following arguments are required: fold" in (workspace.logs / "0_nnUNetv2_train.log").read_text()


def test_a_folder_in_use_is_taken_only_when_it_is_to_be_reused(tmp_path):
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(CommandError, match=facts("not an empty folder")):
        Workspace(tmp_path)
    assert Workspace(tmp_path, reuse=True).raw.is_dir() and (tmp_path / "mine").exists()
    with pytest.raises(CommandError, match=facts("not an empty folder")):
        Workspace(tmp_path / "mine", reuse=False)


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("2026-11-20 21:00:44.103575: Epoch 1 \n", "Epoch 1"),
        ("2026-11-20 21:00:52.652971: Pseudo dice [np.float32(0.0026)] \n", "Pseudo dice [np.float32(0.0026)]"),
        ("2026-11-20 21:00:52.652971: Pseudo dice T1w: [0.1] \n", None),
        ("2026-11-20 21:00:52.652971: Epoch time: 8.55 s \n", None),
    ],
)
def test_of_nnunets_log_the_lines_that_tell_the_progress_are_shown(line, shown):
    assert epoch_line(line) == shown
    assert case_line("Predicting c_101:\n") == "Predicting c_101:" and case_line(line) is None
