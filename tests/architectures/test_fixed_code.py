import copy

import pytest
import torch
from torch import nn

from facts import facts
from made_networks import modality_network, planned
from nnunet_moe.architectures.fixed_code import load_fixed, require_equal
from nnunet_moe.architectures.modality_network import ModalityNetwork
from nnunet_moe.errors import ModelError
from nnunet_moe.labels.label_sets import OUTSIDE
from nnunet_moe.modalities.codes import all_codes
from nnunet_moe.settings.moesd import MoESDSettings

EXPERTS_EVERYWHERE = MoESDSettings(placement=("stem", "encoder", "decoder"))
SETTINGS = [
    pytest.param(MoESDSettings(), id="experts"),
    pytest.param(EXPERTS_EVERYWHERE, id="decoder too"),
    pytest.param(MoESDSettings(placement=("stem",), conditioning="filter_scaling"), id="filter scaling"),
    pytest.param(MoESDSettings(placement=()), id="no experts"),
]


def made(settings, num_modalities, **more):
    """A network with gates, scalings and biases that are not their first values."""
    network = modality_network(settings, num_modalities, **more).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return network


def images(num_modalities, code, dimensions, further=0):
    """The same batch for the network, with NaN in absent channels, and for the ordinary one, without these channels."""
    x = torch.randn(2, num_modalities + further, *[8] * dimensions, dtype=torch.float64)
    present = [*torch.tensor(code).nonzero().flatten().tolist(), *range(num_modalities, num_modalities + further)]
    incomplete = torch.full_like(x, torch.nan)
    incomplete[:, present] = x[:, present]
    return incomplete, x[:, present]


@pytest.mark.parametrize(("kind", "dimensions"), [("plain", 2), ("plain", 3), ("residual", 3)])
@pytest.mark.parametrize("num_modalities", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("settings", SETTINGS)
def test_the_ordinary_network_gives_the_same_logits_under_every_code(settings, num_modalities, kind, dimensions):
    network = made(settings, num_modalities, kind=kind, dimensions=dimensions)
    for code in all_codes(num_modalities):
        ordinary = planned(kind, dimensions, channels=sum(code), seed=9).eval()
        load_fixed(ordinary, network, code)
        incomplete, present = images(num_modalities, code, dimensions)
        with torch.inference_mode():
            torch.testing.assert_close(ordinary(present), network(incomplete), rtol=0, atol=1e-10)


@pytest.mark.parametrize("code", all_codes(3))
def test_a_label_that_cannot_appear_under_the_code_has_a_constant_logit(code):
    sets = ((1, 0), (0, 1), (0, 1))
    network = made(MoESDSettings(label_sets=sets), 3)
    ordinary = planned(channels=sum(code), seed=9).eval()
    load_fixed(ordinary, network, code)
    incomplete, present = images(3, code, 3)
    inside = [any(row[output] for row, there in zip(sets, code, strict=True) if there) for output in (0, 1)]
    with torch.inference_mode():
        found = ordinary(present)
        torch.testing.assert_close(found, network(incomplete), rtol=0, atol=1e-10)
    assert [bool((found[:, output] == OUTSIDE).all()) for output in (0, 1)] == [not is_in for is_in in inside]
    require_equal(ordinary, network, code, (3, 8, 8, 8))


@pytest.mark.parametrize("code", all_codes(3))
def test_channels_beyond_the_modalities_stay(code):
    network = ModalityNetwork(planned(channels=5), num_modalities=3, settings=MoESDSettings()).eval()
    ordinary = planned(channels=sum(code) + 2, seed=9).eval()
    load_fixed(ordinary, network, code)
    incomplete, present = images(3, code, 3, further=2)
    with torch.inference_mode():
        torch.testing.assert_close(ordinary(present), network(incomplete), rtol=0, atol=1e-10)


def test_the_weights_are_the_planned_networks_and_no_more():
    network = made(EXPERTS_EVERYWHERE, 3).float()
    ordinary, stock = planned(channels=2).float(), planned(channels=2, seed=4).float()
    load_fixed(ordinary, network, (True, False, True))
    assert {key: weight.shape for key, weight in ordinary.state_dict().items()} == {
        key: weight.shape for key, weight in stock.state_dict().items()
    }
    assert [type(module) for module in ordinary.modules()] == [type(module) for module in stock.modules()]
    assert sum(weight.numel() for weight in ordinary.parameters()) < sum(w.numel() for w in network.parameters()) / 2


def test_neither_the_source_nor_what_was_exported_before_changes():
    network = made(MoESDSettings(), 3)
    before = copy.deepcopy(network.state_dict())
    first = planned(channels=2)
    load_fixed(first, network, (True, True, False))
    weights = copy.deepcopy(first.state_dict())
    load_fixed(planned(channels=2), network, (False, True, True))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    assert all(torch.equal(weights[key], weight) for key, weight in first.state_dict().items())
    network.load_state_dict(before)  # the names are still the same


class Another(ModalityNetwork):
    """The same weights, but not the same function: what it does with a complete case is its own."""

    def forward(self, x):
        logits = super().forward(x)
        return 2 * logits if not x[:, : self.num_modalities].isnan().any() else logits


def test_a_network_of_which_an_ordinary_one_is_not_the_same_function_is_refused():
    network = Another(planned(), num_modalities=3, settings=MoESDSettings()).eval()
    load_fixed(fixed := planned(channels=2), network, (True, True, False))
    require_equal(fixed, network, (True, True, False), (3, 8, 8, 8))
    with pytest.raises(ModelError, match=facts("cannot be exported", "5.0e-01")):
        require_equal(planned(), network, (True, True, True), (3, 8, 8, 8))


def test_a_network_with_other_layers_or_sizes_is_refused():
    code, shape = (True, False, True), (3, 8, 8, 8)
    network = made(MoESDSettings(), 3)
    with pytest.raises(ModelError, match=facts("(6, 4, 3, 3, 3)", "(7, 4, 3, 3, 3)")):
        require_equal(planned(channels=2, features_per_stage=[4, 7, 8]), network, code, shape)
    network.encoder.add_module("further", nn.Linear(1, 1))
    with pytest.raises(ModelError, match=facts("one of the networks only", "decoder.encoder.further")):
        require_equal(planned(channels=2), network, code, shape)


def test_other_weights_than_those_of_the_code_are_refused_and_rounded_ones_are_not():
    network, code, shape = made(MoESDSettings(), 3).float(), (True, False, True), (3, 8, 8, 8)
    load_fixed(fixed := planned(channels=2).float(), network, code)
    require_equal(fixed, network, code, shape)
    load_fixed(fixed, network, (True, True, False))
    with pytest.raises(ModelError, match=facts("logits", "differ")):
        require_equal(fixed, network, code, shape)
