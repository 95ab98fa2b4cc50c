"""The choice of a trained model, and how it predicts."""

import argparse

import pytest

from facts import facts
from nnunet_moe.errors import ModelError, SettingsError
from nnunet_moe.models.choice import DEFAULT_FOLDS, ModelChoice, ModelsChoice, parse_fold
from nnunet_moe.models.prediction_settings import PredictionSettings
from nnunet_moe.runtime.options import add_options, read_request

NAMES = {"dataset": "Dataset901_Tiny", "configuration": "3d_tiny"}
CHOICE = ("-d", "Dataset901_Tiny", "-c", "3d_tiny")


def parsed(request: type, *arguments: str):
    parser = argparse.ArgumentParser()
    add_options(parser, request)
    return read_request(request, parser.parse_args(arguments))


@pytest.fixture
def results(tmp_path, monkeypatch):
    """Results with two folds of one trainer, in empty files."""
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(variable, str(tmp_path))
    folder = tmp_path / "Dataset901_Tiny" / "nnUNetTrainerMoESD__nnUNetPlans__3d_tiny"
    for fold in (0, "all"):
        (folder / f"fold_{fold}").mkdir(parents=True)
        (folder / f"fold_{fold}" / "checkpoint_final.pth").touch()
    return folder


def test_folds_are_numbers_or_all():
    assert parsed(ModelChoice, *CHOICE, "-tr", "T").folds == DEFAULT_FOLDS == (0, 1, 2, 3, 4)
    assert parsed(ModelChoice, *CHOICE, "-tr", "T", "-f", "2", "all").folds == (2, "all")
    for text in ("x", "-1", "1.5", ""):
        with pytest.raises(SettingsError, match=facts("fold", "'all'")):
            parse_fold(text)


@pytest.mark.parametrize("choice", [{"trainer": "T"}, {"trainers": ("T", "U")}])
def test_a_fold_named_twice_is_refused(choice):
    with pytest.raises(SettingsError, match=facts("fold", "twice")):
        (ModelChoice if "trainer" in choice else ModelsChoice)(**NAMES, **choice, folds=(0, 0))


def test_a_trainer_named_twice_is_refused():
    with pytest.raises(SettingsError, match=facts("trainer", "twice")):
        ModelsChoice(**NAMES, trainers=("T", "T"))


def test_each_trainers_choice_is_the_common_one_with_its_name():
    models = parsed(ModelsChoice, *CHOICE, "-tr", "T", "U", "-f", "1", "-p", "P", "-chk", "c.pth")
    assert [models.of_trainer(trainer) for trainer in models.trainers] == [
        parsed(ModelChoice, *CHOICE, "-tr", trainer, "-f", "1", "-p", "P", "-chk", "c.pth") for trainer in ("T", "U")
    ]


def test_it_finds_the_model_with_all_folds_or_says_what_there_is(results):
    choice = ModelChoice(**NAMES, trainer="nnUNetTrainerMoESD", folds=(0, "all"))
    assert choice.find().folder == results
    with pytest.raises(
        ModelError, match=facts("fold_3/checkpoint_final.pth", "does not exist", "fold_0/checkpoint_final.pth")
    ):
        ModelChoice(**NAMES, trainer="nnUNetTrainerMoESD", folds=(0, 3)).find()
    with pytest.raises(ModelError, match=facts("nnUNetTrainerSD", "nnUNetTrainerMoESD__nnUNetPlans__3d_tiny")):
        ModelChoice(**NAMES, trainer="nnUNetTrainerSD", folds=(0,)).find()


@pytest.mark.parametrize("step_size", [0, -0.5, 1.01, float("nan"), True, "0.5"])
def test_a_step_size_is_a_fraction_of_the_patch(step_size):
    with pytest.raises(SettingsError, match=facts("step_size")):
        PredictionSettings(step_size=step_size, device="cpu")
    assert PredictionSettings(step_size=1, device="cpu").step_size == 1
