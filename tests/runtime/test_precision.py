"""bfloat16 on CPUs: it is used only where the CPU computes each product of the network correctly."""

import warnings

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torch.overrides import handle_torch_function, has_torch_function

from made_networks import batch, modality_network, swin_network
from nnunet_moe.runtime import bfloat16_products, precision
from nnunet_moe.runtime.bfloat16_products import Observed, Shape, wrong_products


@pytest.fixture(autouse=True)
def with_units(monkeypatch):
    monkeypatch.setenv("nnunet_moe_bf16", "1")
    monkeypatch.setattr(precision, "_cpu_has_bfloat16_units", lambda: True)


def faulty(monkeypatch, spoil, *, in_forward=True):
    """A convolution that is wrong in bfloat16 only, in its result or in the gradient by its input."""

    class Spoiled(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return spoil(x) if in_forward else x.clone()

        @staticmethod
        def backward(ctx, *grad_outputs):
            return grad_outputs[0] if in_forward else spoil(grad_outputs[0])

    def conv(x, *args):
        if has_torch_function((x,)):
            return handle_torch_function(conv, (x,), x, *args)
        y = F.conv3d(x, *args)
        return Spoiled.apply(y) if y.dtype == torch.bfloat16 else y

    class Faulty(nn.Conv3d):
        def forward(self, input):
            return conv(input, self.weight, self.bias, self.stride, self.padding)

    monkeypatch.setattr(bfloat16_products, "PRODUCTS", (*bfloat16_products.PRODUCTS, conv))
    return Faulty


def with_layer(network, faulty_class):
    """The network whose deepest convolution, the last one of the encoder, is of the given class."""
    for module in network.modules():
        if isinstance(module, nn.Conv3d) and module.out_channels == 8:
            module.__class__ = faulty_class
    return network


def results_of(network, x, monkeypatch, variable):
    """The logits and all gradients."""
    monkeypatch.setenv("nnunet_moe_bf16", variable)
    network.zero_grad()
    logits = network(x)
    logits.square().sum().backward()
    return [logits.detach(), *(weights.grad.clone() for weights in network.parameters() if weights.grad is not None)]


SPOILS = {
    "garbage": lambda y: torch.cat((y[..., :-1], torch.full_like(y[..., -1:], 1e36)), dim=-1),
    "NaN in one voxel": lambda y: y.flatten().index_fill(0, torch.tensor([5]), torch.nan).view_as(y),
    "one channel lost": lambda y: torch.cat((y[:, :1] * 0, y[:, 1:]), dim=1),
    "one bit": lambda y: (y.float() * (1 + 2**-7)).to(y.dtype),
}


@pytest.mark.parametrize("in_forward", [True, False])
@pytest.mark.parametrize("zero_weights", [True, False])
@pytest.mark.parametrize("spoil", SPOILS.values(), ids=SPOILS)
def test_a_network_with_a_faulty_layer_computes_exactly_as_in_float32(monkeypatch, spoil, zero_weights, in_forward):
    network = with_layer(modality_network().float(), faulty(monkeypatch, spoil, in_forward=in_forward))
    if zero_weights:  # the layer then returns zeros, and its input gets no gradient
        for module in network.modules():
            if isinstance(module, nn.Conv3d) and module.out_channels == 8:
                nn.init.zeros_(module.weight)
    x = batch().float()
    expected = results_of(network, x, monkeypatch, "0")
    with pytest.warns(UserWarning, match="float32 for images of 8 x 8 x 8 voxels"):
        found = results_of(network, x, monkeypatch, "1")
    assert all(torch.equal(got, wanted) for got, wanted in zip(found, expected, strict=True))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it is said once
        network(x[:1])
    assert list(network.cpu_precision.notes) == [(8, 8, 8)]


def test_other_sizes_keep_bfloat16_and_a_prediction_needs_no_gradients(monkeypatch):
    def only_small(y):
        return torch.full_like(y, torch.inf) if y.shape[-1] <= 2 else y

    network = with_layer(modality_network().float().eval(), faulty(monkeypatch, only_small))
    with pytest.warns(UserWarning, match="conv"):
        assert not network.computes_in_bfloat16(torch.zeros(1, 3, 8, 8, 8))
    assert network.computes_in_bfloat16(torch.zeros(1, 3, 16, 16, 16))

    network = with_layer(modality_network().float(), faulty(monkeypatch, SPOILS["garbage"], in_forward=False))
    assert network.computes_in_bfloat16(torch.zeros(1, 3, 8, 8, 8))
    with pytest.warns(UserWarning, match="conv"):
        network(batch().float())


@pytest.mark.parametrize(
    ("channels", "size", "stride"),
    [(320, (4, 4, 2), 2), (320, (4, 2), 2), (8, (8, 8, 2), (1, 1, 2)), (16, (4, 4, 1), 2), (32, (8, 8, 8), 2)],
)
@pytest.mark.parametrize("items", [1, 2])
def test_what_is_wrong_on_this_cpu_is_found_and_nothing_else(channels, size, stride, items):
    """Whether it is wrong is measured with random numbers in double precision: garbage is no matter of rounding."""
    torch.manual_seed(0)
    conv = (nn.Conv2d if len(size) == 2 else nn.Conv3d)(channels, channels, 3, stride, 1)
    x = torch.randn(items, channels, *size, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16), Observed() as observed:
        y = conv(x)
    (product,) = observed.products
    upstream = torch.randn(y.shape)
    found = [y, *torch.autograd.grad(y, (x, conv.weight), upstream.to(y.dtype), retain_graph=True)]
    exact = conv.double()
    x64 = x.detach().double().requires_grad_()
    y64 = exact(x64)
    wanted = [y64, *torch.autograd.grad(y64, (x64, exact.weight), upstream.double())]
    errors = [float(((a.double() - b).norm() / b.norm()).detach()) for a, b in zip(found, wanted, strict=True)]
    is_wrong = [not error < 0.02 for error in errors]  # rounding gives 0.003
    assert bool(wrong_products([product], with_gradients=False)) is is_wrong[0]
    if any(is_wrong):
        assert wrong_products([product], with_gradients=True) == [product]


@pytest.mark.parametrize("make", [modality_network, swin_network])
def test_the_products_of_a_network_are_seen_and_checked_once(make, monkeypatch):
    x = batch().float()
    if make is swin_network:
        x = torch.full((2, 3, 50, 38), torch.nan)
        x[:, 1] = torch.randn(2, 50, 38, generator=torch.Generator().manual_seed(0))
    network = make().float().train()
    checked = []
    monkeypatch.setattr(precision, "wrong_products", lambda products, **_: checked.append(products) or [])
    kernels = set()

    def note(layer, *_):
        if torch.is_autocast_enabled("cpu"):
            kernels.add(tuple(layer.weight.shape))

    for module in network.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.Conv3d, nn.ConvTranspose3d)):
            module.register_forward_hook(note)
    for _ in range(3):
        network(x)
    (products,) = checked
    forms = [form for product in products for form in product.args]
    assert len(kernels) >= 6 and kernels <= {form.sizes for form in forms if isinstance(form, Shape)}


def test_where_bfloat16_is_off_nothing_is_checked(monkeypatch):
    def fail(*_, **__):
        raise AssertionError

    monkeypatch.setattr(precision, "wrong_products", fail)
    network, x = modality_network().float(), batch().float()
    monkeypatch.setenv("nnunet_moe_bf16", "0")
    network(x)
    assert not network.computes_in_bfloat16(x[:1])
    monkeypatch.setenv("nnunet_moe_bf16", "1")
    monkeypatch.setattr(precision, "_cpu_has_bfloat16_units", lambda: False)
    network(x)


def test_the_check_changes_no_random_numbers(monkeypatch):
    """A training that is resumed in a new process, which checks again, draws what the first one drew."""
    network, x = modality_network().float(), batch().float()
    for module in network.modules():
        if isinstance(module, nn.LeakyReLU):
            module.__class__ = Noisy
    found = []
    for _ in range(2):
        torch.manual_seed(7)
        found.append((network(x), torch.rand(3)))
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])


class Noisy(nn.LeakyReLU):
    """A layer that draws random numbers."""

    def forward(self, input):
        return super().forward(input + 0.1 * torch.randn_like(input))
