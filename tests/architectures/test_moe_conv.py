import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from facts import facts
from nnunet_moe.architectures.code_conv import CodeInput
from nnunet_moe.architectures.moe_conv import MoEConv

CONVOLUTIONS = {2: nn.Conv2d, 3: nn.Conv3d}


def mixture(dimensions=3, num_experts=4, num_modalities=3, seed=0, **settings):
    """A mixture in float64 and the experts that it was made of."""
    torch.manual_seed(seed)
    settings = {"kernel_size": 3, "padding": 1, **settings}
    experts = [CONVOLUTIONS[dimensions](2, 5, **settings).double() for _ in range(num_experts)]
    return MoEConv(experts, num_modalities=num_modalities), experts


def by_definition(layer, experts, x, code):
    """sum_n phi(m)_n E_n(x), expert by expert and item by item."""
    gates = F.softmax(code @ layer.gate.weight.T + layer.gate.bias, dim=1)
    items = [
        sum(g * expert(item[None]) for g, expert in zip(row, experts, strict=True))
        for row, item in zip(gates, x, strict=True)
    ]
    return torch.cat(items)


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize(
    "settings", [{}, {"stride": 2}, {"bias": False}, {"kernel_size": 1, "padding": 0}, {"dilation": 2}]
)
@pytest.mark.parametrize("num_modalities", [1, 2, 5])
def test_the_output_is_the_gated_sum_of_the_experts_with_a_code_per_item(dimensions, settings, num_modalities):
    layer, experts = mixture(dimensions, num_modalities=num_modalities, **settings)
    x = torch.rand(4, 2, *[7, 6, 5][:dimensions], dtype=torch.float64)
    code = torch.rand(4, num_modalities, dtype=torch.float64)  # not 0 and 1 alone: training adds noise
    layer.code_input = CodeInput(code)
    torch.testing.assert_close(layer(x), by_definition(layer, experts, x, code), rtol=0, atol=1e-10)


def test_anisotropic_kernels_strides_and_paddings_are_kept():
    layer, experts = mixture(kernel_size=(1, 3, 3), stride=(1, 2, 1), padding=(0, 1, 1))
    x, code = torch.rand(2, 2, 4, 6, 5, dtype=torch.float64), torch.rand(2, 3, dtype=torch.float64)
    layer.code_input = CodeInput(code)
    torch.testing.assert_close(layer(x), by_definition(layer, experts, x, code), rtol=0, atol=1e-10)


def test_gates_that_lean_to_one_expert_select_it():
    layer, experts = mixture()
    with torch.no_grad():
        layer.gate.weight.zero_()
        layer.gate.bias.copy_(torch.tensor([0.0, 0.0, 1e4, 0.0]))
    x = torch.rand(1, 2, 4, 4, 4, dtype=torch.float64)
    layer.code_input = CodeInput(torch.ones(1, 3, dtype=torch.float64))
    torch.testing.assert_close(layer(x), experts[2](x))


def test_an_item_does_not_depend_on_the_others_of_its_batch_or_on_their_codes():
    layer, _ = mixture()
    x, code = torch.rand(3, 2, 4, 4, 4, dtype=torch.float64), torch.rand(3, 3, dtype=torch.float64)
    layer.code_input = CodeInput(code)
    together = layer(x)
    for item in range(3):
        layer.code_input = CodeInput(code[item : item + 1])
        torch.testing.assert_close(layer(x[item : item + 1]), together[item : item + 1], rtol=0, atol=1e-12)


