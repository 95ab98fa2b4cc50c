"""A trained M4oE is taught new image types."""

import pytest
import torch

from facts import facts
from made_networks import swin_network
from nnunet_moe.architectures.new_image_types import image_types_of, with_new_image_types
from nnunet_moe.architectures.upcycling import UpcyclingSource
from nnunet_moe.errors import ModelError

KINDS = ("CT", "MRI")


def pair(routing="gate", *, wanted=("CT", "PET", "MRI")):
    """A network of two image types with weights of its own, and one of more."""
    small, large = (swin_network(routing, num_modalities=number).double() for number in (2, len(wanted)))
    with torch.no_grad():
        for parameter in small.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return small, large


def extended(small, large, *, wanted=("CT", "PET", "MRI"), like=None, noise=0.0):
    state = with_new_image_types(small.state_dict(), KINDS, large, wanted, like=like, noise=noise)
    large.load_state_dict(state)
    return state


def output(made, image, image_type, num_kinds):
    x = torch.full((1, num_kinds, 50, 38), torch.nan, dtype=torch.float64)
    x[0, image_type] = image
    with torch.inference_mode():
        return made(x)


@pytest.fixture(autouse=True)
def single_precision(monkeypatch):
    monkeypatch.setenv("nnunet_moe_bf16", "0")


@pytest.mark.parametrize("routing", ["gate", "image_type"])
@pytest.mark.parametrize("like", ["CT", "MRI"])
@pytest.mark.parametrize("wanted", [("CT", "PET", "MRI"), ("US", "MRI", "PET", "CT")])
def test_a_copy_of_the_nearest_kind_changes_no_output(routing, like, wanted):
    small, large = pair(routing, wanted=wanted)
    extended(small, large, wanted=wanted, like=like)
    image = torch.randn(50, 38, dtype=torch.float64)
    for image_type, name in enumerate(wanted):
        known = KINDS.index(name if name in KINDS else like)
        expected = output(small, image, known, 2)
        torch.testing.assert_close(output(large, image, image_type, len(wanted)), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("routing", ["gate", "image_type"])
def test_the_same_kinds_in_another_order_change_no_output(routing):
    small, large = pair(routing, wanted=("MRI", "CT"))
    extended(small, large, wanted=("MRI", "CT"))
    image = torch.randn(50, 38, dtype=torch.float64)
    for image_type in (0, 1):
        torch.testing.assert_close(
            output(large, image, image_type, 2), output(small, image, 1 - image_type, 2), rtol=0, atol=1e-10
        )


def test_a_channel_gate_does_not_become_a_gate_over_experts():
    small, _ = pair("channel_gate")
    _, large = pair("gate")
    with pytest.raises(ModelError, match=facts("differ", "gate.weight")):
        extended(small, large)


@pytest.mark.parametrize("like", [None, "MRI"])
@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_old_experts_stay_and_new_ones_are_made_of_them(like, noise):
    small, large = pair()
    before = small.state_dict()
    state = extended(small, large, like=like, noise=noise)
    for name, weights in state.items():
        if ".mlp." in name and ".gate." not in name:
            old = before[name]
            assert torch.equal(weights[[0, 2]], old)
            expected = old.mean(dim=0) if like is None else old[1]
            difference = weights[1] - expected
            if noise:
                assert 0.5 * noise < (difference.std(correction=0) / expected.std(correction=0)).item() < 2 * noise
            else:
                assert torch.equal(difference, torch.zeros_like(difference))
        elif ".gate." not in name:
            assert torch.equal(weights, before[name]), name


def test_without_a_nearest_kind_old_kinds_stay_as_they_are_where_routing_is_by_kind():
    small, large = pair("image_type")
    extended(small, large)
    image = torch.randn(50, 38, dtype=torch.float64)
    for image_type, known in ((0, 0), (2, 1)):
        assert torch.equal(output(large, image, image_type, 3), output(small, image, known, 2))


@pytest.mark.parametrize(
    ("wanted", "like", "said"),
    [
        (("CT", "PET", "MR"), None, ("experts for MRI", "CT, PET, MR", "CT, MRI")),
        (("CT", "MRI"), None, ("experts for CT, MRI", "-pretrained_weights")),
        (("CT", "MRI", "PET"), "PET", ("-like PET", "experts for CT, MRI")),
    ],
)
def test_kinds_that_do_not_fit_are_errors(wanted, like, said):
    small, large = pair(wanted=wanted)
    with pytest.raises(ModelError, match=facts(*said)):
        extended(small, large, wanted=wanted, like=like)


def test_networks_that_do_not_fit_are_errors():
    small, _ = pair()
    wide = swin_network(num_modalities=3, width=24).double()
    with pytest.raises(ModelError, match=facts("-tr", "-p", "-c", "'width'")):
        extended(small, wide)
    encoder_alone = swin_network(placement=("encoder",), num_modalities=3).double()
    with pytest.raises(ModelError, match=facts("lacks", "weights", "first is decoder")):
        extended(small, encoder_alone)
    with pytest.raises(ModelError, match=facts("no experts", "2 image types")):
        control = swin_network(placement=(), num_modalities=2)
        image_types_of(UpcyclingSource(control.state_dict(), "nnUNetTrainerSwinUNet", KINDS))
