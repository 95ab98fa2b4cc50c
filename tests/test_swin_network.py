"""Swin U-Net with experts for kinds of images."""

import pytest
import torch
from torch.nn import functional

from nnunet_moe.architectures.moe_mlp import MoEMLP
from nnunet_moe.architectures.swin_network import SwinUNetwork, swin_unet
from nnunet_moe.settings import Settings

EVERYWHERE = ("encoder", "decoder")
ROUTINGS = ("gate", "kind", "channel_gate")


@pytest.fixture(autouse=True)
def single_precision(monkeypatch):
    monkeypatch.setenv("nnunet_moe_bf16", "0")


def mixture(routing="gate", num_experts=3, kinds=(2, 0)):
    torch.manual_seed(0)
    made = MoEMLP(4, 6, num_experts=num_experts, routing=routing).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_()
    made.kind = torch.tensor(kinds)
    return made, torch.randn(2, 3, 5, 4, dtype=torch.float64)


def expert(made, number, tokens):
    hidden = functional.gelu(tokens @ made.weight_in[number].T + made.bias_in[number])
    return hidden @ made.weight_out[number].T + made.bias_out[number]


def test_the_papers_gate_weighs_the_experts_of_each_token():
    """Eqs. 2 and 3, written out."""
    made, tokens = mixture()
    gates = (tokens @ made.gate.weight.T + made.gate.bias).softmax(dim=-1)
    expected = sum(gates[..., [number]] * expert(made, number, tokens) for number in range(3))
    torch.testing.assert_close(made(tokens), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(made.gates(tokens), gates, rtol=0, atol=0)
    torch.testing.assert_close(gates.sum(dim=-1), torch.ones(2, 3, 5, dtype=torch.float64))


def test_routing_by_kind_is_each_items_own_expert():
    made, tokens = mixture("kind")
    expected = torch.stack([expert(made, 2, tokens[0]), expert(made, 0, tokens[1])])
    torch.testing.assert_close(made(tokens), expected, rtol=0, atol=1e-12)
    # as a compiled graph computes it, with all experts
    torch.testing.assert_close(made._mixed(tokens, made.gates(tokens)), expected, rtol=0, atol=1e-12)
    made(tokens).sum().backward()
    assert made.weight_in.grad[[0, 2]].any() and not made.weight_in.grad[1].any()
    assert all(parameter.grad is None for parameter in made.gate.parameters())


def test_routing_by_kind_needs_the_kinds():
    made, tokens = mixture("kind")
    made.kind = None
    with pytest.raises(RuntimeError, match="runs inside a SwinUNetwork only"):
        made(tokens)


def test_the_channel_gate_multiplies_the_sum_of_all_experts():
    """As in the published code: softmax over channels of W x + b, times the sum."""
    made, tokens = mixture("channel_gate")
    gate = (tokens @ made.gate.weight.T + made.gate.bias).softmax(dim=-1)
    expected = gate * sum(expert(made, number, tokens) for number in range(3))
    torch.testing.assert_close(made(tokens), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("routing", "changes"), [("gate", True), ("kind", True), ("channel_gate", False)])
def test_permuting_experts_changes_the_output_unless_what_selects_them_is_permuted_too(routing, changes):
    """The published gate selects no expert: permuting them changes nothing."""
    made, tokens = mixture(routing)
    before, order = made(tokens), torch.tensor([1, 2, 0])
    with torch.no_grad():
        for parameter in (made.weight_in, made.bias_in, made.weight_out, made.bias_out):
            parameter.copy_(parameter[order].clone())
    assert torch.allclose(made(tokens), before) != changes
    if changes:
        with torch.no_grad():
            if routing == "gate":
                made.gate.weight.copy_(made.gate.weight[order].clone())
                made.gate.bias.copy_(made.gate.bias[order].clone())
        made.kind = order.argsort()[made.kind]
        torch.testing.assert_close(made(tokens), before, rtol=0, atol=1e-12)


def test_another_routing_is_an_error():
    with pytest.raises(ValueError, match="'best' is no routing; there are gate, kind, channel_gate"):
        MoEMLP(4, 6, num_experts=2, routing="best")


def network(
    routing="gate", *, placement=EVERYWHERE, num_modalities=3, patch_size=(50, 38), outputs=4, width=12, **settings
):
    torch.manual_seed(0)
    chosen = Settings(placement=placement, routing=routing, width=width, **settings)
    plain = swin_unet(outputs, patch_size, num_modalities, chosen)
    return SwinUNetwork(plain, num_modalities=num_modalities, settings=chosen).eval()


def of_kinds(kinds, size, num_modalities=3):
    x = torch.full((len(kinds), num_modalities, *size), torch.nan)
    for item, kind in enumerate(kinds):
        x[item, kind] = torch.randn(size)
    return x


@pytest.mark.parametrize(
    ("placement", "routing", "millions"),
    [((), "gate", 27.16), (EVERYWHERE, "gate", 58.48), (EVERYWHERE, "channel_gate", 60.43)],
)
def test_it_has_the_parameters_of_the_published_network(placement, routing, millions):
    """Counted of the authors' code with three experts; ours has one input channel and one head of 14 outputs."""
    made = network(routing, placement=placement, patch_size=(224, 224), outputs=14, width=96)
    assert sum(parameter.numel() for parameter in made.parameters()) / 1e6 == pytest.approx(millions, abs=0.006)
    assert len(made.mixtures) == (14 if placement else 0)


@pytest.mark.parametrize(("placement", "where"), [(("encoder",), "encoder."), (("decoder",), "decoder.")])
def test_experts_are_where_they_are_placed(placement, where):
    made = network(placement=placement)
    names = [name for name, module in made.named_modules() if module in made.mixtures]
    assert len(names) == (8 if placement == ("encoder",) else 6) and all(name.startswith(where) for name in names)


@pytest.mark.parametrize("size", [(32, 32), (50, 38), (7, 65), (224, 224)])
def test_any_patch_size_is_padded_inside(size):
    made = network(patch_size=size)
    x = of_kinds([0], size)
    with torch.inference_mode():
        found = made(x)
        assert found.shape == (1, 4, *size) and found.isfinite().all()
        height, width = (side + -side % 32 for side in size)
        padded = torch.zeros(1, 3, height, width)
        padded[:, :, : size[0], : size[1]] = x
        padded[:, 1:] = torch.nan
        torch.testing.assert_close(made(padded)[..., : size[0], : size[1]], found, rtol=0, atol=1e-5)


@pytest.mark.parametrize("routing", ROUTINGS)
def test_items_of_a_mixed_batch_are_those_alone(routing):
    made, x = network(routing), of_kinds([2, 0, 1, 0], (50, 38))
    with torch.inference_mode():
        alone = torch.cat([made(item[None]) for item in x])
        torch.testing.assert_close(made(x), alone, rtol=0, atol=1e-5)


def test_kinds_share_one_input_and_differ_by_their_experts():
    image = torch.randn(1, 1, 50, 38)
    by_kind, gated = network("kind"), network("gate")
    found = {}
    for name, made in (("kind", by_kind), ("gate", gated)):
        outputs = []
        for kind in range(3):
            x = torch.full((1, 3, 50, 38), torch.nan)
            x[:, kind] = image[:, 0]
            with torch.inference_mode():
                outputs.append(made(x))
        found[name] = outputs
    assert all(torch.equal(found["gate"][0], other) for other in found["gate"])  # a gate looks at the image alone
    assert not any(torch.allclose(found["kind"][0], other) for other in found["kind"][1:])


def test_a_case_of_one_kind_without_the_other_channels_is_the_same():
    made = network("kind")
    x = of_kinds([1], (50, 38))
    with torch.inference_mode():
        assert torch.equal(made.of_code(x[:, [1]], (False, True, False)), made(x))


def test_label_sets_hold_for_each_kind():
    made = network(label_sets=((1, 1, 0, 0), (1, 0, 1, 1), (1, 1, 1, 1)))
    with torch.inference_mode():
        found = made(of_kinds([0, 1, 2], (50, 38))).argmax(dim=1)
    assert set(found[0].unique().tolist()) <= {0, 1} and set(found[1].unique().tolist()) <= {0, 2, 3}


def test_what_is_learned_does_not_depend_on_the_size_of_the_patch():
    """Windows of 7 in all stages from patches of 224 on."""
    large, larger = network(patch_size=(224, 224)), network(patch_size=(256, 320))
    shapes = [{name: weights.shape for name, weights in made.state_dict().items()} for made in (large, larger)]
    assert shapes[0] == shapes[1] and len(shapes[0]) > 200
