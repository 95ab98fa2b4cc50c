"""Scale, shift and low-rank products by code: exact at the start, and exact when the code is fixed."""

import itertools

import pytest
import torch
from torch import nn

from made_networks import CONV, NORM, batch, planned
from nnunet_moe.architectures.code_layer import CodeInput
from nnunet_moe.architectures.code_norm import CodeNorm
from nnunet_moe.architectures.fixed_code import require_equal
from nnunet_moe.architectures.low_rank_conv import LowRankConv
from nnunet_moe.architectures.modality_network import ModalityNetwork
from nnunet_moe.architectures.upcycling import UpcyclingSource
from nnunet_moe.errors import ModelError
from nnunet_moe.modalities.codes import all_codes, drop_modalities
from nnunet_moe.settings.base import Settings
from nnunet_moe.settings.moesd import MoESDSettings
from nnunet_moe.settings.two_views import TwoViewsSettings

BY_CODE = TwoViewsSettings(norm_by_code=True, rank=3, placement=("stem", "encoder", "decoder"))
KINDS = list(itertools.product(["plain", "residual"], [2, 3]))
CODES = torch.tensor([[True, False, True], [False, True, True]])


def network(settings=BY_CODE, **more):
    return ModalityNetwork(planned(**more), num_modalities=3, settings=settings).eval()


def trained(made: nn.Module) -> nn.Module:
    """As after a training: what starts at zero no longer is."""
    for layer in made.modules():
        if isinstance(layer, (CodeNorm, LowRankConv)):
            nn.init.normal_(layer.scaling.weight, std=0.3)
    return made


@pytest.mark.parametrize(("kind", "dimensions"), KINDS)
def test_at_the_start_the_network_is_the_one_without_codes(kind, dimensions):
    more = {"kind": kind, "dimensions": dimensions}
    x = drop_modalities(batch(dimensions=dimensions), CODES)
    with torch.no_grad():
        plain, by_code = network(Settings(), **more)(x), network(**more)(x)
    torch.testing.assert_close(by_code, plain, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("kind", "dimensions"), KINDS)
def test_with_a_fixed_code_it_is_the_planned_network(kind, dimensions):
    made = trained(network(kind=kind, dimensions=dimensions))
    x = batch(1, dimensions=dimensions)
    results = []
    for code in all_codes(3):
        fixed = made.fixed(code, lambda code=code: planned(kind, dimensions, sum(code), seed=9))
        require_equal(fixed, made, code, (3, *[8] * dimensions))  # 1e-10
        assert not any(isinstance(layer, (CodeNorm, LowRankConv)) for layer in fixed.modules())
        results.append(fixed(x[:, list(code)]))
    assert len({float(result.detach().sum()) for result in results}) == 7


def test_each_item_has_the_scale_and_shift_of_its_code():
    norm = NORM[3](5, affine=True).double()
    nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    layer = CodeNorm(norm, num_modalities=3)
    nn.init.normal_(layer.scaling.weight)
    x = torch.randn(2, 5, 3, 4, 2, dtype=torch.float64)
    layer.code_input = CodeInput(CODES.double())
    found = layer(x)
    a, b = layer.scaling.weight[:5], layer.scaling.weight[5:]
    for item, code in enumerate(CODES.double()):
        for channel in range(5):
            values = x[item, channel]
            normal = (values - values.mean()) / (values.var(correction=0) + norm.eps).sqrt()
            scale = norm.weight[channel] + sum(a[channel, k] * code[k] for k in range(3))
            shift = norm.bias[channel] + sum(b[channel, k] * code[k] for k in range(3))
            torch.testing.assert_close(found[item, channel], normal * scale + shift)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_kernel_is_the_shared_one_plus_the_products_of_the_formula(dimensions):
    conv = CONV[dimensions](4, 5, 3, stride=2, padding=1).double()
    layer = LowRankConv(conv, rank=2, num_modalities=3)
    nn.init.normal_(layer.scaling.weight)
    weight, bias = layer.kernels(CODES.double())
    for item, code in enumerate(CODES.double()):
        expected = conv.weight.detach().clone()
        for r in range(2):
            amount = sum(layer.scaling.weight[r, k] * code[k] for k in range(3))
            for o, i in itertools.product(range(5), range(4)):
                expected[o, i] += (amount * layer.outputs[r, o] * layer.inputs[r, i] * layer.space[r]).detach()
        torch.testing.assert_close(weight[item], expected)
        assert torch.equal(bias[item], conv.bias)


def test_products_take_the_place_of_experts():
    made = network(MoESDSettings(rank=2))
    assert made.mixtures == () and made.gate_table([(True, True, True)]) == {}
    assert sum(isinstance(layer, LowRankConv) for layer in made.code_layers) == 4


def test_all_norms_of_encoder_and_decoder_depend_on_the_code():
    made = network()
    norms = [layer for layer in made.modules() if isinstance(layer, NORM[3])]
    replaced = [layer for layer in planned().modules() if isinstance(layer, NORM[3])]
    assert norms == [] and sum(isinstance(layer, CodeNorm) for layer in made.code_layers) == len(replaced)


def test_each_parameter_of_a_code_gets_a_gradient_and_shared_ones_are_not_listed():
    made = trained(network(deep_supervision=True)).train()
    sum(level.square().mean() for level in made(drop_modalities(batch(), CODES))).backward()
    of_codes = {id(parameter) for layer in made.code_layers for parameter in layer.code_parameters()}
    for name, parameter in made.named_parameters():
        assert parameter.grad is not None, name
        assert (id(parameter) in of_codes) == any(word in name for word in ("scaling", "outputs", "inputs", "space"))


def test_a_network_without_instance_norms_is_refused():
    without = planned()
    for parent in list(without.modules()):
        for name, child in parent.named_children():
            if isinstance(child, NORM[3]):
                parent.add_module(name, nn.Identity())
    with pytest.raises(ModelError, match=r"(?s)PlainConvUNet.*norm_by_code"):
        ModalityNetwork(without, num_modalities=3, settings=BY_CODE)


@pytest.mark.parametrize(
    "norm", [nn.InstanceNorm3d(3), nn.BatchNorm3d(3), nn.InstanceNorm3d(3, affine=True, track_running_stats=True)]
)
def test_other_norms_cannot_depend_on_a_code(norm):
    with pytest.raises(ValueError, match=r"affine|track_running_stats"):
        CodeNorm(norm, num_modalities=2)


def test_weights_of_an_ordinary_network_are_a_start_without_any_change():
    ordinary = planned(seed=5).eval()
    made = network()
    source = UpcyclingSource(ordinary.state_dict(), "nnUNetTrainer", ("A", "B", "C"))
    made.load_state_dict(made.upcycled(source, ("A", "B", "C"), noise=0.1, like=None))
    with torch.no_grad():
        torch.testing.assert_close(made(batch()), ordinary(batch()), rtol=0, atol=1e-12)
    again = UpcyclingSource(made.state_dict(), "nnUNetTrainerSD", ("A", "B", "C"))
    with pytest.raises(ModelError, match="depend on the modality code"):
        made.upcycled(again, ("A", "B", "C"), noise=0.1, like=None)
