"""The three ways to convolve items that have their own kernels."""

import itertools

import pytest
import torch
from torch import nn

from made_networks import CONV, planned
from nnunet_moe.architectures.code_layer import CodeInput
from nnunet_moe.architectures.filter_scaling_conv import FilterScalingConv
from nnunet_moe.architectures.item_kernels import way_for
from nnunet_moe.architectures.low_rank_conv import LowRankConv
from nnunet_moe.architectures.moe_conv import MoEConv
from nnunet_moe.architectures.placement import place_code_convolutions
from nnunet_moe.settings.moesd import ExpertSettings

WAYS = ("loop", "grouped", "sum")
CODES = torch.tensor([[1.0, 0, 1], [0, 1, 0], [1, 1, 1], [1, 0, 1], [0.3, 1.2, -0.1]])


def layer_of(kind, dimensions, **settings):
    """A layer whose kernels differ by code."""
    torch.manual_seed(0)
    convs = [CONV[dimensions](3, 5, 3, padding=1, **settings) for _ in range(4)]
    if kind == "experts":
        return MoEConv(convs, num_modalities=3)
    if kind == "products":
        layer = LowRankConv(convs[0], rank=2, num_modalities=3)
        nn.init.normal_(layer.scaling.weight)
        return layer
    layer = FilterScalingConv(convs[0], num_modalities=3)
    nn.init.normal_(layer.scaling[-1].weight)
    return layer


def output_and_gradients(layer, way, items, dtype):
    """The output for a batch, and the gradients of its squares with respect to the input and all weights."""
    layer.to(dtype).zero_grad()
    layer.item_kernels = way
    dimensions = layer.weight.ndim - (3 if isinstance(layer, MoEConv) else 2)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(items, 3, *[6, 5, 4][:dimensions], generator=generator, dtype=dtype, requires_grad=True)
    layer.code_input = CodeInput(CODES[:items].to(dtype))
    y = layer(x)
    y.square().sum().backward()
    return y.detach(), x.grad, *(weight.grad for weight in layer.parameters())


@pytest.mark.parametrize("kind", ["experts", "filters", "products"])
@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("settings", [{}, {"bias": False}, {"stride": 2}])
@pytest.mark.parametrize("items", [1, 2, 5])
def test_the_ways_are_equal_in_value_and_gradient(kind, dimensions, settings, items):
    layer = layer_of(kind, dimensions, **settings)
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        first, *others = [output_and_gradients(layer, way, items, dtype) for way in WAYS]
        for other in others:
            for got, expected in zip(other, first, strict=True):
                torch.testing.assert_close(got, expected, rtol=0, atol=tolerance * float(expected.abs().max()))


@pytest.mark.parametrize("kind", ["experts", "filters", "products"])
@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_under_autocast_the_ways_are_equal_up_to_half_precision(kind, half):
    layer, x = layer_of(kind, 2), torch.randn(5, 3, 6, 6)
    layer.code_input = CodeInput(CODES)
    expected = layer(x).detach()
    for layer.item_kernels in WAYS:
        with torch.autocast("cpu", half):
            got = layer(x)
        assert got.dtype == half
        torch.testing.assert_close(got.float(), expected, rtol=0, atol=0.03 * float(expected.abs().max()))


def test_on_cpus_the_ways_are_those_of_all_earlier_versions():
    for dimensions, batch_size, num_terms in itertools.product((2, 3), (2, 12, 40), (1, 4)):
        of_batch = {"device": "cpu", "dimensions": dimensions, "batch_size": batch_size, "num_terms": num_terms}
        assert way_for(**of_batch, autocast=True) == "loop" and way_for(**of_batch, autocast=False) == "grouped"


@pytest.mark.parametrize(
    ("dimensions", "batch_size", "num_terms", "autocast", "way"),
    [
        (2, 2, 4, True, "loop"),
        (2, 3, 4, True, "grouped"),
        (3, 2, 4, True, "loop"),
        (3, 4, 4, True, "loop"),
        (3, 5, 4, True, "grouped"),
        (2, 12, 4, True, "grouped"),
        (2, 2, 4, False, "grouped"),
        (3, 2, 1, True, "sum"),
        (2, 40, 1, False, "sum"),
    ],
)
def test_on_gpus_small_batches_are_looped_and_large_ones_take_one_launch(
    dimensions, batch_size, num_terms, autocast, way
):
    of_batch = {"dimensions": dimensions, "batch_size": batch_size, "num_terms": num_terms, "autocast": autocast}
    assert way_for(device="cuda", **of_batch) == way


@pytest.mark.parametrize("conditioning", ["experts", "filter_scaling"])
def test_the_setting_reaches_all_layers(conditioning):
    settings = ExpertSettings(item_kernels="sum", conditioning=conditioning)
    layers = place_code_convolutions(planned(), settings, num_modalities=3)
    assert layers and all(layer.item_kernels == "sum" for layer in layers)
