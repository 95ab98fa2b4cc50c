"""What nnU-Net's training commands leave behind: model folders and their checkpoints."""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from nnunetv2.paths import nnUNet_results
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from nnunet_moe.environment import trainers_known
from nnunet_moe.errors import ModelError, NnunetMoeError, SettingsError
from nnunet_moe.files import dataset_name, nnunet_folder

Fold = int | str


@dataclass(frozen=True)
class Model:
    """What one training command made: the folder of a trainer, plans and configuration."""

    trainer: str
    plans: str
    configuration: str
    folder: Path
    checkpoint: str
    """The name of the checkpoint file in each fold."""

    def checkpoint_file(self, fold: Fold) -> Path:
        return self.folder / f"fold_{fold}" / self.checkpoint

    @property
    def previous_stage(self) -> "Model | None":
        """The model whose segmentations a cascade takes."""
        plans = PlansManager(str(self.folder / "plans.json"))
        name = plans.get_configuration(self.configuration).previous_stage_name
        if name is None:
            return None
        folder = self.folder.with_name(f"{self.trainer}__{self.plans}__{name}")
        return Model(self.trainer, self.plans, name, folder, self.checkpoint)

    def require_checkpoint(self, fold: Fold) -> None:
        """Make sure that a fold was trained.

        Raises:
            ModelError: it was not.
        """
        if not self.checkpoint_file(fold).exists():
            there = sorted(str(file.relative_to(self.folder)) for file in self.folder.glob("fold_*/checkpoint_*.pth"))
            raise ModelError(
                f"{self.checkpoint_file(fold)} is not there. There are: {', '.join(there) or 'none'}. Choose by -f and "
                "-chk."
            )


def trained_models(dataset: str, trainer: str, plans: str, checkpoint: str) -> list[Model]:
    """The model folders of a trainer and plans on a dataset, one a configuration.

    Args:
        dataset: its full name.
        trainer: the class's name.
        plans: their identifier.
        checkpoint: the name of the checkpoint file in each fold.
    """
    folders = sorted((nnunet_folder(nnUNet_results) / dataset).glob(f"{trainer}__{plans}__*"))
    return [Model(trainer, plans, folder.name.split("__")[2], folder, checkpoint) for folder in folders]


def find_model(
    dataset: str, trainer: str, plans: str, configuration: str, folds: Sequence[Fold], checkpoint: str
) -> Model:
    """One trained model, all of its folds there.

    Args:
        dataset: its name or id.

    Raises:
        ModelError: no such dataset, the model was not trained, or a fold's checkpoint is missing.
        SettingsError: a fold is named twice.
    """
    if len(set(folds)) < len(folds):
        raise SettingsError("A fold is named twice. Name each once by -f.")
    name = dataset_name(dataset)
    for model in trained_models(name, trainer, plans, checkpoint):
        if model.configuration == configuration:
            for fold in folds:
                model.require_checkpoint(fold)
            return model
    raise not_trained(name, trainer, plans, configuration)


def not_trained(dataset: str, trainer: str, plans: str, configuration: str) -> ModelError:
    """The error that a model was not trained; it tells what was."""
    trained = sorted(folder.name for folder in (nnunet_folder(nnUNet_results) / dataset).glob("*__*__*"))
    return ModelError(
        f"{trainer} with plans {plans} and configuration {configuration} has not been trained on {dataset}. "
        f"Trained are: {', '.join(trained) or 'none'}. Name one by -tr, -p and -c."
    )


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

    Raises:
        ModelError: the file is no such checkpoint, or its weights are not finite.
    """
    try:
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


def planned_network(
    trainer: str,
    plans: PlansManager,
    configuration: ConfigurationManager,
    dataset_json: dict[str, Any],
    *,
    deep_supervision: bool,
) -> nn.Module:
    """The network that a trainer starts with, its weights drawn anew.

    Raises:
        ModelError: there is no such trainer.
        SettingsError: a mistake in the plans' settings.
    """
    return find_trainer(trainer).build_network_architecture(
        plans,
        configuration,
        determine_num_input_channels(plans, configuration, dataset_json),
        plans.get_label_manager(dataset_json).num_segmentation_heads,
        deep_supervision,
    )


def find_trainer(name: str) -> Any:
    """A trainer's class, as nnU-Net finds it, this package's trainers among them.

    Raises:
        ModelError: there is no such trainer.
    """
    try:
        with trainers_known(), redirect_stdout(io.StringIO()):  # it tells of every module that it looks into
            return recursive_find_trainer_class_by_name(name)
    except RuntimeError as error:
        raise ModelError(f"There is no trainer {name!r}; name one of this package's by -tr.") from error
