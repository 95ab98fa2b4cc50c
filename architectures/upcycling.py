"""Experts from a network without them.

Each expert is a copy of the trained convolution plus small noise ("sparse upcycling", Komatsuzaki et al., ICLR 2023).
Experts that are alike give the ordinary network whatever the gates say; the noise lets them part.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nnunet_moe.architectures.code_conv import CodeConv
from nnunet_moe.architectures.moe_conv import MoEConv
from nnunet_moe.errors import ModelError

HEADS = ".seg_layers."
"""Part of the names of the segmentation heads, which nnU-Net's `-pretrained_weights` starts anew."""
OTHER_PLANS = "Name the plans and configuration that the checkpoint was trained on by -d, -p and -c."


@dataclass(frozen=True)
class UpcyclingSource:
    """The checkpoint that a training with experts starts from."""

    weights: dict[str, Tensor]
    """The network's state."""
    trainer: str
    """The class's name."""
    modalities: Sequence[str]
    """Of its dataset, in channel order."""


def nothing_to_upcycle(network: nn.Module) -> ModelError:
    """The error that a network has no experts which a checkpoint could lack."""
    return ModelError(
        f"{type(network).__name__} has nothing that experts can take the place of. Name a trainer that has by -tr: for "
        "an ordinary nnU-Net's checkpoint nnUNetTrainerMoESD say, for M4oE's its own."
    )


def upcycled_weights(source: UpcyclingSource, network: nn.Module, noise: float) -> dict[str, Tensor]:
    """The state of a network, with the weights of an ordinary one put in.

    What the ordinary network does not have, gates and the like, stays as it is; so do segmentation heads for other
    labels.

    Args:
        source: an ordinary network.
        network: it is not changed.
        noise: SD of what is added to each copy, as a fraction of the SD of the tensor's weights, drawn from torch's
            global generator.

    Raises:
        ModelError: the networks do not fit, or there is nothing to upcycle.
    """
    if any(".gate." in key or ".scaling." in key for key in source.weights):
        raise ModelError(
            f"The checkpoint is of {source.trainer}, which has experts or a stem of its own already. Give it to "
            "-pretrained_weights of the same trainer, or upcycle an ordinary nnU-Net."
        )
    own, given_weights = network.state_dict(), source.weights
    # nnU-Net holds the encoder, and each convolution, under several names; all of them are in the state
    layers = [(f"{name}.", m) for name, m in network.named_modules(remove_duplicate=False) if isinstance(m, CodeConv)]
    experts = {f"{name}{part}" for name, m in layers if isinstance(m, MoEConv) for part in ("weight", "bias")}
    new = {key for key in own.keys() - given_weights.keys() if any(key.startswith(name) for name, _ in layers)}
    if strangers := sorted((own.keys() - given_weights.keys() - new) | (given_weights.keys() - own.keys())):
        found = f"{len(strangers)} weights are in one of them only, first {strangers[0]}"
        raise ModelError(f"The networks differ: {found}. {OTHER_PLANS}")
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
