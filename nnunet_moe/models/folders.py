"""The model folders that nnU-Net's training command writes, and their checkpoints."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunetv2.paths import nnUNet_results
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_moe.errors import FileError, ModelError
from nnunet_moe.models.choice import Fold
from nnunet_moe.runtime.files import nnunet_folder
from nnunet_moe.runtime.json_files import read_json


@dataclass(frozen=True)
class ModelFolder:
    """The folder of one trainer, plans and configuration, with all its folds."""

    trainer: str
    plans: str
    configuration: str
    folder: Path
    checkpoint: str
    """The name of the checkpoint file in each fold."""

    def checkpoint_file(self, fold: Fold) -> Path:
        return self.folder / f"fold_{fold}" / self.checkpoint

    @property
    def previous_stage(self) -> "ModelFolder | None":
        """Return the model of a cascade's previous stage, or None if there is no cascade."""
        plans = PlansManager(str(self.folder / "plans.json"))
        name = plans.get_configuration(self.configuration).previous_stage_name
        if name is None:
            return None
        folder = self.folder.with_name(f"{self.trainer}__{self.plans}__{name}")
        return ModelFolder(self.trainer, self.plans, name, folder, self.checkpoint)

    def content(self, name: str) -> dict[str, Any]:
        """Read one of nnU-Net's JSON files in the folder.

        Args:
            name: file name without the ending: "plans", "dataset" or "dataset_fingerprint".

        Raises:
            ModelError: the file cannot be read.
        """
        try:
            return read_json(self.folder / f"{name}.json")
        except FileError as error:
            raise ModelError(f"{error} Every trained model has this file.") from error

    def require_checkpoint(self, fold: Fold) -> None:
        """Make sure that a fold was trained.

        Raises:
            ModelError: its checkpoint is missing.
        """
        if not self.checkpoint_file(fold).is_file():
            there = sorted(str(file.relative_to(self.folder)) for file in self.folder.glob("fold_*/checkpoint_*.pth"))
            raise ModelError(
                f"{self.checkpoint_file(fold)} does not exist. Trained checkpoints: {', '.join(there) or 'none'}. "
                "Choose with -f and -chk."
            )


def trained_models(dataset: str, trainer: str, plans: str, checkpoint: str) -> list[ModelFolder]:
    """List the model folders of a trainer and plans on a dataset, one per configuration.

    Args:
        dataset: full name of the dataset.
        trainer: name of the trainer's class.
        plans: identifier of the plans.
        checkpoint: name of the checkpoint file in each fold.
    """
    found = (nnunet_folder(nnUNet_results) / dataset).glob("*__*__*")
    folders = sorted(folder for folder in found if folder.name.split("__")[:2] == [trainer, plans])
    return [ModelFolder(trainer, plans, folder.name.split("__")[2], folder, checkpoint) for folder in folders]


def not_trained(dataset: str, trainer: str, plans: str, configuration: str) -> ModelError:
    """Make the error for a model that was not trained, with a list of the trained models."""
    trained = sorted(folder.name for folder in (nnunet_folder(nnUNet_results) / dataset).glob("*__*__*"))
    return ModelError(
        f"{trainer} with plans {plans} and configuration {configuration} has not been trained on {dataset}. "
        f"Trained models: {', '.join(trained) or 'none'}. Choose one with -tr, -p and -c."
    )