def test_the_gradients_are_those_of_the_sum_of_experts():
    layer, experts = mixture()
    x = torch.rand(3, 2, 4, 4, 4, dtype=torch.float64)
    code = torch.rand(3, 3, dtype=torch.float64)
    layer.code_input = CodeInput(code)
    layer(x).square().sum().backward()
    of_mixture = [layer.weight.grad, layer.bias.grad, layer.gate.weight.grad, layer.gate.bias.grad]
    layer.gate.zero_grad()
    by_definition(layer, experts, x, code).square().sum().backward()
    expected = [
        torch.stack([e.weight.grad for e in experts]),
        torch.stack([e.bias.grad for e in experts]),
        layer.gate.weight.grad,
        layer.gate.bias.grad,
    ]
    for got, wanted in zip(of_mixture, expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("num_experts", [1, 3, 4, 7])
def test_in_evaluation_experts_that_are_all_alike_are_exactly_the_one_convolution(num_experts):
    expert = nn.Conv3d(3, 5, 3, padding=1)
    layer = MoEConv([expert] * num_experts, num_modalities=3).eval()
    nn.init.normal_(layer.gate.weight, std=3)
    weight, bias = layer.kernels(torch.tensor([[1.0, 1, 1], [0, 1, 0]]))
    assert torch.equal(weight, expert.weight.expand(2, -1, -1, -1, -1, -1))
    assert torch.equal(bias, expert.bias.expand(2, -1))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_under_autocast_items_meet_their_own_kernels_too(kind):
    layer, experts = mixture()
    layer, experts = layer.float(), [expert.float() for expert in experts]
    x, code = torch.rand(3, 2, 6, 6, 6), torch.rand(3, 3)
    layer.code_input = CodeInput(code)
    with torch.autocast("cpu", kind):
        got = layer(x)
    assert got.dtype == kind
    torch.testing.assert_close(got.float(), by_definition(layer, experts, x, code), rtol=0, atol=0.03)


def evaluate(layer, x, code):
    layer.code_input = CodeInput(torch.tensor([code], dtype=layer.weight.dtype), key=code)
    with torch.inference_mode():
        return layer(x)


CODES = ((True, False, True), (True, True, False))


def test_in_evaluation_the_mixed_kernel_is_kept_while_nothing_changes():
    layer, _ = mixture()
    layer.eval()
    x = torch.rand(2, 2, 4, 4, 4, dtype=torch.float64)
    evaluate(layer, x, CODES[0])
    kernel = layer._kept[1][0]
    evaluate(layer, x, CODES[0])
    assert layer._kept[1][0] is kernel
    evaluate(layer, x, CODES[1])
    assert layer._kept[1][0] is not kernel


def other_code(layer):
    return layer, CODES[1]


def other_weights(layer):
    with torch.inference_mode():  # nnU-Net swaps the folds of an ensemble in place, in inference mode
        layer.load_state_dict(mixture(seed=9)[0].state_dict())
    return layer, CODES[0]


def assigned_weights(layer):
    layer.load_state_dict(mixture(seed=9)[0].state_dict(), assign=True)
    return layer, CODES[0]


def one_optimiser_step(layer):
    for parameter in layer.parameters():
        parameter.grad = torch.ones_like(parameter)
    torch.optim.SGD(layer.parameters(), 0.1).step()
    return layer, CODES[0]


def other_gate_alone(layer):
    with torch.no_grad():
        layer.gate.bias[1] += 3
    return layer, CODES[0]


def other_precision(layer):
    return layer.to(torch.float32), CODES[0]


def other_mode_and_back(layer):
    layer.train()
    layer.weight.data.mul_(2)
    return layer.eval(), CODES[0]


@pytest.mark.parametrize(
    "change",
    [
        other_code,
        other_weights,
        assigned_weights,
        one_optimiser_step,
        other_gate_alone,
        other_precision,
        other_mode_and_back,
    ],
)
def test_no_stale_kernel_after_a_change(change):
    layer, _ = mixture()
    layer.eval()
    x = torch.rand(2, 2, 4, 4, 4, dtype=torch.float64)
    before = evaluate(layer, x, CODES[0])
    layer, code = change(layer)
    x = x.to(layer.weight.dtype)
    after = evaluate(layer, x, code)
    layer.code_input = CodeInput(torch.tensor([code, code], dtype=layer.weight.dtype))  # per item: nothing is kept
    torch.testing.assert_close(after, layer(x).detach())
    if change is not other_precision:
        assert (after - before).abs().max() > 1e-3


def test_evaluation_with_gradients_keeps_no_kernel_and_reaches_the_experts():
    layer, _ = mixture()
    layer.eval()
    x = torch.rand(1, 2, 4, 4, 4, dtype=torch.float64)
    evaluate(layer, x, CODES[0])
    layer.code_input = CodeInput(torch.tensor([CODES[0]], dtype=torch.float64), key=CODES[0])
    layer(x).sum().backward()
    assert layer.weight.grad.abs().sum() > 0


def test_without_a_code_it_says_where_it_belongs():
    layer, _ = mixture()
    with pytest.raises(RuntimeError, match=facts("ModalityNetwork")):
        layer(torch.rand(1, 2, 4, 4, 4, dtype=torch.float64))


@pytest.mark.parametrize(
    "experts",
    [
        [],
        [nn.Conv3d(2, 5, 3), nn.Conv3d(2, 5, 3, stride=2)],
        [nn.Conv2d(2, 5, 3), nn.Conv3d(2, 5, 3)],
        [nn.Conv2d(4, 4, 3, groups=2)],
        [nn.Conv2d(4, 4, 3, padding_mode="reflect")],
        [nn.ConvTranspose3d(2, 5, 2)],
    ],
)
def test_experts_that_cannot_be_mixed_are_refused(experts):
    with pytest.raises(ValueError, match=r"mixture|modality code|same settings"):
        MoEConv(experts, num_modalities=3)
