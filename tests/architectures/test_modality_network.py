import copy
import pickle

import pytest
import torch
from dynamic_network_architectures.building_blocks.residual import BottleneckD
from torch import nn

from facts import facts
from made_networks import QUIET, batch, modality_network, planned
from nnunet_moe.architectures.modality_network import ModalityNetwork
from nnunet_moe.architectures.moe_conv import MoEConv
from nnunet_moe.architectures.upcycling import UpcyclingSource
from nnunet_moe.errors import ModalityError, ModelError
from nnunet_moe.modalities.codes import all_codes
from nnunet_moe.settings.moesd import MoESDSettings


def names_of_mixtures(network):
    return [name for name, module in network.named_modules() if isinstance(module, MoEConv)]


@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_plain_network_has_mixtures_in_its_stem_and_in_the_second_convolution_of_every_stage(dimensions):
    network = modality_network(dimensions=dimensions)
    expected = ["encoder.stages.0.0.convs.0.conv", *(f"encoder.stages.{stage}.0.convs.1.conv" for stage in range(3))]
    assert names_of_mixtures(network) == expected
    assert len(network.mixtures) == 4


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_a_residual_network_has_mixtures_in_its_stem_and_in_conv2_of_every_block(dimensions, block):
    more = {"block": BottleneckD, "bottleneck_channels": 4} if block == "bottleneck" else {}
    network = modality_network(kind="residual", dimensions=dimensions, **more)
    blocks = [f"encoder.stages.{stage}.blocks.{number}.conv2.conv" for stage in range(3) for number in range(2)]
    assert names_of_mixtures(network) == ["encoder.stem.convs.0.conv", *blocks]


@pytest.mark.parametrize(
    ("placement", "number"), [((), 0), (("stem",), 1), (("encoder",), 3), (("decoder",), 2), (("decoder", "stem"), 3)]
)
def test_the_placement_is_a_choice(placement, number):
    assert len(modality_network(MoESDSettings(placement=placement)).mixtures) == number


@pytest.mark.parametrize("kind", ["plain", "residual"])
@pytest.mark.parametrize("num_convolutions", [1, 2, 3])
def test_in_the_decoder_the_last_convolution_of_every_stage_is_a_mixture(kind, num_convolutions):
    settings = MoESDSettings(placement=("decoder",), code_noise_sd=0.0)
    network = modality_network(settings, kind=kind, n_conv_per_stage_decoder=num_convolutions)
    last = num_convolutions - 1
    assert names_of_mixtures(network) == [f"decoder.stages.{stage}.convs.{last}.conv" for stage in range(2)]
    x = batch()
    x[1, 0] = torch.nan
    network(x).sum().backward()
    assert all(mixture.weight.grad.any() and mixture.gate.weight.grad.any() for mixture in network.mixtures)


def test_filter_scaling_stands_where_experts_would_and_keeps_the_names_of_the_weights():
    settings = MoESDSettings(placement=("stem",), conditioning="filter_scaling", code_noise_sd=0.0)
    network, reference = modality_network(settings), planned(seed=3)
    assert network.mixtures == () and len(network.code_layers) == 1
    network.load_state_dict(reference.state_dict(), strict=False)
    x = batch()
    torch.testing.assert_close(network(x), reference(x), rtol=0, atol=1e-12)  # all factors start at 1
    nn.init.normal_(network.code_layers[0].scaling[-1].weight)
    x[:, 1] = 0
    with_zeros = network(x)
    x[:, 1] = torch.nan
    assert (network(x) - with_zeros).abs().max() > 1e-3


def test_a_dedicated_network_looks_at_its_own_modalities_only():
    network = modality_network(MoESDSettings(placement=(), modality_code=(1, 0, 1))).eval()
    x = batch()
    expected = network(torch.where(torch.tensor([True, False, True])[None, :, None, None, None], x, 0.0))
    for value in (5.0, torch.nan):
        x[:, 1] = value
        assert torch.equal(network(x), expected)
    x[:, 2] += 1
    assert (network(x) - expected).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["plain", "residual"])
