"""The checkpoints in model folders."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from nnunet_moe.errors import ModelError, NnunetMoeError
from nnunet_moe.models.choice import Fold


@contextmanager
def loading(folder: Path, folds: Sequence[Fold]) -> Iterator[None]:
    """While a model's folds are loaded by nnU-Net, which does not say what is wrong with them.

    Raises:
        ModelError: it could not load them.
    """
    try:
        yield
    except NnunetMoeError:
        raise
    except (RuntimeError, OSError, EOFError, KeyError, ValueError, TypeError, UnpicklingError) as error:
        raise ModelError(
            f"{folder}, fold {', '.join(map(str, folds))}, cannot be loaded: {error}. Train it again, or name another "
            "model by -tr, -f and -chk."
        ) from error


def read_checkpoint(file: Path) -> dict[str, Any]:
    """An nnU-Net checkpoint with what is needed of it: weights, plans, configuration and trainer.

    A pickle can run any code when it is read, so torch first reads the file as weights and plain data. The
    checkpoints of this package's trainers contain nothing else. nnU-Net's own contain NumPy numbers and need the full
    unpickler, which nnU-Net uses for every checkpoint: as with nnU-Net, read none from a source that you do not trust.

    Raises:
        ModelError: the file is no such checkpoint, or its weights are not finite.
    """
    try:
        try:
            checkpoint = torch.load(file, map_location="cpu", weights_only=True)
        except UnpicklingError:
            checkpoint = torch.load(file, map_location="cpu", weights_only=False)
    except FileNotFoundError:
        raise ModelError(f"{file} is not there. Name an nnU-Net checkpoint, fold_X/checkpoint_final.pth.") from None
    except Exception as error:  # whatever unpickling a file of another kind raises
        raise ModelError(f"{file} cannot be read as a checkpoint: {error}.") from error
    try:
        weights, arguments = checkpoint["network_weights"], checkpoint["init_args"]
        _ = [arguments["plans"][key] for key in ("dataset_name", "plans_name")]
        _ = arguments["configuration"], checkpoint["trainer_name"]
        is_finite = all(bool(tensor.isfinite().all()) for tensor in weights.values())
    except (KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{file} is no nnU-Net checkpoint: {type(error).__name__} {error} in what it holds."
        ) from error
    if not is_finite:
        raise ModelError(
            f"{file} has weights that are NaN or infinite. Name a checkpoint of a training that went well."
        )
    return checkpoint
