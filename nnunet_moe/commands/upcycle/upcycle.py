"""Convert a checkpoint into initial weights, with the method `upcycled` of the network to train."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from nnunetv2.paths import nnUNet_preprocessed
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_moe.architectures.input_channels import channel_places, origins
from nnunet_moe.architectures.missing_modality_network import MissingModalityNetwork
from nnunet_moe.architectures.stock_network import StockNetwork, missing_modality_network
from nnunet_moe.architectures.upcycling import UpcyclingSource
from nnunet_moe.commands.upcycle.request import Request
from nnunet_moe.errors import ModelError
from nnunet_moe.modalities.codes import channel_names
from nnunet_moe.models.checkpoints import read_checkpoint
from nnunet_moe.models.networks import planned_network
from nnunet_moe.runtime.files import atomic_write, dataset_name, nnunet_folder
from nnunet_moe.runtime.json_files import read_json


@dataclass(frozen=True)
class Target:
    """The training that will start from the weights, described as for `nnUNetv2_train`."""

    trainer: str
    dataset: str
    plans: str
    configuration: str

    def network(self) -> tuple[MissingModalityNetwork | StockNetwork, tuple[str, ...]]:
        """Build the network that the training would start with, and return the names of its modalities, too.

        Raises:
            ModelError: the plans, the configuration or the trainer do not exist.
            SettingsError: a setting in the plans is wrong.
        """
        folder = nnunet_folder(nnUNet_preprocessed) / self.dataset
        plans_file, dataset_file = folder / f"{self.plans}.json", folder / "dataset.json"
        for file in (plans_file, dataset_file):
            if not file.exists():
                raise ModelError(
                    f"{file} does not exist. Plan and preprocess the dataset, or choose another with -d and -p."
                )
        plans, dataset_json = (read_json(file) for file in (plans_file, dataset_file))
        if self.configuration not in plans["configurations"]:
            raise ModelError(
                f"{plans_file} has no configuration {self.configuration!r}, only {', '.join(plans['configurations'])}. "
                "Choose one of them with -c."
            )
        manager = PlansManager(plans)
        try:
            configuration = manager.get_configuration(self.configuration)
        except ValueError as error:
            raise ModelError(
                f"Configuration {self.configuration!r} of {plans_file} cannot be used: {error} Choose another with -c."
            ) from error
        network = planned_network(self.trainer, manager, configuration, dataset_json, deep_supervision=True)
        return missing_modality_network(network), channel_names(dataset_json)


def upcycle_checkpoint(request: Request) -> tuple[Target, str | None]:
    """Write a file for `nnUNetv2_train ... -pretrained_weights`.

    Returns:
        The target, including values that default to the checkpoint's; and a line for the user if its modalities are not
        those of the checkpoint in the same order.

    Raises:
        ModelError: a file does not exist, or source and target do not fit.
        SettingsError: `like` or `channels` is given, but does not fit the model.
    """
    source, out, trainer = request.source, request.out, request.trainer
    if out.exists() or not out.parent.is_dir():
        problem = "already exists" if out.exists() else "is in a folder that does not exist"
        raise ModelError(f"{out} {problem}. Choose another file with -o.")
    checkpoint = read_checkpoint(source)
    source_plans = checkpoint["init_args"]["plans"]
    target = Target(
        trainer,
        source_plans["dataset_name"] if request.dataset is None else dataset_name(request.dataset),
        request.plans or source_plans["plans_name"],
        request.configuration or checkpoint["init_args"]["configuration"],
    )
    torch.manual_seed(request.seed)
    network, names = target.network()
    trained_on = channel_names(checkpoint["init_args"]["dataset_json"])
    upcycling = UpcyclingSource(checkpoint["network_weights"], checkpoint["trainer_name"], trained_on, request.channels)
    try:
        weights = network.upcycled(upcycling, names, noise=request.noise, like=request.like)
    except ModelError as error:  # the network does not know the name of its trainer
        raise ModelError(f"-tr {trainer}: {error}") from error
    origin = {"checkpoint": str(source), "trainer": checkpoint["trainer_name"]}
    origin |= {"noise": request.noise, "seed": request.seed, "like": request.like, "dataset": target.dataset}
    if request.channels is not None:
        origin["map"] = dict(request.channels)
    try:
        with atomic_write(out) as unfinished:
            torch.save({"network_weights": weights, "trainer_name": trainer, "upcycled_from": origin}, unfinished)
    except (RuntimeError, OSError) as error:
        raise ModelError(
            f"{out} cannot be written: {error}. Check the free space and the permissions of the folder."
        ) from error
    return target, _note(upcycling, names)


def _note(source: UpcyclingSource, names: Sequence[str]) -> str | None:
    """Return a line on modalities that are not those of the checkpoint in the same order; None if they are."""
    if source.channels is None and list(source.modalities) == list(names):
        return None
    if source.channels is not None or sorted(source.modalities) == sorted(names):
        places = channel_places(source.modalities, names, source.channels)
        return f"Weights of the modalities: {origins(source.modalities, names, places)}."
    return (
        f"WARNING: The checkpoint was trained with {', '.join(source.modalities)}. The training to start has "
        f"{', '.join(names)}. M4oE takes experts by these names; all other trainers take channels by their order. Make "
        "sure that both fit, or name the channels with -map."
    )