@pytest.mark.parametrize("deep_supervision", [False, True])
def test_without_mixtures_it_is_the_planned_network_with_the_same_names_of_weights(kind, deep_supervision):
    network = modality_network(MoESDSettings(placement=()), kind=kind, deep_supervision=deep_supervision, seed=5)
    reference = planned(kind=kind, deep_supervision=deep_supervision, seed=7)
    network.load_state_dict(reference.state_dict())
    x = batch()
    got, expected = network(x), reference(x)
    assert len(got) == (2 if deep_supervision else len(x))
    for mine, theirs in zip(got, expected, strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("kind", ["plain", "residual"])
def test_experts_that_are_all_copies_of_the_planned_convolutions_give_the_planned_network(kind):
    reference = planned(kind=kind)
    network = modality_network(kind=kind)
    own = network.state_dict()
    copies = {name: weight.expand_as(own[name]) for name, weight in reference.state_dict().items()}
    network.load_state_dict(copies, strict=False)  # the gates stay as they are: they do not matter here
    x = batch()
    torch.testing.assert_close(network(x), reference(x), rtol=0, atol=1e-12)


def test_every_expert_has_nnunets_own_initialisation_and_its_own_draw():
    torch.manual_seed(0)
    network = ModalityNetwork(planned(channels=12), num_modalities=12, settings=MoESDSettings(num_experts=6))
    stem = network.mixtures[0]
    expected_sd = (2 / (1 + 1e-2**2) / (12 * 27)) ** 0.5  # kaiming_normal_ with nnU-Net's slope
    for expert in stem.weight:
        assert expert.std().item() == pytest.approx(expected_sd, rel=0.1)
    assert not stem.bias.any()
    assert all((stem.weight[0] - other).abs().max() > 0.01 for other in stem.weight[1:])


@pytest.mark.parametrize("kind", ["plain", "residual"])
def test_the_spread_is_how_far_experts_start_apart_and_changes_no_experts_distribution(kind):
    def experts(spread):
        settings = MoESDSettings(num_experts=3, expert_spread=spread)
        network = modality_network(settings, kind=kind, dimensions=2, features_per_stage=[4, 6, 256])
        return [mixture.weight.detach() for mixture in network.mixtures]

    independent, apart, copies = experts(1.0), experts(0.6), experts(0.0)
    assert all(torch.equal(copied, copied[:1].expand_as(copied)) for copied in copies)
    torch.testing.assert_close(apart[0], 0.6 * independent[0] + 0.8 * copies[0])  # 0.6^2 + 0.8^2 = 1
    widest = apart[-1].flatten(1)  # 589,824 weights an expert
    assert widest.std(dim=1).tolist() == pytest.approx([independent[-1].std().item()] * 3, rel=0.01)
    assert torch.corrcoef(widest)[[0, 0, 1], [1, 2, 2]].tolist() == pytest.approx([0.64] * 3, abs=0.01)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kind", ["plain", "residual"])
@pytest.mark.parametrize("num_modalities", [1, 2, 3, 5])
def test_what_stood_in_an_absent_channel_influences_no_output_and_no_gradient(training, kind, num_modalities):
    network = modality_network(kind=kind, num_modalities=num_modalities).train(training)
    for code in all_codes(num_modalities)[:: max(1, num_modalities - 2)]:
        results = []
        for seed in (2, 3):
            x = batch(channels=num_modalities)
            absent = ~torch.tensor(code)
            x[:, absent] = batch(channels=num_modalities, seed=seed)[:, absent] * 1e3
            x[:, absent, 0, 0] = torch.nan
            x.requires_grad_()
            network.zero_grad()
            output = network(x)
            output.square().sum().backward()
            results.append((output.detach(), [p.grad for p in network.parameters() if p.grad is not None]))
            assert not x.grad[:, absent].any() and output.isfinite().all()
        assert torch.equal(results[0][0], results[1][0])
        assert all(torch.equal(a, b) for a, b in zip(results[0][1], results[1][1], strict=True))


@pytest.mark.parametrize("training", [False, True])
def test_an_items_output_does_not_depend_on_the_rest_of_its_batch(training):
    network = modality_network().train(training)
    x = batch(items=3)
    x[0, 1], x[1, 0], x[1, 2] = torch.nan, torch.nan, torch.nan
    together = network(x)
    for item in range(3):
        torch.testing.assert_close(network(x[item : item + 1]), together[item : item + 1], rtol=0, atol=1e-11)


def test_the_code_decides_what_the_experts_do():
    network = modality_network().eval()
    x = batch(items=1)
    x[:, 1] = 0
    with_zeros = network(x)
    x[:, 1] = torch.nan  # the convolutions see zeros in both cases; the gates do not
    assert (network(x) - with_zeros).abs().max() > 1e-3


def test_channels_beyond_the_modalities_pass_and_are_no_modalities():
    network = ModalityNetwork(planned(channels=5), num_modalities=3, settings=QUIET).eval()
    assert network.codes.shape == (7, 3)
    x = batch(items=1, channels=5)
    before = network(x)
    x[:, 3:] += 1
    assert (network(x) - before).abs().max() > 1e-3


def test_training_adds_noise_to_the_code_of_the_gates_one_draw_an_item_for_all_layers():
    network = modality_network(MoESDSettings(code_noise_sd=0.2)).train()
    x = batch(items=500)
    x[:, 2] = torch.nan
    network(x)
    codes = [mixture.code_input.code for mixture in network.mixtures]
    assert all(code is codes[0] for code in codes)
    noise = codes[0] - torch.tensor([1.0, 1.0, 0.0])
    assert noise.std().item() == pytest.approx(0.2, rel=0.1) and abs(noise.mean().item()) < 0.02
    network.eval()
    network(x)
    assert network.mixtures[0].code_input.code.tolist() == [[1.0, 1.0, 0.0]]


def test_gates_of_codes_are_the_noise_free_gates_of_every_layer_over_the_exact_set():
    network = modality_network(MoESDSettings(code_noise_sd=0.2)).train()
    gates = network.gates_of_codes()
    assert [tuple(g.shape) for g in gates] == [(7, 4)] * 4
    codes = torch.tensor(all_codes(3), dtype=torch.float64)
    for mixture, layer_gates in zip(network.mixtures, gates, strict=True):
        assert torch.equal(layer_gates, mixture.gates(codes))
        torch.testing.assert_close(layer_gates.sum(1), torch.ones(7, dtype=torch.float64))


@pytest.mark.parametrize("kind", ["plain", "residual"])
@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("placement", [("stem", "encoder"), ("stem", "encoder", "decoder")])
def test_upcycled_without_noise_it_is_the_ordinary_network_exactly(kind, dimensions, placement, monkeypatch):
    monkeypatch.setenv("nnunet_moe_bf16", "0")
    ordinary = planned(kind=kind, dimensions=dimensions, seed=1).float().eval()
    network = modality_network(MoESDSettings(placement=placement), kind=kind, dimensions=dimensions).float().eval()
    source = UpcyclingSource(ordinary.state_dict(), "nnUNetTrainer", ("a", "b", "c"))
    network.load_state_dict(network.upcycled(source, ("a", "b", "c"), noise=0.0, like=None))
    x = batch(dimensions=dimensions).float()
    with torch.inference_mode():
        assert torch.equal(network(x), ordinary(x))


def test_copies_and_pickles_work_on_their_own_weights():
    network = modality_network().eval()
    x = batch(items=1)
    expected = network(x)
    for twin in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        with torch.no_grad():
            for parameter in network.mixtures[0].parameters():
                parameter.mul_(1.5)
        assert twin.mixtures[0] is twin.get_submodule("encoder.stages.0.0.convs.0.conv")
        torch.testing.assert_close(twin(x), expected)


def test_only_parameters_are_saved():
    assert set(modality_network().state_dict()) == {
        name for name, _ in modality_network().named_parameters(remove_duplicate=False)
    }


def test_networks_that_nnunet_does_not_plan_are_refused():
    with pytest.raises(ModelError, match=facts("encoder", "decoder")):
        ModalityNetwork(nn.Sequential(nn.Conv3d(3, 2, 1)), num_modalities=3, settings=QUIET)
    with pytest.raises(ModalityError, match=facts("1 to 12")):
        modality_network(num_modalities=13)


@pytest.mark.parametrize(("variable", "same"), [("0", True), ("1", False)])
def test_bfloat16_on_the_cpu_can_be_turned_off_and_is_close(monkeypatch, variable, same):
    network = modality_network().float().eval()
    x = batch().float()
    monkeypatch.setenv("nnunet_moe_bf16", "0")
    monkeypatch.setattr("nnunet_moe.runtime.precision._cpu_has_bfloat16_units", lambda: True)
    with torch.inference_mode():
        single = network(x)
        monkeypatch.setenv("nnunet_moe_bf16", variable)
        again = network(x)
    assert again.dtype == torch.float32
    assert torch.equal(single, again) is same
    assert (single - again).abs().max() < 0.05 * single.abs().max()


@pytest.mark.parametrize("training", [True, False])
def test_compiled_it_is_one_graph_that_serves_every_code(training, monkeypatch):
    """nnU-Net compiles on GPUs by default; a graph break or a recompilation per code would cost what that gains."""
    monkeypatch.setenv("nnunet_moe_bf16", "0")  # compiled on a CPU, a network computes in float32 in any case
    network = modality_network(deep_supervision=True).float().train(training)
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    for code in all_codes(3):
        x = batch().float()
        x[1, ~torch.tensor(code)] = torch.nan
        for got, expected in zip(compiled(x), network(x), strict=True):
            torch.testing.assert_close(got, expected)
    counters = torch._dynamo.utils.counters
    assert counters["stats"]["unique_graphs"] == 1 and not counters["graph_break"]
