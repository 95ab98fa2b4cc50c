"""Resumed trainings: cut-off checkpoints, another number of epochs, other versions; and one training a fold."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from nnunetv2.run.run_training import maybe_load_checkpoint
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from facts import facts
from made_plans import DATASET, DATASET_JSON, made_plans
from nnunet_in_process import make_trainer
from nnunet_moe.errors import ModelError
from nnunet_moe.runtime.locks import held_alone, hold

FINAL, LATEST, BEST = (f"checkpoint_{name}.pth" for name in ("final", "latest", "best"))
HOLDER = "import sys, time; from pathlib import Path; from nnunet_moe.runtime.locks import hold\n"
HOLDER += "assert hold(Path(sys.argv[1])) is not None; print('held', flush=True); time.sleep(60)"

DAMAGES = {
    "empty": lambda content: b"",
    "first bytes": lambda content: content[:100],
    "half": lambda content: content[: len(content) // 2],
    "last byte": lambda content: content[:-1],
    "end of zeros, as after a loss of power": lambda content: content[:-4096] + bytes(4096),
    "middle of zeros": lambda content: content[: len(content) // 2] + bytes(4096) + content[len(content) // 2 + 4096 :],
}


@pytest.fixture
def trainers(tmp_path, monkeypatch):
    """Make trainers of the same fold as nnU-Net does in one command after another; `resumed` is its `--c`."""
    for each in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{each}", str(tmp_path / each))

    def make(name="nnUNetTrainerMoESD", *, resumed=False, pretrained=None, **settings):
        shutil.rmtree(tmp_path / "preprocessed", ignore_errors=True)
        made_plans(tmp_path / "preprocessed", [16, 16], {"num_epochs": 1, **settings})
        (tmp_path / "preprocessed" / DATASET / "dataset.json").write_text(json.dumps(DATASET_JSON))
        trainer = make_trainer(DATASET, "small", name, pretrained=pretrained, go_on=resumed)
        if not trainer.was_initialized:
            trainer.initialize()
        return trainer

    return make


def save(trainer, name, *, epoch, value):
    """Save a checkpoint after an epoch, all of whose weights have one value."""
    with torch.no_grad():
        for weights in trainer.network.parameters():
            weights.fill_(value)
    trainer.current_epoch = epoch
    for key, values in trainer.logger.local_logger.my_fantastic_logging.items():
        values[:] = [0.5] * (epoch + 1) if key != "dice_per_class_or_region" else [[0.5]] * (epoch + 1)
    file = Path(trainer.output_folder) / name
    trainer.save_checkpoint(str(file))
    return file


def value_of(trainer):
    (value,) = {float(each) for weights in trainer.network.parameters() for each in weights.detach().unique()}
    return value


def log_of(trainer):
    return Path(trainer.log_file).read_text(encoding="utf-8")


@pytest.mark.parametrize("resumed", [True, False])
def test_nnunet_says_in_the_plans_whether_a_training_is_resumed(trainers, resumed):
    """Without this note, `--c` is an ordinary load, and the other tests here say what is lost."""
    assert trainers(resumed=resumed).is_resumed is resumed, "nnU-Net does not note --c as 'continue_training' any more"


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_cut_off_checkpoint_gives_way_to_the_one_before(trainers, damage):
    first = trainers(num_epochs=9)
    save(first, BEST, epoch=3, value=0.25)
    file = save(first, LATEST, epoch=5, value=0.5)
    whole = trainers(num_epochs=9, resumed=True)
    assert (whole.current_epoch, value_of(whole)) == (6, 0.5) and "WARNING" not in log_of(whole)
    file.write_bytes(damage(file.read_bytes()))
    resumed = trainers(num_epochs=9, resumed=True)
    assert (resumed.current_epoch, value_of(resumed)) == (4, 0.25)
    assert f"{file} is cut off" in log_of(resumed) and f"Resumed from {BEST}" in log_of(resumed)


def test_where_no_checkpoint_is_whole_nothing_is_trained_from_the_start(trainers):
    first = trainers()
    files = [save(first, name, epoch=0, value=0.5) for name in (FINAL, LATEST, BEST)]
    for file in files:
        file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(ModelError, match=facts(FINAL, "cut off", "no other checkpoint", "without --c")):
        trainers(resumed=True)


def test_a_validation_and_pretrained_weights_take_no_other_checkpoint(trainers):
    first = trainers()
    file = save(first, FINAL, epoch=0, value=0.5)
    for other in (LATEST, BEST):
        newer = save(first, other, epoch=0, value=0.25)
        os.utime(newer, (time.time(), time.time() + 10))
    validated = trainers()
    maybe_load_checkpoint(validated, False, True)
    assert value_of(validated) == 0.5
    assert next(trainers(pretrained=str(file)).network.parameters()).unique().tolist() == [0.5]
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(ModelError, match=facts(FINAL, "cut off")):
        maybe_load_checkpoint(trainers(), False, True)


@pytest.mark.parametrize("latest_is_newer", [True, False])
def test_a_training_that_went_on_for_more_epochs_resumes_from_the_newest(trainers, latest_is_newer):
    """nnU-Net takes the final checkpoint first, and would repeat the epochs since."""
    first = trainers(num_epochs=2)
    final = save(first, FINAL, epoch=1, value=0.25)
    longer = trainers(num_epochs=8, resumed=True)
    latest = save(longer, LATEST, epoch=4, value=0.5)
    now = time.time()
    os.utime(final, (now, now))
    os.utime(latest, (now, now + (10 if latest_is_newer else -10)))
    resumed = trainers(num_epochs=8, resumed=True)
    assert (resumed.current_epoch, value_of(resumed)) == ((5, 0.5) if latest_is_newer else (2, 0.25))
    assert (f"{LATEST} is newer" in log_of(resumed)) is latest_is_newer


@pytest.mark.parametrize("by_an_earlier_version", [True, False])
@pytest.mark.parametrize("now", [7, 5, 4])
@pytest.mark.parametrize("name", ["nnUNetTrainerMoESD", "nnUNetTrainerLCKD"])
def test_another_number_of_epochs_is_said(trainers, by_an_earlier_version, name, now):
    file = save(trainers(name, num_epochs=5), LATEST, epoch=3, value=0.5)
    if by_an_earlier_version:
        checkpoint = torch.load(file, weights_only=False)
        del checkpoint["optimizer_state"]["nnunet_moe"]
        torch.save(checkpoint, file)
    resumed = trainers(name, num_epochs=now, resumed=True)
    assert resumed.current_epoch == 4
    assert (f"num_epochs was 5 and is now {now}" in log_of(resumed)) is (now != 5)
    assert ("no epoch is left" in log_of(resumed)) is (now == 4)


def test_another_version_is_said(trainers):
    file = save(trainers(), LATEST, epoch=0, value=0.5)
    checkpoint = torch.load(file, weights_only=True)
    versions = checkpoint["optimizer_state"]["nnunet_moe"]["versions"]
    assert set(versions) == {"nnunet-moe", "torch", "nnunetv2", "batchgeneratorsv2", "dynamic-network-architectures"}
    assert versions["torch"] == torch.__version__.partition("+")[0] or versions["torch"] == torch.__version__
    for package, before in (("batchgeneratorsv2", "0.1"), ("torch", "1.0")):
        versions[package] = before
    torch.save(checkpoint, file)
    resumed = trainers(resumed=True)
    found = [line for line in log_of(resumed).splitlines() if "WARNING" in line]
    assert len(found) == 2 and "torch was 1.0" in found[0] and "batchgeneratorsv2 was 0.1" in found[1]


@pytest.mark.skipif(os.name != "posix", reason="other systems have no such locks")
def test_of_two_trainings_of_a_fold_the_second_is_refused_until_the_first_ends(trainers, monkeypatch):
    second, trained = trainers(), []
    monkeypatch.setattr(nnUNetTrainer, "run_training", lambda trainer: trained.append(trainer.local_rank))
    lock = Path(second.output_folder) / "training.lock"
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(lock)], stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None and first.stdout.readline() == "held\n"
        with pytest.raises(ModelError, match=facts("Another process trains", second.output_folder)):
            second.run_training()
        assert {file.name for file in lock.parent.iterdir()} == {lock.name, Path(second.log_file).name}
        second.local_rank = 1  # of a training on several GPUs, only the first process locks
        second.run_training()
        second.local_rank = 0
        first.send_signal(signal.SIGKILL)
        first.wait()
    second.run_training()
    second.run_training()
    assert trained == [1, 0, 0]


@pytest.mark.skipif(os.name != "posix", reason="other systems have no such locks")
def test_a_worker_that_outlives_its_training_holds_no_lock(tmp_path):
    file = tmp_path / "training.lock"
    with held_alone(file) as is_alone:
        assert is_alone and hold(file) is None
        worker = os.fork()
        if worker == 0:
            time.sleep(60)
            os._exit(0)
    try:
        until = time.monotonic() + 30
        while (opened := hold(file)) is None and time.monotonic() < until:
            time.sleep(0.01)  # the worker closes its copy of the file when it starts
        assert opened is not None
        os.close(opened)
    finally:
        os.kill(worker, signal.SIGKILL)
        os.waitpid(worker, 0)
