"""What a training's log tells, and how it is read again."""

import json
import math
import os

import pytest
import torch

from nnunet_moe.training_log import (
    FILE_NAME,
    Epoch,
    append_epoch,
    dice_line,
    entropy_line,
    gate_entropies,
    read_training_logs,
)


@pytest.mark.parametrize(
    ("gates", "each", "over"),
    [
        (torch.full((3, 4), 0.25), 1, 1),
        (torch.eye(4), 0, 1),
        (torch.tensor([[1.0, 0.0], [1.0, 0.0]]), 0, 0),
        (torch.tensor([[0.25, 0.75], [0.75, 0.25]]), 2 - 0.75 * math.log2(3), 1),
    ],
)
def test_gate_entropies_by_hand(gates, each, over):
    assert gate_entropies(gates) == (pytest.approx(each), pytest.approx(over))


def test_what_is_written_is_read_and_what_was_done_again_counts_as_done_last(tmp_path):
    def log(name, *lines, time):
        file = tmp_path / f"training_log_{name}.txt"
        file.write_text("".join(f"2026-11-20 21:00:52.652971: {line} \n" for line in lines))
        os.utime(file, (time, time))

    lines = [dice_line("T1w", [0.123456, math.nan]), dice_line("T1w+FLAIR", [1.0, 0.5])]
    gates = entropy_line([(0.5, 1.0), (0.0, 0.25)])
    log("b", "Epoch 0", "Pseudo dice [np.float32(0.3)]", *lines, gates, "Epoch 1", dice_line("T1w", [0.2, 0.2]), time=1)
    log("a", "Epoch 1", dice_line("FLAIR", [0.7, 0.0]), "Epoch 2", time=2)
    epochs = read_training_logs(tmp_path)
    assert list(epochs) == [0, 1, 2]
    assert str(epochs[0].dice) == "{'T1w': [0.1235, nan], 'T1w+FLAIR': [1.0, 0.5]}"
    assert epochs[0].gate_entropy == [(0.5, 1.0), (0.0, 0.25)]
    assert epochs[1] == Epoch({"FLAIR": [0.7, 0.0]}) and epochs[2] == Epoch()
    assert read_training_logs(tmp_path / "none") == {}


def test_data_are_read_as_they_were_written_and_rounded_as_the_log_is(tmp_path):
    epoch = Epoch(
        dice={"T1w": [0.123456, math.nan], "T1w+FLAIR": [1.0, 0.5]},
        gate_entropy=[(0.5, 1.0), (0.12345, 0.25)],
        train_loss=math.inf,
        loss_parts={"L_seg": -0.43219},
        mean_gates={"CT": [0.25, 0.75]},
        election_scores={"T1w": [0.5, math.nan], "FLAIR": [math.nan, math.nan]},
        teachers=["T1w"],
    )
    append_epoch(tmp_path, 0, epoch, ["core", "edema"])
    append_epoch(tmp_path, 1, Epoch(train_loss=0.5), ["core", "edema"])
    found = read_training_logs(tmp_path)
    rounded = Epoch(
        {"T1w": [0.1235, math.nan], "T1w+FLAIR": [1.0, 0.5]},
        [(0.5, 1.0), (0.123, 0.25)],
        math.nan,
        {"L_seg": -0.4322},
        {"CT": [0.25, 0.75]},
        {"T1w": [0.5, math.nan], "FLAIR": [math.nan, math.nan]},
        ["T1w"],
    )
    assert str(found[0]) == str(rounded) and found[1] == Epoch(train_loss=0.5)
    first = json.loads((tmp_path / FILE_NAME).read_text().splitlines()[0])
    assert first["dice"] == {"T1w": {"core": 0.1235, "edema": None}, "T1w+FLAIR": {"core": 1.0, "edema": 0.5}}


def test_what_was_done_again_counts_as_done_last_and_a_torn_line_not_at_all(tmp_path):
    for number in range(3):
        append_epoch(tmp_path, number, Epoch(train_loss=float(number)), [])
    file = tmp_path / FILE_NAME
    file.write_bytes(file.read_bytes()[:-20])  # killed while epoch 2 was written
    assert list(read_training_logs(tmp_path)) == [0, 1]
    append_epoch(tmp_path, 1, Epoch(train_loss=7.0), [])
    append_epoch(tmp_path, 2, Epoch(train_loss=8.0), [])
    assert [epoch.train_loss for epoch in read_training_logs(tmp_path).values()] == [0.0, 7.0, 8.0]


def test_the_log_tells_of_the_epochs_that_an_older_version_trained(tmp_path):
    log = "".join(f"t: Epoch {number} \nt: train_loss 0.{number} \n" for number in range(1, 5))
    (tmp_path / "training_log_1.txt").write_text(log)
    append_epoch(tmp_path, 3, Epoch(train_loss=0.75), [])
    assert {number: epoch.train_loss for number, epoch in read_training_logs(tmp_path).items()} == {
        1: 0.1, 2: 0.2, 3: 0.75, 4: 0.4,
    }  # fmt: skip
