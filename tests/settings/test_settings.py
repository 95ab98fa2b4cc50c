from dataclasses import fields

import pytest

from nnunet_moe.errors import SettingsError
from nnunet_moe.settings.settings import Settings


def test_without_the_key_all_settings_have_the_defaults_of_the_method():
    settings = Settings.from_plans({})
    assert settings == Settings()
    assert (settings.num_experts, settings.placement, settings.alpha, settings.beta) == (4, ("stem", "encoder"), 0.1, 1)
    assert (settings.temperature, settings.code_noise_sd, settings.specialization_sign) == (2.0, 0.2, 0)
    assert settings.ramp_up_fraction == 1 / 3 and settings.expert_spread == 0.1
    lengths = (settings.num_epochs, settings.num_iterations_per_epoch, settings.num_val_iterations_per_epoch)
    assert lengths == (1000, 250, 50)  # nnU-Net's own


def test_what_a_trainer_forces_wins_over_the_plans():
    settings = Settings.from_plans({"nnunet_moe": {"beta": 3.0, "num_experts": 2}}, {"beta": 0.0})
    assert settings.beta == 0.0 and settings.num_experts == 2


def test_an_unknown_key_is_an_error_that_lists_the_allowed_ones():
    with pytest.raises(SettingsError, match=r"'num_expert'.*num_experts.*placement") as error:
        Settings.from_plans({"nnunet_moe": {"num_expert": 4}})
    assert all(setting.name in str(error.value) for setting in fields(Settings) if setting.metadata)


def test_how_convolutions_depend_on_the_code_is_the_trainers_choice_alone():
    with pytest.raises(SettingsError, match="Unknown setting 'conditioning'"):
        Settings.from_plans({"nnunet_moe": {"conditioning": "filter_scaling"}})
    assert Settings.from_plans({}, {"conditioning": "filter_scaling"}).conditioning == "filter_scaling"


def test_a_list_of_the_plans_becomes_a_tuple():
    settings = Settings.from_plans({"nnunet_moe": {"placement": ["decoder"], "modality_code": [1, 0]}})
    assert settings.placement == ("decoder",) and settings.modality_code == (1, 0)


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
    ],
)  # fmt: skip
def test_a_value_out_of_range_is_an_error_that_names_key_value_and_range(name, value):
    with pytest.raises(SettingsError, match=f"'{name}'.*allowed is") as error:
        Settings.from_plans({"nnunet_moe": {name: value}})
    assert repr(value) in str(error.value)


@pytest.mark.parametrize("key", ["nnunet-moe", "nnUNet_MoE"])
def test_a_misspelt_key_of_the_section_is_an_error(key):
    with pytest.raises(SettingsError, match=f"'{key}'; the settings' key is 'nnunet_moe'"):
        Settings.from_plans({key: {}})


def test_settings_that_are_no_object_are_refused():
    with pytest.raises(SettingsError, match="must be an object"):
        Settings.from_plans({"nnunet_moe": [1]})
