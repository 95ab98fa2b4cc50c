import pytest
import torch
from torch import nn

from facts import facts
from nnunet_moe.architectures.code_conv import CodeInput
from nnunet_moe.architectures.filter_scaling_conv import FilterScalingConv

CONVOLUTIONS = {2: nn.Conv2d, 3: nn.Conv3d}


def scaled(dimensions=3, num_modalities=3, **settings):
    """A layer in float64 whose factors have moved away from 1, and the convolution that it was made of."""
    torch.manual_seed(0)
    conv = CONVOLUTIONS[dimensions](2, 5, **{"kernel_size": 3, "padding": 1, **settings}).double()
    layer = FilterScalingConv(conv, num_modalities=num_modalities)
    nn.init.normal_(layer.scaling[-1].weight)
    return layer, conv


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("settings", [{}, {"stride": 2}, {"bias": False}, {"kernel_size": 1, "padding": 0}])
@pytest.mark.parametrize("num_modalities", [1, 3])
def test_each_filter_and_each_bias_is_scaled_by_a_factor_of_the_items_own_code(dimensions, settings, num_modalities):
    layer, conv = scaled(dimensions, num_modalities, **settings)
    x = torch.rand(3, 2, *[7, 6, 5][:dimensions], dtype=torch.float64)
    code = torch.rand(3, num_modalities, dtype=torch.float64)
    layer.code_input = CodeInput(code)
    got = layer(x)
    for item, factors in enumerate(layer.factors(code)):
        assert factors.shape == (5, 2 + (conv.bias is not None))
        weight = torch.stack([torch.stack([conv.weight[o, i] * factors[o, i] for i in range(2)]) for o in range(5)])
        bias = None if conv.bias is None else conv.bias * factors[:, 2]
        expected = layer._convolution(x[item : item + 1], weight, bias, conv.stride, conv.padding)
        torch.testing.assert_close(got[item : item + 1], expected, rtol=0, atol=1e-12)


def test_the_factors_depend_on_the_code_and_start_at_one():
    layer, conv = scaled()
    codes = torch.tensor([[1.0, 0, 0], [1, 1, 0]], dtype=torch.float64)
    first, second = layer.factors(codes)
    assert (first - second).abs().min() > 0
    fresh = FilterScalingConv(conv, num_modalities=3)
    assert (fresh.factors(codes) == 1).all()
    fresh.code_input = CodeInput(codes)
    x = torch.rand(2, 2, 4, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(fresh(x), conv(x), rtol=0, atol=1e-12)


def test_gradients_reach_filters_and_factors_from_the_start():
    layer = FilterScalingConv(nn.Conv3d(2, 5, 3), num_modalities=3)
    layer.code_input = CodeInput(torch.ones(2, 3))
    layer(torch.rand(2, 2, 4, 4, 4)).square().sum().backward()
    assert layer.weight.grad.any() and layer.bias.grad.any() and layer.scaling[-1].weight.grad.any()


def test_its_weights_have_the_names_of_the_convolution():
    conv = nn.Conv3d(2, 5, 3)
    layer = FilterScalingConv(conv, num_modalities=3)
    assert set(conv.state_dict()) < set(layer.state_dict())
    layer.load_state_dict(conv.state_dict(), strict=False)


def test_in_evaluation_the_scaled_kernel_is_kept_until_the_weights_change():
    layer, _ = scaled()
    layer.eval()
    x = torch.rand(2, 2, 4, 4, 4, dtype=torch.float64)
    layer.code_input = CodeInput(torch.ones(1, 3, dtype=torch.float64), key=(True, True, True))
    with torch.inference_mode():
        before = layer(x)
        kernel = layer._kept[1][0]
        assert torch.equal(layer(x), before) and layer._kept[1][0] is kernel
        layer.scaling[0].bias.add_(1)
        assert (layer(x) - before).abs().max() > 1e-3


def test_a_grouped_convolution_is_refused():
    with pytest.raises(ValueError, match=facts("code")):
        FilterScalingConv(nn.Conv2d(4, 4, 3, groups=2), num_modalities=3)
