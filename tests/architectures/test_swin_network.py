"""Swin U-Net with experts for image types."""

import pytest
import torch
from torch.nn import functional

from facts import facts
from made_networks import of_image_types, swin_network, without_drop_path
from nnunet_moe.architectures.moe_mlp import MoEMLP
from nnunet_moe.architectures.swin_unet import blocks

EVERYWHERE = ("encoder", "decoder")
ROUTINGS = ("gate", "image_type", "channel_gate")


@pytest.fixture(autouse=True)
def single_precision(monkeypatch):
    monkeypatch.setenv("nnunet_moe_bf16", "0")


def mixture(routing="gate", num_experts=3, image_types=(2, 0)):
    torch.manual_seed(0)
    made = MoEMLP(4, 6, num_experts=num_experts, routing=routing).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_()
    made.image_type = torch.tensor(image_types)
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
    made, tokens = mixture("image_type")
    expected = torch.stack([expert(made, 2, tokens[0]), expert(made, 0, tokens[1])])
    torch.testing.assert_close(made(tokens), expected, rtol=0, atol=1e-12)
    for shaped in (tokens, tokens.flatten(1, 2)):  # as a compiled graph computes it, with all experts
        found = made._mixed(shaped, made.gates(shaped))
        torch.testing.assert_close(found, expected.reshape(shaped.shape), rtol=0, atol=1e-12)
    made(tokens).sum().backward()
    assert made.weight_in.grad[[0, 2]].any() and not made.weight_in.grad[1].any()
    assert all(parameter.grad is None for parameter in made.gate.parameters())


def test_routing_by_kind_needs_the_kinds():
    made, tokens = mixture("image_type")
    made.image_type = None
    with pytest.raises(RuntimeError, match=facts("SwinUNetwork")):
        made(tokens)


def test_the_channel_gate_multiplies_the_sum_of_all_experts():
    """As in the published code: softmax over channels of W x + b, times the sum."""
    made, tokens = mixture("channel_gate")
    gate = (tokens @ made.gate.weight.T + made.gate.bias).softmax(dim=-1)
    expected = gate * sum(expert(made, number, tokens) for number in range(3))
    torch.testing.assert_close(made(tokens), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("routing", "changes"), [("gate", True), ("image_type", True), ("channel_gate", False)])
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
        made.image_type = order.argsort()[made.image_type]
        torch.testing.assert_close(made(tokens), before, rtol=0, atol=1e-12)


def test_another_routing_is_an_error():
    with pytest.raises(ValueError, match=facts("'best'", "gate, image_type, channel_gate")):
        MoEMLP(4, 6, num_experts=2, routing="best")


@pytest.mark.parametrize(
    ("placement", "routing", "number"),
    [((), "gate", 27_166_322), (EVERYWHERE, "gate", 58_481_948), (EVERYWHERE, "channel_gate", 60_427_250)],
)
def test_it_has_the_parameters_of_the_published_network(placement, routing, number):
    """The authors' code has 27.17, 58.49 and 60.43 million; ours has one input channel and one head."""
    made = swin_network(routing, placement=placement, patch_size=(224, 224), outputs=14, width=96)
    assert sum(parameter.numel() for parameter in made.parameters()) == number
    assert len(made.mixtures) == (14 if placement else 0)


@pytest.mark.parametrize(("placement", "where"), [(("encoder",), "encoder."), (("decoder",), "decoder.")])
def test_experts_are_where_they_are_placed(placement, where):
    made = swin_network(placement=placement)
    names = [name for name, module in made.named_modules() if module in made.mixtures]
    assert len(names) == (8 if placement == ("encoder",) else 6) and all(name.startswith(where) for name in names)


@pytest.mark.parametrize("size", [(32, 32), (50, 38), (7, 65), (224, 224)])
def test_any_patch_size_is_padded_inside(size):
    made = swin_network(patch_size=size)
    x = of_image_types([0], size)
    with torch.inference_mode():
        found = made(x)
        assert found.shape == (1, 4, *size) and found.isfinite().all()
        height, width = (side + -side % 32 for side in size)
        padded = torch.zeros(1, 3, height, width)
        padded[:, :, : size[0], : size[1]] = x
        padded[:, 1:] = torch.nan
        torch.testing.assert_close(made(padded)[..., : size[0], : size[1]], found, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("routing", "training"), [("gate", True), ("image_type", False), ("channel_gate", True)])
def test_a_compiled_network_is_one_graph_and_the_same_function(routing, training):
    """nnU-Net compiles on GPUs."""
    made = without_drop_path(swin_network(routing).train(training))
    compiled = torch.compile(made, backend="eager", fullgraph=True)
    for image_types in ([0, 2], [1, 1], [2, 0]):
        x = of_image_types(image_types, (50, 38))
        torch.testing.assert_close(compiled(x), made(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(64, 64), (32, 96)])
def test_windows_at_the_end_of_an_axis_do_not_see_its_beginning(size):
    """Shifted windows wrap around; where the map is no multiple of the window, timm's mask is of another map."""
    torch.manual_seed(0)
    (block,) = blocks(12, size, 0, [0.0, 0.0], lambda _: None)[1:]
    x = torch.randn(1, *size, 12)
    changed = x.clone()
    changed[:, 0] += 1
    with torch.inference_mode():
        differs = (block.eval()(x) != block(changed)).any(dim=-1)[0]
    rows = differs.any(dim=1).nonzero().flatten().tolist()
    assert rows == [0, 1, 2]  # what the shift by 3 has moved to the end


