"""Make a checkpoint a starting point for a trainer with experts that it has not.

Of an ordinary nnU-Net each expert is a copy of the trained convolution plus small noise ("sparse upcycling",
Komatsuzaki et al., ICLR 2023). Experts that are alike give the ordinary network whatever the gates say; the noise lets
them part. An M4oE gets an expert more in each block for each new kind.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from nnunetv2.paths import nnUNet_preprocessed
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import Tensor

from nnunet_moe.architectures.code_conv import CodeConv
from nnunet_moe.architectures.modality_network import ModalityNetwork
from nnunet_moe.architectures.moe_conv import MoEConv
from nnunet_moe.architectures.new_image_types import HEADS, kinds_of, with_new_kinds
from nnunet_moe.architectures.swin_network import SwinUNetwork
from nnunet_moe.commands.upcycle.command import Request
from nnunet_moe.errors import ModelError, SettingsError
from nnunet_moe.modalities.codes import channel_names
from nnunet_moe.models.checkpoints import read_checkpoint
from nnunet_moe.models.networks import planned_network
from nnunet_moe.runtime.files import atomic_write, dataset_name, nnunet_folder

OTHER_PLANS = "Name the plans and configuration that the checkpoint was trained on by -d, -p and -c."


@dataclass(frozen=True)
class Target:
    """What will be trained from the upcycled weights, in the words of `nnUNetv2_train`."""

    trainer: str
    dataset: str
    plans: str
    configuration: str

    def network(self) -> tuple[ModalityNetwork | SwinUNetwork, tuple[str, ...]]:
        """The network that a training would start with, and the names of its modalities.

        Raises:
            ModelError: no such plans, configuration or trainer, or a trainer whose network knows no modality codes.
            SettingsError: a mistake in the plans' settings.
        """
        folder = nnunet_folder(nnUNet_preprocessed) / self.dataset
        plans_file, dataset_file = folder / f"{self.plans}.json", folder / "dataset.json"
        for file in (plans_file, dataset_file):
            if not file.exists():
                raise ModelError(f"{file} is not there. Plan and preprocess the dataset, or name another by -d and -p.")
        plans, dataset_json = (json.loads(file.read_text()) for file in (plans_file, dataset_file))
        if self.configuration not in plans["configurations"]:
            raise ModelError(
                f"{plans_file} has no configuration {self.configuration!r}, only {', '.join(plans['configurations'])}. "
                "Name one of them by -c."
            )
        manager = PlansManager(plans)
        try:
            configuration = manager.get_configuration(self.configuration)
        except ValueError as error:
            raise ModelError(f"Configuration {self.configuration!r} of {plans_file} cannot be used: {error}") from error
        network = planned_network(self.trainer, manager, configuration, dataset_json, deep_supervision=True)
        if not isinstance(network, ModalityNetwork) and not (isinstance(network, SwinUNetwork) and network.mixtures):
            raise ModelError(
                f"{self.trainer} has nothing that experts can take the place of. Name a trainer that has by -tr: for "
                "an ordinary nnU-Net's checkpoint nnUNetTrainerMoESD say, for M4oE's its own."
            )
        return network, channel_names(dataset_json)


def upcycle_checkpoint(request: Request) -> Target:
    """Write a file for `nnUNetv2_train ... -pretrained_weights`.

    Returns:
        The target, defaults filled in.

    Raises:
        ModelError: no such files, or source and target do not fit.
        SettingsError: `like` without image types to choose from.
    """
    source, out, trainer = request.source, request.out, request.trainer
    if out.exists() or not out.parent.is_dir():
        problem = "exists already" if out.exists() else "lies in no folder that there is"
        raise ModelError(f"{out} {problem}. Name another file by -o.")
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
    if isinstance(network, SwinUNetwork):
        kinds = kinds_of(checkpoint, channel_names(checkpoint["init_args"]["dataset_json"]))
        weights = with_new_kinds(
            checkpoint["network_weights"], kinds, network, names, like=request.like, noise=request.noise
        )
    elif request.like is not None:
        raise SettingsError(
            f"-like {request.like} is for M4oE, whose experts are of kinds; {trainer} has others. Leave it out."
        )
    else:
        _require_ordinary(source, checkpoint)
        weights = upcycled_weights(checkpoint["network_weights"], network, request.noise)
    origin = {"checkpoint": str(source), "trainer": checkpoint["trainer_name"]}
    origin |= {"noise": request.noise, "seed": request.seed, "like": request.like, "dataset": target.dataset}
    try:
        with atomic_write(out) as unfinished:
            torch.save({"network_weights": weights, "trainer_name": trainer, "upcycled_from": origin}, unfinished)
    except (RuntimeError, OSError) as error:
        raise ModelError(f"{out} cannot be written: {error}. Is there room, and may you write there?") from error
    return target


def upcycled_weights(source: dict[str, Tensor], network: ModalityNetwork, noise: float) -> dict[str, Tensor]:
    """The state of a network, with the weights of an ordinary one put in.

    What the ordinary network does not have, gates and the like, stays as it is; so do segmentation heads for other
    labels.

    Args:
        source: the ordinary network's state.
        network: it is not changed.
        noise: SD of what is added to each copy, as a fraction of the SD of the tensor's weights, drawn from torch's
            global generator.

    Raises:
        ModelError: the networks do not fit, or there is nothing to upcycle.
    """
    own = network.state_dict()
    # nnU-Net holds the encoder, and each convolution, under several names; all of them are in the state
    layers = [(f"{name}.", m) for name, m in network.named_modules(remove_duplicate=False) if isinstance(m, CodeConv)]
    experts = {f"{name}{kind}" for name, m in layers if isinstance(m, MoEConv) for kind in ("weight", "bias")}
    new = {key for key in own.keys() - source.keys() if any(key.startswith(name) for name, _ in layers)}
    if strangers := sorted((own.keys() - source.keys() - new) | (source.keys() - own.keys())):
        found = f"{len(strangers)} weights are in one of them only, first {strangers[0]}"
        raise ModelError(f"The networks differ: {found}. {OTHER_PLANS}")
    copies: dict[int, Tensor] = {}
    result = {}
    for key, target in own.items():
        if key in new or (HEADS in key and source[key].shape != target.shape):
            result[key] = target
            continue
        given = source[key]
        is_copied = bool(new) and key in experts
        expected = target.shape[1:] if is_copied else target.shape
        if given.shape != expected:
            raise ModelError(
                f"The networks differ: {key} is {tuple(given.shape)} in the checkpoint and should be "
                f"{tuple(expected)}. {OTHER_PLANS}"
            )
        if is_copied and target.data_ptr() not in copies:  # one draw for a tensor of several names
            spread = noise * given.std(correction=0)
            copies[target.data_ptr()] = given + spread * torch.randn_like(target)
        result[key] = copies[target.data_ptr()] if is_copied else given
    if not new:
        raise ModelError(
            "There is nothing to upcycle: the checkpoint fits this trainer as it is. Give it to -pretrained_weights."
        )
    return result


def _require_ordinary(file: Path, checkpoint: dict[str, Any]) -> None:
    """Of a network without code-dependent convolutions."""
    if any(".gate." in key or ".scaling." in key for key in checkpoint["network_weights"]):
        raise ModelError(
            f"{file} is of {checkpoint['trainer_name']}, which has experts or a stem of its own already. Give it to "
            "-pretrained_weights of the same trainer, or upcycle an ordinary nnU-Net."
        )
