import math
import re

import pytest

from facts import facts
from nnunet_moe.cli import make_parser
from nnunet_moe.commands.demo import demo
from nnunet_moe.commands.demo.progress import TrainingProgress, case_line
from nnunet_moe.errors import CommandError
from nnunet_moe.runtime.workspace import Workspace
from nnunet_moe.training_log import Epoch, append_epoch


def test_the_demo_runs_from_start_to_end_and_prints_the_table_of_codes(demo_run):
    shown = demo_run.with_suffix(".txt").read_text()
    rows = re.findall(r"^\| ([\w+]+) \| ([\d.]+) \|$", shown, flags=re.MULTILINE)
    assert [name for name, _ in rows] == ["T1w", "T2w", "FLAIR", "T1w+T2w", "T1w+FLAIR", "T2w+FLAIR", "T1w+T2w+FLAIR"]
    mean = float(re.search(r"\*\*mean over codes\*\* \| \*\*([\d.]+)\*\*", shown)[1])
    assert mean == pytest.approx(sum(float(dice) for _, dice in rows) / 7, abs=2e-3)
    assert re.search(r"^ *Epoch 1 of 1, mean Dice [01]\.\d\d$", shown, flags=re.MULTILINE)
    assert shown.endswith(f"{demo.NEXT_STEPS}\n") and shown.count("Predicting phantomTs") == 28
    assert (demo_run / "demo.png").stat().st_size > 10_000


@pytest.mark.usefixtures("preloaded_commands")
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


def test_the_progress_of_a_training_is_its_epoch_its_mean_dice_and_the_time_left(tmp_path):
    shown_of = TrainingProgress(tmp_path, num_epochs=3)
    shown = []
    for number, (dice, seconds) in enumerate(
        [([0.5, math.nan], 100.0), ([math.nan, math.nan], 60.0), ([0.7, 0.9], 8.55)]
    ):
        append_epoch(tmp_path, number, Epoch(dice={"T1w": dice, "T1w+FLAIR": dice}), ["core", "edema"])
        shown += [
            shown_of(f"2026-11-20 21:00:52.652971: {text} \n")
            for text in (
                f"Epoch {number}",
                "Pseudo dice [np.float32(0.5)]",
                "train_loss 0.1",
                f"Epoch time: {seconds} s",
            )
        ]
    assert [text for text in shown if text is not None] == [
        "Epoch 1 of 3, mean Dice 0.50, about 3 min left",
        "Epoch 2 of 3, about 80 s left",
        "Epoch 3 of 3, mean Dice 0.80",
    ]
    assert shown_of("2026-11-20 21:00:44.103575: predicting phantom_003 \n") == "Validating phantom_003"


def test_of_a_prediction_the_cases_are_shown():
    assert case_line("Predicting c_101:\n") == "Predicting c_101:" and case_line("perform_everything_on_device") is None


def test_the_next_steps_are_commands_that_exist():
    commands = re.findall(r"nnunet_moe (\w+ -.*)", demo.NEXT_STEPS)
    verbs = [make_parser().parse_args(command.split()).verb for command in commands]
    assert verbs == ["plan_and_preprocess", "predict"]
