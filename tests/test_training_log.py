"""What a training's log tells, and how it is read again."""

import math
import os

import pytest
import torch

from nnunet_moe.training_log import Epoch, dice_line, entropy_line, gate_entropies, read_training_logs


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
