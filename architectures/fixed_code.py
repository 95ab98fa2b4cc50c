"""With the code fixed, a network of this package is an ordinary one with fewer input channels.

A convolution that depends on the code is a plain convolution with that code's kernel (paper, eq. 3: the experts are
linear, so their gated sum is one kernel); and what a convolution makes of a channel of zeros is nothing, so the input
channels of absent modalities can be cut out of its kernel. Where a label cannot appear under the code, its logit is a
constant, which is a bias.
"""

import copy

import torch
from torch import Tensor, nn

from nnunet_moe.architectures.code_conv import CodeConv
from nnunet_moe.architectures.missing_modality_network import MissingModalityNetwork
from nnunet_moe.errors import ModelError
from nnunet_moe.labels.label_sets import OUTSIDE, covered
from nnunet_moe.modalities.codes import Code, present_channels

SAME_FUNCTION = 1e-10
"""What the order of summation may change of logits in double precision, of the largest of them or of 1."""
SAME_WEIGHTS = 1e-4
"""What rounding the weights to single precision may change of these logits."""


def load_fixed(planned: nn.Module, network: MissingModalityNetwork, code: Code) -> None:
    """Give an ordinary network the weights with which it computes what a network of this package does under a code.

    Args:
        planned: as nnU-Net builds it for the channels of the code, in the precision of `network`; its weights are
            replaced.
        network: it is set to evaluation, nothing else of it changes.
        code: K bools, at least one true.

    Raises:
        ModelError: the networks differ in more than convolutions that depend on the code and the input channels of
            absent modalities.
    """
    fixed, own = _fixed_state(network, code), planned.state_dict()
    if network.label_sets is not None:
        outside = ~covered(torch.tensor([code]), network.label_sets)[0]
        for key in [key for key in fixed if ".seg_layers." in key]:
            fixed[key] = fixed[key].clone()
            fixed[key][outside] = OUTSIDE if key.endswith(".bias") else 0
    if strangers := sorted(fixed.keys() ^ own.keys()):
        raise _unknown(network, f"{len(strangers)} weights are in one of the networks only, first {strangers[0]}")
    for key, target in own.items():
        before = fixed[key]
        if before.shape != target.shape and before.ndim > 1:
            fixed[key] = before[:, present_channels(before.shape[1], code)]
        if fixed[key].shape != target.shape:
            raise _unknown(network, f"{key} is {tuple(before.shape)} and cannot become {tuple(target.shape)}")
    planned.load_state_dict(fixed)


def require_equal(planned: nn.Module, network: MissingModalityNetwork, code: Code, shape: tuple[int, ...]) -> None:
    """Make sure that a network fixed to a code is the same function, in double precision on random input.

    Args:
        planned: after `load_fixed`; neither network is changed.
        network: on the CPU.
        code: K bools, at least one true.
        shape: `(C, *space)` of `network`'s input; nnU-Net's networks take multiples of all their strides.

    Raises:
        ModelError: the logits differ, with the weights of `planned` by more than their rounding can explain, or with
            the same weights in double precision by more than 1e-10 of the largest.
    """
    double, rounded = copy.deepcopy(network).double().eval(), copy.deepcopy(planned).double().eval()
    exact = copy.deepcopy(rounded)
    load_fixed(exact, double, code)
    image = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    present = present_channels(shape[0], code)
    incomplete = torch.full_like(image, torch.nan)
    incomplete[:, present] = image[:, present]
    with torch.inference_mode():
        expected = double(incomplete)
        largest = expected[expected != OUTSIDE].abs().max().clamp_min(1)
        for fixed, tolerance in ((exact, SAME_FUNCTION), (rounded, SAME_WEIGHTS)):
            difference = float((fixed(image[:, present]) - expected).abs().max() / largest)
            if not difference <= tolerance:
                raise _unknown(network, f"their logits differ by {difference:.1e} of the largest in double precision")


def _fixed_state(network: MissingModalityNetwork, code: Code) -> dict[str, Tensor]:
    """The state of a network with plain kernels in the place of code-dependent convolutions."""
    network.eval()
    # nnU-Net holds the encoder, and each convolution, under several names; all of them are in the state
    layers = {name: m for name, m in network.named_modules(remove_duplicate=False) if isinstance(m, CodeConv)}
    state = network.state_dict()
    for key in [key for key in state if any(key.startswith(f"{name}.") for name in layers)]:
        del state[key]
    with torch.no_grad():
        for name, layer in layers.items():
            weight, bias = layer.kernels(torch.tensor([code], dtype=next(layer.parameters()).dtype))
            state[f"{name}.weight"] = weight[0]
            if bias is not None:
                state[f"{name}.bias"] = bias[0]
    return state


def _unknown(network: nn.Module, difference: str) -> ModelError:
    return ModelError(
        f"This {type(network).__name__} cannot be exported, since it does not become the network that nnU-Net plans "
        f"when the modalities are fixed: {difference}. Exported are the networks of this package's trainers as they "
        "were planned."
    )
