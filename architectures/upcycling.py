"""Upcycling: make experts from the weights of a trained network without experts.

Each expert is a copy of the trained convolution plus small noise ("sparse upcycling", Komatsuzaki et al., ICLR 2023).
With identical experts, the network computes the same as the ordinary one for any gate weights. The noise lets the
experts become different.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nnunet_moe.architectures.code_layer import CodeLayer
from nnunet_moe.architectures.input_channels import channel_places, stem_weights, with_channels
from nnunet_moe.architectures.moe_conv import MoEConv
from nnunet_moe.errors import ModelError

HEADS = ".seg_layers."
"""Part of the names of the segmentation heads, which nnU-Net does not load with `-pretrained_weights`."""
OTHER_PLANS = "With -d, -p and -c, name the plans and configuration that the checkpoint was trained on."


@dataclass(frozen=True)
class UpcyclingSource:
    """The checkpoint from which a training with experts starts."""

    weights: dict[str, Tensor]
    """The state of the network."""
    trainer: str
    """The name of the trainer's class."""
    modalities: Sequence[str]
    """The names of its dataset's channels, in channel order."""
    channels: Mapping[str, str] | None = None
    """Modality of the training to start -> name or number of the channel of the checkpoint whose weights it takes."""


def nothing_to_upcycle(network: nn.Module) -> ModelError:
    """Return the error for a network without experts, which needs no upcycling."""
    return ModelError(
        f"{type(network).__name__} has no experts, so there is nothing to upcycle. Name a trainer with experts with "
        "-tr: for a checkpoint of an ordinary nnU-Net for example nnUNetTrainerMoESD, for one of M4oE its own trainer."
    )


def upcycled_weights(
    source: UpcyclingSource, network: nn.Module, modalities: Sequence[str], noise: float
) -> dict[str, Tensor]:
    """Return the state of a network, with or without experts, with the weights of an ordinary network.

    Weights that the ordinary network does not have, such as gates, keep their values. So do segmentation heads if the
    labels differ.

    Args:
        source: the weights of an ordinary network.
        network: the network to train; it is not changed.
        modalities: the names of its modalities, in channel order.
        noise: SD of the noise that is added to each copy, as a fraction of the SD of the copied tensor. It is drawn
            from torch's global generator.

    Returns:
        Name -> weights, for `load_state_dict`.

    Raises:
        ModelError: the networks do not fit, or there is nothing to upcycle.
        SettingsError: a modality or a channel in `channels` of the source does not exist.
    """
    if any(".gate." in key or ".scaling." in key for key in source.weights):
        raise ModelError(
            f"The checkpoint of {source.trainer} already has experts or other weights that depend on the modality "
            "code. Only checkpoints of an ordinary nnU-Net can be upcycled. Use this one with -pretrained_weights and "
            "the same trainer."
        )
    places = channel_places(source.modalities, modalities, source.channels)
    same_channels = places == list(range(len(source.modalities)))
    own, given_weights = network.state_dict(), source.weights
    if not same_channels:
        given_weights = with_channels(given_weights, stem_weights(network), places, len(source.modalities))
    # in nnU-Net's networks, the encoder and each convolution have several names; the state contains all of them
    layers = [(f"{name}.", m) for name, m in network.named_modules(remove_duplicate=False) if isinstance(m, CodeLayer)]
    experts = {f"{name}{part}" for name, m in layers if isinstance(m, MoEConv) for part in ("weight", "bias")}
    new = {key for key in own.keys() - given_weights.keys() if any(key.startswith(name) for name, _ in layers)}
    if strangers := sorted((own.keys() - given_weights.keys() - new) | (given_weights.keys() - own.keys())):
        found = f"{len(strangers)} weights are in one of the networks only; the first is {strangers[0]}"
        raise ModelError(f"Checkpoint and trainer have different networks: {found}. {OTHER_PLANS}")
    copies: dict[int, Tensor] = {}
    result = {}
    for key, target in own.items():
        if key in new or (HEADS in key and given_weights[key].shape != target.shape):
            result[key] = target
            continue
        given = given_weights[key]
        is_copied = bool(new) and key in experts
        expected = target.shape[1:] if is_copied else target.shape
        if given.shape != expected:
            raise ModelError(
                f"Checkpoint and trainer have different networks: {key} has shape {tuple(given.shape)} in the "
                f"checkpoint, but it must be {tuple(expected)}. {OTHER_PLANS}"
            )
        if is_copied and target.data_ptr() not in copies:  # draw only once for a tensor with several names
            spread = noise * given.std(correction=0)
            copies[target.data_ptr()] = given + spread * torch.randn_like(target)
        result[key] = copies[target.data_ptr()] if is_copied else given
    if not new and same_channels:
        raise ModelError(
            "There is nothing to upcycle, because the checkpoint fits this trainer as it is. Use it directly with "
            "-pretrained_weights."
        )
    return result
