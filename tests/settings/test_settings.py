import pytest

from facts import facts
from nnunet_moe.errors import SettingsError
from nnunet_moe.settings.base import Settings
from nnunet_moe.settings.lckd import LCKDSettings
from nnunet_moe.settings.m4oe import M4oESettings
from nnunet_moe.settings.moesd import ExpertSettings, MoESDSettings, SelfDistillationSettings
from nnunet_moe.settings.plans import METHODS, known_settings, read_settings, unread_settings


def test_without_the_key_all_settings_have_the_defaults_of_the_method():
    settings = read_settings(MoESDSettings, {})
    assert settings == MoESDSettings()
    assert (settings.num_experts, settings.placement, settings.alpha, settings.beta) == (4, ("stem", "encoder"), 0.1, 1)
    assert (settings.temperature, settings.code_noise_sd, settings.specialization_sign) == (2.0, 0.2, 0)
    assert settings.ramp_up_fraction == 1 / 3 and settings.expert_spread == 0.1
    lengths = (settings.num_epochs, settings.num_iterations_per_epoch, settings.num_val_iterations_per_epoch)
    assert lengths == (1000, 250, 50)  # nnU-Net's own


def test_what_a_trainer_forces_wins_over_the_plans():
    settings = read_settings(MoESDSettings, {"nnunet_moe": {"beta": 3.0, "num_experts": 2}}, {"beta": 0.0})
    assert settings.beta == 0.0 and settings.num_experts == 2


@pytest.mark.parametrize("method", [Settings, *METHODS])
def test_a_key_that_no_method_knows_is_an_error_that_lists_the_allowed_ones(method):
    with pytest.raises(SettingsError, match=facts("'num_expert'", *known_settings())):
        read_settings(method, {"nnunet_moe": {"num_expert": 4}})


@pytest.mark.parametrize("method", [Settings, *METHODS])
def test_each_method_accepts_the_keys_of_all_and_reads_its_own(method):
    given = {"alpha": 0.3, "election_interval": 7, "width": 48, "num_epochs": 3}
    own = {name: value for name, value in given.items() if hasattr(method(), name)}
    assert read_settings(method, {"nnunet_moe": given}) == method(**own)
    assert unread_settings(given, method) == sorted(given.keys() - own.keys())


@pytest.mark.parametrize("method", [Settings, *METHODS])
def test_a_value_of_another_method_has_to_be_in_range(method):
    with pytest.raises(SettingsError, match=facts("'width'", 10, "allowed")):
        read_settings(method, {"nnunet_moe": {"width": 10}})


def test_a_key_that_the_trainer_forces_has_no_effect():
    assert unread_settings(["seed", "beta", "alpha"], MoESDSettings, ["beta"]) == ["beta"]


@pytest.mark.parametrize(
    ("method", "name", "value"),
    [
        (ExpertSettings, "conditioning", "filter_scaling"),
        (M4oESettings, "routing", "channel_gate"),
        (LCKDSettings, "election", "fixed"),
    ],
)
def test_what_is_the_trainers_choice_cannot_stand_in_the_plans(method, name, value):
    with pytest.raises(SettingsError, match=facts("Unknown", f"'{name}'")):
        read_settings(method, {"nnunet_moe": {name: value}})
    assert getattr(read_settings(method, {}, {name: value}), name) == value


def test_where_m4oe_has_experts_is_its_trainers_choice_though_moesd_reads_a_key_of_that_name():
    assert read_settings(M4oESettings, {"nnunet_moe": {"placement": ["stem"]}}).placement == ()
    assert unread_settings(["placement"], M4oESettings) == ["placement"]


def test_a_list_of_the_plans_becomes_a_tuple():
    settings = read_settings(ExpertSettings, {"nnunet_moe": {"placement": ["decoder"], "modality_code": [1, 0]}})
    assert settings.placement == ("decoder",) and settings.modality_code == (1, 0)


def test_self_distillation_has_no_experts_and_experts_have_no_self_distillation():
    assert not hasattr(SelfDistillationSettings(), "num_experts") and not hasattr(ExpertSettings(), "beta")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_experts", 0), ("num_experts", 2.0), ("num_experts", True), ("num_experts", 10**9), ("alpha", 10**400),
        ("temperature", 1e-40), ("expert_spread", 1.01), ("expert_spread", -0.1), ("placement", ["bottleneck"]),
        ("placement", "stem"), ("placement", ["stem", "stem"]), ("placement", [["stem"]]), ("alpha", -0.1),
        ("alpha", "0.1"), ("alpha", float("nan")), ("beta", float("inf")), ("temperature", 0), ("code_noise_sd", -1),
        ("specialization_sign", 2), ("specialization_sign", 0.5), ("ramp_up_fraction", 1.1), ("num_epochs", 0),
        ("num_iterations_per_epoch", None), ("num_val_iterations_per_epoch", -3), ("seed", -1),
        ("modality_code", [0, 0]), ("modality_code", "101"), ("modality_code", [1, 2]), ("modality_code", []),
        ("item_kernels", "Loop"), ("item_kernels", ["sum"]), ("item_kernels", None),
    ],
)  # fmt: skip
def test_a_value_out_of_range_is_an_error_that_names_key_value_and_range(name, value):
    with pytest.raises(SettingsError, match=facts(f"'{name}'", repr(value), "allowed")):
        read_settings(MoESDSettings, {"nnunet_moe": {name: value}})


@pytest.mark.parametrize("key", ["nnunet-moe", "nnUNet_MoE"])
def test_a_misspelt_key_of_the_section_is_an_error(key):
    with pytest.raises(SettingsError, match=facts(f"'{key}'", "'nnunet_moe'")):
        read_settings(Settings, {key: {}})


def test_settings_that_are_no_object_are_refused():
    with pytest.raises(SettingsError, match=facts("object")):
        read_settings(Settings, {"nnunet_moe": [1]})
