"""Convert a network of this package into an ordinary one for a fixed modality code, with fewer input channels.

The result is the same function, for three reasons:

- With a fixed code, a code-dependent convolution is a plain convolution, and a code-dependent norm is a plain norm. The
  experts are linear, so their gated sum is one kernel (paper, eq. 3).
- A channel of zeros adds nothing to a convolution. So the input channels of missing modalities can be removed from its
  kernel.
- If a label cannot occur with the code, its logit is a constant, which is a bias.
"""

import copy

import torch
from torch import Tensor, nn

from nnunet_moe.architectures.code_layer import CodeLayer
from nnunet_moe.architectures.missing_modality_network import MissingModalityNetwork
from nnunet_moe.errors import ModelError
from nnunet_moe.labels.label_sets import OUTSIDE, covered
from nnunet_moe.modalities.codes import Code, present_channels

SAME_FUNCTION = 1e-10
"""The allowed difference of logits in double precision, from the order of summation.

It is relative to the largest logit, or absolute if that is below 1.
"""
SAME_WEIGHTS = 1e-4
"""The allowed difference after the weights are rounded to single precision; relative in the same way."""


def load_fixed(planned: nn.Module, network: MissingModalityNetwork, code: Code) -> None:
    """Load weights into an ordinary network so that it computes the same as our network with a fixed code.

    Args:
        planned: the network that nnU-Net builds for the channels of the code, in the precision of `network`; its
            weights are replaced.
        network: the network of this package; it is only set to evaluation mode.
        code: K bools, at least one true.

    Raises:
        ModelError: the networks differ in more than code-dependent layers and the input channels of missing
            modalities.
    """
    fixed, own = _fixed_state(network, code), planned.state_dict()
    if network.label_sets is not None:
        outside = ~covered(torch.tensor([code]), network.label_sets)[0]
        for key in [key for key in fixed if ".seg_layers." in key]:
            fixed[key] = fixed[key].clone()
            fixed[key][outside] = OUTSIDE if key.endswith(".bias") else 0
    if strangers := sorted(fixed.keys() ^ own.keys()):
        raise _unknown(network, f"{len(strangers)} weights are in one of the networks only; first {strangers[0]}")
    for key, target in own.items():
        before = fixed[key]
        if before.shape != target.shape and before.ndim > 1:
            fixed[key] = before[:, present_channels(before.shape[1], code)]
        if fixed[key].shape != target.shape:
            raise _unknown(network, f"{key} has shape {tuple(before.shape)} instead of {tuple(target.shape)}")
    planned.load_state_dict(fixed)


def require_equal(planned: nn.Module, network: MissingModalityNetwork, code: Code, shape: tuple[int, ...]) -> None:
    """Make sure that a network for a fixed code computes the same, in double precision and on random input.

    Args:
        planned: the network after `load_fixed`; neither network is changed.
        network: the network of this package, on the CPU.
        code: K bools, at least one true.
        shape: `(C, *space)` of `network`'s input; sizes must be multiples of all strides of nnU-Net's network.

    Raises:
        ModelError: the logits differ by more than `SAME_WEIGHTS` with the rounded weights of `planned`, or by more than
            `SAME_FUNCTION` with the same weights in double precision.
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
    """Return the state of a network, with ordinary layers instead of code-dependent ones."""
    network.eval()
    # in nnU-Net's networks, the encoder and each convolution have several names; the state contains all of them
    layers = {name: m for name, m in network.named_modules(remove_duplicate=False) if isinstance(m, CodeLayer)}
    state = network.state_dict()
    for key in [key for key in state if any(key.startswith(f"{name}.") for name in layers)]:
        del state[key]
    with torch.no_grad():
        for name, layer in layers.items():
            fixed = layer.fixed_state(torch.tensor([code], dtype=next(layer.parameters()).dtype))
            state |= {f"{name}.{key}": value for key, value in fixed.items()}
    return state


def _unknown(network: nn.Module, difference: str) -> ModelError:
    return ModelError(
        f"This {type(network).__name__} cannot be exported: with fixed modalities it does not match the network that "
        f"nnU-Net plans: {difference}. Only networks that a trainer of this package built from the plans, without "
        "changes, can be exported. Check that checkpoint and plans belong together."
    )
