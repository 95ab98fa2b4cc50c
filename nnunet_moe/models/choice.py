"""The choice of a trained model, with the same options as in nnU-Net's commands."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from nnunet_moe.errors import SettingsError
from nnunet_moe.runtime.options import option

if TYPE_CHECKING:
    from nnunet_moe.models.folders import ModelFolder

Fold: TypeAlias = int | str
"""A number from 0, or `all`."""

DEFAULT_FOLDS: tuple[Fold, ...] = (0, 1, 2, 3, 4)
DEFAULT_PLANS = "nnUNetPlans"
FINAL_CHECKPOINT = "checkpoint_final.pth"


def parse_fold(text: str) -> Fold:
    """Parse a fold from the command line.

    Raises:
        SettingsError: the text is not a fold.
    """
    if text != "all" and not text.isdecimal():
        raise SettingsError(f"-f {text} is not a fold. A fold is a number from 0, or 'all'.")
    return text if text == "all" else int(text)


@dataclass(frozen=True, kw_only=True)
class _Training:
    """The options that the choice of one model and of several models share."""

    dataset: str = option("-d", group="model", help="use this dataset, by name or id")
    configuration: str = option("-c", group="model", help="use this configuration, e.g. 3d_fullres")
    plans: str = option("-p", default=DEFAULT_PLANS, group="model", help="use these plans (default: %(default)s)")
    folds: tuple[Fold, ...] = option(
        "-f",
        nargs="+",
        type=parse_fold,
        default=DEFAULT_FOLDS,
        group="model",
        help="use these folds, as an ensemble (default: %(default)s)",
    )
    checkpoint: str = option(
        "-chk", default=FINAL_CHECKPOINT, group="model", help="load this checkpoint of each fold (default: %(default)s)"
    )
    """The name of the checkpoint file in each fold."""

    def __post_init__(self) -> None:
        if len(set(self.folds)) < len(self.folds):
            raise SettingsError(f"-f {' '.join(map(str, self.folds))}: a fold is named twice. Name each fold once.")


@dataclass(frozen=True, kw_only=True)
class ModelChoice(_Training):
    """One trained model, chosen as in `nnUNetv2_predict`.

    Raises:
        SettingsError: a fold is named twice.
    """

    trainer: str = option("-tr", group="model", help="use the model of this trainer, e.g. nnUNetTrainerMoESD")

    def find(self) -> "ModelFolder":
        """Find the trained model, and check that it has all folds.

        Raises:
            ModelError: the dataset does not exist, the model was not trained, or the checkpoint of a fold is missing.
        """
        from nnunet_moe.models.folders import not_trained, trained_models
        from nnunet_moe.runtime.files import dataset_name

        name = dataset_name(self.dataset)
        for model in trained_models(name, self.trainer, self.plans, self.checkpoint):
            if model.configuration == self.configuration:
                for fold in self.folds:
                    model.require_checkpoint(fold)
                return model
        raise not_trained(name, self.trainer, self.plans, self.configuration)


@dataclass(frozen=True, kw_only=True)
class ModelsChoice(_Training):
    """The models of several trainers on the same dataset, plans, configuration and folds.

    Raises:
        SettingsError: a trainer or a fold is named twice.
    """

    trainers: tuple[str, ...] = option(
        "-tr",
        nargs="+",
        group="model",
        help="score the models of these trainers; several are compared in pairs, first minus second",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(set(self.trainers)) < len(self.trainers):
            raise SettingsError(f"-tr {' '.join(self.trainers)}: a trainer is named twice. Name each trainer once.")

    def of_trainer(self, trainer: str) -> ModelChoice:
        """Return the choice of the model of one trainer."""
        return ModelChoice(
            dataset=self.dataset,
            configuration=self.configuration,
            trainer=trainer,
            plans=self.plans,
            folds=self.folds,
            checkpoint=self.checkpoint,
        )
