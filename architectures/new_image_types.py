"""Extend a trained M4oE to new image types: each block gets one more expert for each new image type.

The paper (Jiang, Shen, MICCAI 2024) adds modalities in this way, but it does not give the initial weights of a new
expert. Here, a new expert is a copy of the expert of a similar image type, or the mean of all experts ("sparse
upcycling", Komatsuzaki et al., ICLR 2023).
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nnunet_moe.architectures.moe_mlp import MoEMLP
from nnunet_moe.architectures.upcycling import HEADS, UpcyclingSource
from nnunet_moe.errors import ModelError

OF_EXPERTS = ("weight_in", "bias_in", "weight_out", "bias_out")
OF_GATE = ("gate.weight", "gate.bias")


def with_new_image_types(
    source: dict[str, Tensor],
    image_types: Sequence[str],
    network: nn.Module,
    wanted: Sequence[str],
    *,
    like: str | None,
    noise: float,
) -> dict[str, Tensor]:
    """Return the state of a network for more image types, with the weights of a network for fewer image types.

    Old image types keep their experts. Whether the new network computes the same as the old one depends on the options:

    - With `like` and without noise, it does. This holds for images of old types, and for images of new types treated as
      the type `like`. A copied expert shares its part of the gate's softmax with its copies.
    - Without `like`, it does so only for old image types, and only if routing is by image type.
    - With the channel gate, it never does, because this gate multiplies the sum of all experts.

    Args:
        source: the state of a network with experts for `image_types`.
        image_types: the image types of `source`, in the order of the experts.
        network: the network for the image types `wanted`, with the same routing; it is not changed.
        wanted: the image types of `network`, in the order of the channels; they include all `image_types`.
        like: the old image type whose expert is copied for new ones; None for the mean of all experts.
        noise: SD of the noise that is added to new experts, as a fraction of the SD of the copied tensor. It is drawn
            from torch's global generator. Without noise, identical experts would learn the same.

    Raises:
        ModelError: the image types or networks do not fit, or no image type is new.
    """
    _require_fitting_image_types(image_types, wanted, like)
    nearest = None if like is None else image_types.index(like)
    places = [image_types.index(image_type) if image_type in image_types else None for image_type in wanted]
    mixtures = [name for name, module in network.named_modules() if isinstance(module, MoEMLP)]
    of_experts = {f"{name}.{part}" for name in mixtures for part in OF_EXPERTS}
    of_gate = {f"{name}.{part}" for name in mixtures for part in OF_GATE}
    own, result = network.state_dict(), {}
    if strangers := sorted(key for key in own.keys() - source.keys() if HEADS not in key):
        raise ModelError(
            f"The checkpoint lacks {len(strangers)} weights of this trainer's network; the first is {strangers[0]}. "
            "Name the checkpoint's trainer with -tr."
        )
    for key, target in own.items():
        given = source.get(key)
        if given is not None and key in of_experts:
            result[key] = _extended(given, places, like=nearest, noise=noise)
        elif given is not None and key in of_gate and given.shape[0] == len(image_types) and len(target) == len(wanted):
            result[key] = _extended(given, places, like=nearest, noise=0.0)
            if key.endswith("bias") and nearest is not None:  # the copied expert and its copies share its weight
                share = math.log(1 + places.count(None))
                alike = [number for number, place in enumerate(places) if place in (None, nearest)]
                result[key][alike] -= share
        else:
            result[key] = target if given is None or (HEADS in key and given.shape != target.shape) else given
        if result[key].shape != target.shape:
            raise ModelError(
                f"The networks differ: {key} has shape {tuple(result[key].shape)} with the checkpoint's weights, but "
                f"it must be {tuple(target.shape)}. Name the checkpoint's own trainer with -tr, and name plans with "
                "its patch size and 'width' with -p and -c."
            )
    return result


def image_types_of(source: UpcyclingSource) -> list[str]:
    """Return the image types of a checkpoint's experts: the channel names of its dataset.

    Raises:
        ModelError: the checkpoint does not have exactly one expert for each channel.
    """
    numbers = {len(weight) for key, weight in source.weights.items() if key.endswith(".mlp.weight_in")}
    if numbers != {len(source.modalities)}:
        found = " and ".join(map(str, numbers)) or "no"
        raise ModelError(
            f"The checkpoint of {source.trainer} has {found} experts for {len(source.modalities)} image types. There "
            "must be one for each. Name a checkpoint of nnUNetTrainerM4oE."
        )
    return list(source.modalities)


def _require_fitting_image_types(image_types: Sequence[str], wanted: Sequence[str], like: str | None) -> None:
    """Make sure that there are new image types, and that each old one and `like` is among those that it must be.

    Raises:
        ModelError: one of them is not.
    """
    if missing := sorted(set(image_types) - set(wanted)):
        raise ModelError(
            f"The checkpoint has experts for {', '.join(missing)}, but the dataset to train on only has the channels "
            f"{', '.join(wanted)}. In dataset.json, use the names of the checkpoint: {', '.join(image_types)}."
        )
    if list(image_types) == list(wanted):
        raise ModelError(
            f"The checkpoint already has experts for {', '.join(wanted)}. Use it directly with -pretrained_weights."
        )
    if like is not None and like not in image_types:
        raise ModelError(
            f"-like {like}: the checkpoint has no expert for this image type. It has experts for "
            f"{', '.join(image_types)}. Name one of these."
        )


def _extended(weights: Tensor, places: Sequence[int | None], *, like: int | None, noise: float) -> Tensor:
    """Return weights `(E, ...)` with those of new experts, made from the old ones.

    Args:
        weights: those of the old experts.
        places: for each expert its number among the old ones; None for a new expert.
        like: number of the old expert to copy; None for the mean of all.
        noise: as in `with_new_image_types`.
    """
    copied = weights.mean(dim=0) if like is None else weights[like]
    spread = noise * copied.std(correction=0)
    return torch.stack(
        [copied + spread * torch.randn_like(copied) if place is None else weights[place] for place in places]
    )
