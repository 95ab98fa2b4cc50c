"""The input channels of a trained network, for a training with other modalities.

Only the stem, the convolution that sees the image, has weights for each input channel. So a trained network becomes one
for other modalities if the stem's weights are taken channel by channel.
"""

from collections.abc import Mapping, Sequence

import torch
from dynamic_network_architectures.building_blocks.simple_conv_blocks import ConvDropoutNormReLU
from torch import Tensor, nn

from nnunet_moe.errors import ModelError, SettingsError


def channel_places(
    trained_on: Sequence[str], modalities: Sequence[str], channels: Mapping[str, str] | None = None
) -> list[int | None]:
    """Return for each modality the channel of the checkpoint whose weights it takes; None if the checkpoint lacks it.

    With `channels`, modalities that it does not name take the channel with their name. Without it,

    - the same names in another order are taken by name;
    - other names are taken by their order.

    Args:
        trained_on: the names of the checkpoint's modalities, in channel order.
        modalities: the names of the modalities of the training to start, in channel order.
        channels: modality of the training to start -> name or number of a channel of the checkpoint. A name counts
            before a number.

    Raises:
        ModelError: without `channels`, the numbers of modalities differ.
        SettingsError: a modality or a channel in `channels` does not exist.
    """
    if channels is None and sorted(trained_on) != sorted(modalities):
        if len(trained_on) == len(modalities):
            return list(range(len(modalities)))
        raise ModelError(
            f"The checkpoint was trained with {len(trained_on)} modalities ({', '.join(trained_on)}). The training to "
            f"start has {len(modalities)} ({', '.join(modalities)}). Name with -map the channel of the checkpoint for "
            f"at least one modality, for example -map {_example(trained_on, modalities)}. Modalities that the "
            "checkpoint lacks start from the mean of its channels."
        )
    given = {} if channels is None else channels
    if unknown := [name for name in given if name not in modalities]:
        raise SettingsError(
            f"-map {unknown[0]}={given[unknown[0]]}: the training to start has no modality {unknown[0]!r}. It has "
            f"{', '.join(modalities)}. Name one of these before the '='."
        )
    by_name = {name: _place(trained_on, name, channel) for name, channel in given.items()}
    by_name = {name: place for place, name in enumerate(trained_on)} | by_name
    return [by_name.get(name) for name in modalities]


def stem_weights(network: nn.Module) -> list[str]:
    """Return all names of the weight tensor that sees the image, as in the state of a planned network.

    Raises:
        ModelError: the network is not one that nnU-Net plans.
    """
    stem = next((module for module in network.modules() if isinstance(module, ConvDropoutNormReLU)), None)
    if stem is None:
        raise ModelError(
            f"{type(network).__name__} has no convolution whose input channels are known, so -map is not possible. "
            "Networks that nnU-Net plans have it (PlainConvUNet, ResidualEncoderUNet)."
        )
    return [name for name, weight in network.named_parameters(remove_duplicate=False) if weight is stem.conv.weight]


def with_channels(
    weights: Mapping[str, Tensor], names: Sequence[str], places: Sequence[int | None], num_trained: int
) -> dict[str, Tensor]:
    """Return the state of a network with other image channels. Other weights are not copied.

    Channels after the images, such as a cascade's previous segmentation, keep their weights.

    Args:
        weights: the state of an ordinary network.
        names: those of the weights of the stem, `(C_out, C_in, *kernel)` each.
        places: for each new channel the old one whose weights it takes; None for the mean of all old ones.
        num_trained: number of old image channels.

    Raises:
        ModelError: the stem has fewer input channels than `num_trained`.
    """
    result = dict(weights)
    for name in names:
        if (given := weights.get(name)) is None:
            continue
        if given.shape[1] < num_trained:
            raise ModelError(
                f"{name} of the checkpoint has {given.shape[1]} input channels, but its dataset has {num_trained}. "
                "Give a checkpoint of an ordinary nnU-Net."
            )
        images, others = given[:, :num_trained], given[:, num_trained:]
        mean = images.mean(dim=1)
        taken = [mean if place is None else images[:, place] for place in places]
        result[name] = torch.cat([torch.stack(taken, dim=1), others], dim=1)
    return result


def origins(trained_on: Sequence[str], modalities: Sequence[str], places: Sequence[int | None]) -> str:
    """Describe in words where the weights of each modality come from."""
    of_all = f"the mean of {', '.join(trained_on)}"
    found = [of_all if place is None else f"channel {place} ({trained_on[place]})" for place in places]
    return "; ".join(f"{name} from {origin}" for name, origin in zip(modalities, found, strict=True))


def _place(trained_on: Sequence[str], name: str, channel: str) -> int:
    if channel in trained_on:
        return trained_on.index(channel)
    if channel.isdecimal() and int(channel) < len(trained_on):
        return int(channel)
    known = ", ".join(f"{number} ({each})" for number, each in enumerate(trained_on))
    raise SettingsError(
        f"-map {name}={channel}: the checkpoint has no channel {channel!r}. It has {known}. Give a number or a name "
        "of these after the '='."
    )


def _example(trained_on: Sequence[str], modalities: Sequence[str]) -> str:
    """Return values for -map: the modalities with names of the checkpoint, or the first channel for all of them."""
    same = [f"{name}={name}" for name in modalities if name in trained_on]
    return " ".join(same or [f"{name}=0" for name in modalities])