def test_the_network_is_the_one_that_is_written_out_here():
    """Stages, skips and joints of Swin U-Net, with this network's own layers."""
    made = swin_network(placement=(), patch_size=(64, 64))
    encoder, decoder = made.encoder, made.decoder
    image = torch.randn(2, 1, 64, 64)
    with torch.inference_mode():
        tokens = encoder.norm(encoder.patches(image).permute(0, 2, 3, 1))
        skips = []
        for stage in range(3):
            skips.append(tokens)
            tokens = encoder.merging[stage](encoder.stages[stage](tokens))
        tokens = encoder.last_norm(encoder.stages[3](tokens))
        assert tokens.shape == (2, 2, 2, 96)
        for stage in (2, 1, 0):
            joined = torch.cat((skips[stage], decoder.expanding[stage](tokens)), dim=-1)
            tokens = decoder.stages[stage](decoder.joining[stage](joined))
        expected = decoder.seg_layers[0](decoder.to_pixels(decoder.norm(tokens)).permute(0, 3, 1, 2))
        x = torch.full((2, 3, 64, 64), torch.nan)
        x[:, 1] = image[:, 0]
        torch.testing.assert_close(made(x), expected, rtol=0, atol=0)
    shifts = [[block.shift_size for block in stage] for stage in (*encoder.stages, *decoder.stages)]
    # the maps have 16, 8, 4 and 2 tokens a side; the last two are one window
    of_large, of_small = [(0, 0), (3, 3)], [(0, 0), (0, 0)]
    assert shifts == [of_large, of_large, of_small, of_small, of_large, of_large, of_small]
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for stage in encoder.stages for block in stage]
    assert rates == pytest.approx([0.2 * number / 7 for number in range(8)])
    of_decoder = [getattr(block.drop_path1, "drop_prob", 0.0) for stage in decoder.stages for block in stage]
    assert of_decoder == rates[:6]


def test_in_bfloat16_it_is_close_to_single_precision(monkeypatch):
    """The sums of residuals stay in single precision."""
    made, x = swin_network(), of_image_types([0, 1], (50, 38))
    with torch.inference_mode():
        expected = made(x)
        monkeypatch.setenv("nnunet_moe_bf16", "1")
        monkeypatch.setattr("nnunet_moe.runtime.precision._cpu_has_bfloat16_units", lambda: True)
        tokens = []
        made.encoder.stages[2].register_forward_hook(lambda _, __, output: tokens.append(output.dtype))
        found = made(x)
    assert tokens == [torch.float32] * 2  # in the check of bfloat16 on this CPU, and in the result
    assert (found - expected).abs().max() < 0.03 * expected.abs().max() and not torch.equal(found, expected)


def test_no_process_waits_for_buffers():
    made = swin_network()
    names = {name for name, _ in made.named_buffers()}
    assert any("relative_position_index" in name for name in names)
    assert names <= set(made._ddp_params_and_buffers_to_ignore)


@pytest.mark.parametrize("routing", ROUTINGS)
def test_items_of_a_mixed_batch_are_those_alone(routing):
    made, x = swin_network(routing), of_image_types([2, 0, 1, 0], (50, 38))
    with torch.inference_mode():
        alone = torch.cat([made(item[None]) for item in x])
        torch.testing.assert_close(made(x), alone, rtol=0, atol=1e-5)


def test_kinds_share_one_input_and_differ_by_their_experts():
    image = torch.randn(1, 1, 50, 38)
    by_kind, gated = swin_network("image_type"), swin_network("gate")
    found = {}
    for name, made in (("image_type", by_kind), ("gate", gated)):
        outputs = []
        for image_type in range(3):
            x = torch.full((1, 3, 50, 38), torch.nan)
            x[:, image_type] = image[:, 0]
            with torch.inference_mode():
                outputs.append(made(x))
        found[name] = outputs
    assert all(torch.equal(found["gate"][0], other) for other in found["gate"])  # a gate looks at the image alone
    assert not any(torch.allclose(found["image_type"][0], other) for other in found["image_type"][1:])


def test_a_case_of_one_kind_without_the_other_channels_is_the_same():
    made = swin_network("image_type")
    x = of_image_types([1], (50, 38))
    with torch.inference_mode():
        assert torch.equal(made.of_code(x[:, [1]], (False, True, False)), made(x))


def test_label_sets_hold_for_each_kind():
    made = swin_network(label_sets=((1, 1, 0, 0), (1, 0, 1, 1), (1, 1, 1, 1)))
    with torch.inference_mode():
        found = made(of_image_types([0, 1, 2], (50, 38))).argmax(dim=1)
    assert set(found[0].unique().tolist()) <= {0, 1} and set(found[1].unique().tolist()) <= {0, 2, 3}


def test_what_is_learned_does_not_depend_on_the_size_of_the_patch():
    """Windows of 7 in all stages from patches of 224 on."""
    large, larger = swin_network(patch_size=(224, 224)), swin_network(patch_size=(256, 320))
    shapes = [{name: weights.shape for name, weights in made.state_dict().items()} for made in (large, larger)]
    assert shapes[0] == shapes[1] and len(shapes[0]) > 200
