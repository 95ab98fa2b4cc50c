"""Teach a trained M4oE new image types: its network with an expert more in each block for each new image type.

The paper (Jiang, Shen, MICCAI 2024) adds modalities so; it does not say what a new expert begins with. Here it is a
copy of the expert of the image type that is most like it, or the mean of all ("sparse upcycling", Komatsuzaki et al.,
ICLR 2023).
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
    """The state of a network for more image types, with the weights of one for fewer put in.

    Old image types keep their experts. With `like` and without noise the network computes what the old one does, for
    images of old types and, as that type, of new ones: of a softmax over the experts the new ones take their share from
    the one that they copy. Without `like` this holds for old types only, and only where routing is by image type. It
    does not hold for the channel gate, which multiplies the sum of all experts.

    Args:
        source: the state of a network with experts for `image_types`.
        image_types: their names, in the order of the experts.
        network: of the same routing, for `wanted`; it is not changed.
        wanted: the names of its image types, in the order of the channels; all of `image_types` among them.
        like: the old image type whose expert new ones copy; None for the mean of all.
        noise: SD of what is added to new experts, as a fraction of the SD of the copied tensor, drawn from torch's
            global generator; experts that stay alike would learn alike.

    Raises:
        ModelError: the image types or networks do not fit, or no image type is new.
    """
    if missing := sorted(set(image_types) - set(wanted)):
        raise ModelError(
            f"The checkpoint has experts for {', '.join(missing)}, which the dataset to train on does not name "
            f"({', '.join(wanted)}). Give its channels the checkpoint's names, {', '.join(image_types)}."
        )
    if list(image_types) == list(wanted):
        raise ModelError(
            f"The checkpoint has experts for all of {', '.join(wanted)}. Give it to -pretrained_weights as it is."
        )
    if like is not None and like not in image_types:
        raise ModelError(f"-like {like}: the checkpoint has experts for {', '.join(image_types)}. Name one of these.")
    nearest = None if like is None else image_types.index(like)
    places = [image_types.index(image_type) if image_type in image_types else None for image_type in wanted]
    mixtures = [name for name, module in network.named_modules() if isinstance(module, MoEMLP)]
    of_experts = {f"{name}.{part}" for name in mixtures for part in OF_EXPERTS}
    of_gate = {f"{name}.{part}" for name in mixtures for part in OF_GATE}
    own, result = network.state_dict(), {}
    if strangers := sorted(key for key in own.keys() - source.keys() if HEADS not in key):
        raise ModelError(
            f"The checkpoint lacks {len(strangers)} weights, first {strangers[0]}. Name its trainer by -tr."
        )
    for key, target in own.items():
        given = source.get(key)
        if given is not None and key in of_experts:
            result[key] = _extended(given, places, like=nearest, noise=noise)
        elif given is not None and key in of_gate and given.shape[0] == len(image_types) and len(target) == len(wanted):
            result[key] = _extended(given, places, like=nearest, noise=0.0)
            if key.endswith("bias") and nearest is not None:  # shared by the one that is copied and its copies
                share = math.log(1 + places.count(None))
                alike = [number for number, place in enumerate(places) if place in (None, nearest)]
                result[key][alike] -= share
        else:
            result[key] = target if given is None or (HEADS in key and given.shape != target.shape) else given
        if result[key].shape != target.shape:
            raise ModelError(
                f"The networks differ: {key} is {tuple(result[key].shape)} with the checkpoint's weights and should be "
                f"{tuple(target.shape)}. Name the checkpoint's own trainer by -tr, and by -p and -c plans with its "
                "patch size and 'width'."
            )
    return result


def image_types_of(source: UpcyclingSource) -> list[str]:
    """The image types of a checkpoint's experts, by the names of its dataset's channels.

    Raises:
        ModelError: the checkpoint has no experts, or not one for each channel.
    """
    numbers = {len(weight) for key, weight in source.weights.items() if key.endswith(".mlp.weight_in")}
    if numbers != {len(source.modalities)}:
        found = " and ".join(map(str, numbers)) or "no"
        raise ModelError(
            f"The checkpoint, of {source.trainer}, has {found} experts for {len(source.modalities)} image types. "
            "Name one of nnUNetTrainerM4oE."
        )
    return list(source.modalities)


def _extended(weights: Tensor, places: Sequence[int | None], *, like: int | None, noise: float) -> Tensor:
    """Weights `(E, ...)` with those of new experts, which have None among the places, made of the old."""
    copied = weights.mean(dim=0) if like is None else weights[like]
    spread = noise * copied.std(correction=0)
    return torch.stack(
        [copied + spread * torch.randn_like(copied) if place is None else weights[place] for place in places]
    )
