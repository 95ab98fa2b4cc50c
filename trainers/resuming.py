"""Start and resume a training: one training per fold at a time, whole checkpoints, and changes since the checkpoint."""

import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nnunet_moe.errors import ModelError
from nnunet_moe.models.checkpoints import read_checkpoint
from nnunet_moe.runtime.environment import training_versions
from nnunet_moe.runtime.locks import held_alone

LOCK = "training.lock"
"""The file in the folder of a fold that a training locks."""
FINAL, LATEST, BEST = (f"checkpoint_{name}.pth" for name in ("final", "latest", "best"))


@contextmanager
def only_training(folder: Path, *, is_first_process: bool) -> Iterator[None]:
    """Make sure that no other process trains the same fold during the block.

    Args:
        folder: the folder of the fold.
        is_first_process: false in all but one process of a training on several GPUs; these need no lock.

    Raises:
        ModelError: another process trains the fold.
    """
    if not is_first_process:
        yield
        return
    with held_alone(folder / LOCK) as is_alone:
        if not is_alone:
            raise ModelError(
                f"Another process trains this fold now, into {folder}. Both would write the same checkpoints. Wait for "
                "it or stop it, or choose another fold, trainer, plans or configuration."
            )
        yield


def checkpoint_to_resume(file: Path) -> tuple[Path, list[str]]:
    """Return the checkpoint from which a training can be resumed, and what to say about the choice.

    nnU-Net resumes from `checkpoint_final.pth`, else from `checkpoint_latest.pth`, else from `checkpoint_best.pth`. If
    it is cut off, the next one that is whole is taken. If a finished training was continued for more epochs and
    stopped, `checkpoint_latest.pth` is newer than `checkpoint_final.pth`, so it is taken.

    Args:
        file: the checkpoint that nnU-Net chose.

    Raises:
        ModelError: no checkpoint is whole.
    """
    latest, notes = file.with_name(LATEST), []
    order = [file.with_name(name) for name in (FINAL, LATEST, BEST)]
    order = [file, *order[order.index(file) + 1 :]] if file in order else [file]
    if file.name == FINAL and latest.exists() and latest.stat().st_mtime_ns > file.stat().st_mtime_ns:
        order = [latest, file, *order[2:]]
        notes.append(f"{LATEST} is newer than {FINAL}, because the training was continued for more epochs.")
    for each in order:
        if not each.exists():
            continue
        if is_whole(each):
            return each, [*notes, f"Resumed from {each.name}."] if notes else []
        notes.append(f"WARNING: {each} is cut off or damaged, so it is not used.")
    raise ModelError(
        f"{file} is cut off or damaged, and no other checkpoint can be used. Restore the file from a copy, or start "
        "the training again without --c."
    )


def require_whole(file: Path) -> None:
    """Make sure that a checkpoint is whole.

    Raises:
        ModelError: it is cut off or damaged.
    """
    if file.exists() and not is_whole(file):
        raise ModelError(
            f"{file} is cut off or damaged. Restore it from a copy, or resume the training with --c, which writes a "
            "whole one."
        )


def is_whole(file: Path) -> bool:
    """Return whether a checkpoint can be read to its end, with the checksums of its parts."""
    try:
        with zipfile.ZipFile(file) as checkpoint:
            return checkpoint.testzip() is None
    except (zipfile.BadZipFile, EOFError, OSError):
        try:  # torch has an older format, which is no ZIP file
            read_checkpoint(file)
        except ModelError:
            return False
        return True


def state_of_training(num_epochs: int) -> dict[str, Any]:
    """Return what a checkpoint says about its training."""
    return {"num_epochs": num_epochs, "versions": training_versions()}


def changes_since(saved: Mapping[str, Any], num_epochs: int, next_epoch: int) -> list[str]:
    """Say what differs between the training that wrote a checkpoint and the one that resumes it.

    Args:
        saved: the result of `state_of_training` in the checkpoint; entries may be missing.
        num_epochs: the number of epochs now.
        next_epoch: the epoch at which the training is resumed, from 0.
    """
    notes = []
    before = saved.get("num_epochs", num_epochs)
    if before != num_epochs:
        notes.append(
            f"WARNING: num_epochs was {before} and is now {num_epochs}. The learning rate and all that depends on the "
            f"epoch follow the new number from epoch {next_epoch} on, so they change at once. The result differs from "
            f"that of a training that had {num_epochs} epochs from its start."
        )
        if next_epoch >= num_epochs:
            notes.append(f"WARNING: {next_epoch} epochs are done, so no epoch is left. {FINAL} is written from them.")
    versions = saved.get("versions", {})
    for package, version in training_versions().items():
        if versions.get(package, version) != version:
            notes.append(f"WARNING: {package} was {versions[package]} and is now {version}. Random draws may differ.")
    return notes
