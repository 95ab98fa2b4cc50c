"""What the commands ask of every network, and what each class answers."""

import pytest
import torch

from facts import facts
from made_networks import QUIET, batch, modality_network, of_image_types, planned, swin_network
from nnunet_moe.architectures.shared_encoder_network import SharedEncoderNetwork
from nnunet_moe.architectures.stock_network import StockNetwork, missing_modality_network
from nnunet_moe.architectures.upcycling import UpcyclingSource
from nnunet_moe.errors import ModelError, SettingsError
from nnunet_moe.modalities.codes import all_codes
from nnunet_moe.settings.base import Settings
from nnunet_moe.settings.lckd import LCKDSettings

NAMES = ("a", "b", "c")


def shared_encoder():
    return SharedEncoderNetwork(planned(channels=1), num_modalities=3, settings=LCKDSettings()).double().eval()


def test_a_stock_network_is_for_complete_cases_and_has_neither_gates_nor_a_code_of_its_own():
    network = missing_modality_network(planned())
    assert isinstance(network, StockNetwork) and not network.knows_missing_modalities
    assert [code for code in all_codes(3) if network.takes(code)] == [(True, True, True)]
    assert network.gate_table(all_codes(3)) == {} and network.dedicated_code is None


def test_a_network_of_this_package_needs_no_adapter():
    for network in (modality_network(), shared_encoder(), swin_network()):
        assert missing_modality_network(network) is network and network.knows_missing_modalities


def test_a_network_takes_all_codes_its_own_or_those_of_one_modality():
    dedicated = modality_network(Settings(modality_code=(1, 0, 1)))
    assert all(modality_network().takes(code) and shared_encoder().takes(code) for code in all_codes(3))
    assert [code for code in all_codes(3) if dedicated.takes(code)] == [(True, False, True)]
    assert [code for code in all_codes(3) if swin_network().takes(code)] == all_codes(3)[:3]


def test_the_gate_table_has_the_softmax_of_each_mixture_for_the_codes_asked_for():
    network, codes = modality_network(), [(True, False, False), (True, True, True)]
    table = network.gate_table(codes)
    modules = dict(network.named_modules())
    assert list(table) == [name for name, module in modules.items() if module in network.mixtures]
    for name, weights in table.items():
        gate = modules[name].gate
        expected = (torch.tensor(codes, dtype=gate.weight.dtype) @ gate.weight.T + gate.bias).softmax(dim=1)
        torch.testing.assert_close(weights, expected)
    assert shared_encoder().gate_table(codes) == {} and swin_network().gate_table(codes[:1]) == {}


@pytest.mark.parametrize("code", all_codes(3), ids=str)
def test_a_network_fixed_to_a_code_is_the_same_function_of_the_channels_that_are_left(code):
    x = batch()
    incomplete = torch.where(torch.tensor(code)[:, None, None, None], x, torch.nan)
    for network in (modality_network(QUIET).eval(), shared_encoder()):
        fixed = network.fixed(code, lambda: planned(channels=sum(code)))
        with torch.no_grad():
            torch.testing.assert_close(fixed(x[:, list(code)]), network(incomplete), rtol=0, atol=1e-10)


def test_a_network_for_one_image_type_is_fixed_to_it():
    network, x = swin_network().double(), of_image_types([1, 1], (50, 38)).double()
    with torch.no_grad():
        fixed = network.fixed((False, True, False), planned)
        torch.testing.assert_close(fixed(x[:, [1]]), network(x), rtol=0, atol=1e-10)


def test_the_general_form_of_a_fixed_code_is_that_of_every_class():
    """`of_code` of the base class fills in NaN; networks that are written as ONNX have one without NaN."""
    code, x = (True, False, True), batch()[:, :2]
    network = shared_encoder()
    with torch.no_grad():
        torch.testing.assert_close(super(SharedEncoderNetwork, network).of_code(x, code), network.of_code(x, code))


def test_only_networks_with_experts_are_upcycled():
    source = UpcyclingSource(planned().state_dict(), "nnUNetTrainer", NAMES)
    for network in (missing_modality_network(planned()), shared_encoder(), swin_network(placement=())):
        with pytest.raises(ModelError, match=facts("experts")):
            network.upcycled(source, NAMES, noise=0.0, like=None)
    with pytest.raises(SettingsError, match=facts("-like a")):
        modality_network().upcycled(source, NAMES, noise=0.0, like="a")
