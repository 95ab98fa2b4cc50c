"""Load the checkpoints in model folders."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from nnunet_moe.errors import ModelError, NnunetMoeError
from nnunet_moe.models.choice import Fold

EXTRAS = "nnunet_moe"
"""The entry in the state of the optimizer with what our trainers add to a checkpoint."""


@contextmanager
def loading(folder: Path, folds: Sequence[Fold]) -> Iterator[None]:
    """Explain errors while nnU-Net loads the folds of a model inside the block.

    Raises:
        ModelError: nnU-Net could not load a fold; the message names the model and the folds.
    """
    try:
        yield
    except NnunetMoeError:
        raise
    except (RuntimeError, OSError, EOFError, KeyError, ValueError, TypeError, UnpicklingError) as error:
        raise ModelError(
            f"{folder}, fold {', '.join(map(str, folds))}, cannot be loaded: {error}. Train it again, or choose "
            "another model with -tr, -f and -chk."
        ) from error


def read_checkpoint(file: Path) -> dict[str, Any]:
    """Read an nnU-Net checkpoint, and check that it has weights, plans, configuration and trainer.

    A pickle can run any code when it is read. Therefore torch first reads the file as weights and plain data, and the
    checkpoints of this package's trainers contain nothing else. nnU-Net's own checkpoints contain NumPy numbers. They
    need the full unpickler, which nnU-Net uses for every checkpoint. As with nnU-Net, do not read checkpoints from
    sources that you do not trust.

    Raises:
        ModelError: the file is no nnU-Net checkpoint, or its weights are not finite.
    """
    try:
        try:
            checkpoint = torch.load(file, map_location="cpu", weights_only=True)
        except UnpicklingError:
            checkpoint = torch.load(file, map_location="cpu", weights_only=False)
    except FileNotFoundError:
        raise ModelError(f"{file} does not exist. Give an nnU-Net checkpoint, fold_X/checkpoint_final.pth.") from None
    except Exception as error:  # unpickling another type of file may raise anything
        raise ModelError(
            f"{file} cannot be read as a checkpoint: {error}. Give an nnU-Net checkpoint, such as checkpoint_final.pth."
        ) from error
    try:
        weights, arguments = checkpoint["network_weights"], checkpoint["init_args"]
        _ = [arguments["plans"][key] for key in ("dataset_name", "plans_name")]
        _ = arguments["configuration"], checkpoint["trainer_name"]
        is_finite = all(bool(tensor.isfinite().all()) for tensor in weights.values())
    except (KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{file} is no nnU-Net checkpoint ({type(error).__name__}: {error}). Give an nnU-Net checkpoint, such as "
            "checkpoint_final.pth."
        ) from error
    if not is_finite:
        raise ModelError(
            f"{file} has weights that are NaN or infinite. Give a checkpoint of a training without such weights."
        )
    return checkpoint


def versions_in(file: Path) -> dict[str, str]:
    """Return the versions of packages with which a checkpoint was written, without reading its weights.

    Returns:
        Package -> version; empty if the checkpoint does not say it, as those of nnU-Net and of earlier versions.
    """
    try:
        state = torch.load(file, map_location="cpu", mmap=True, weights_only=True)["optimizer_state"]
        return dict(state[EXTRAS]["versions"])
    except (KeyError, TypeError, RuntimeError, UnpicklingError, ValueError):
        return {}
