"""nnU-Net's own commands from start to end: train, predict with files missing, compare."""

import re
import shutil

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from facts import facts
from nnunet_in_process import command
from nnunet_moe.errors import CommandError, ModelError
from nnunet_moe.modalities.codes import all_codes, code_digits
from nnunet_moe.prediction import MissingModalityPredictor
from nnunet_moe.training_log import read_training_logs

CPU = torch.device("cpu")
SERIAL = ("-npp", "1", "-nps", "1")
UNMIRRORED = "--disable_tta"
"""Saves seven eighths of a prediction; `test_an_ensemble_of_folds_is_the_mean_of_both` predicts with mirroring."""


def predict(images, folder, *more, folds=("0",), workers=SERIAL):
    arguments = ("-d", "901", "-c", "3d_tiny", "-tr", "nnUNetTrainerMoESD", "-device", "cpu", "-f", *folds)
    command("nnUNetv2_predict", *arguments, "-i", str(images), "-o", str(folder), *workers, *more)
    return segmentations(folder)


def segmentations(folder):
    return {file.name: sitk.GetArrayFromImage(sitk.ReadImage(str(file))) for file in folder.glob("*.nii.gz")}


def assert_same(first, second):
    assert first.keys() == second.keys() and first
    for name, segmentation in first.items():
        assert np.array_equal(segmentation, second[name]), name


def predictor(dataset, folds, *, mirroring=False):
    predictor = MissingModalityPredictor(device=CPU, allow_tqdm=False, use_mirroring=mirroring)
    predictor.initialize_from_trained_model_folder(str(dataset.model_folder()), folds)
    return predictor


def image_of(subsets, code):
    """The array of a case under a code, NaN in absent channels, and its properties."""
    channels = [subsets.image(subsets.cases[0], channel) if there else None for channel, there in enumerate(code)]
    shape = next(channel.shape for channel in channels if channel is not None)
    image = [np.full(shape, np.nan) if channel is None else channel for channel in channels]
    return np.stack(image).astype(np.float32), {"spacing": [1.0, 1.0, 1.0]}


@pytest.fixture(scope="module")
def incoming(subsets):
    """The files of the case under all codes."""
    return subsets.predictions.parent / "incoming"


@pytest.fixture(scope="module")
def predicted(trained, incoming, subsets):
    """The case under all codes, by fold 0 and nnUNetv2_predict."""
    return predict(incoming, subsets.predictions, UNMIRRORED)


def test_every_code_is_predicted_in_the_geometry_of_its_images(predicted, subsets):
    assert set(predicted) == {f"{subsets.cases[0]}_{code_digits(code)}.nii.gz" for code in all_codes(3)}
    assert all(segmentation.shape == subsets.truth(subsets.cases[0]).shape for segmentation in predicted.values())
    assert len({segmentation.tobytes() for segmentation in predicted.values()}) > 1
    assert subsets.dice().shape == (7, 1)


def test_without_worker_processes_the_prediction_is_the_same(trained, incoming, predicted, tmp_path):
    assert_same(predict(incoming, tmp_path / "out", UNMIRRORED, workers=("-npp", "0", "-nps", "0")), predicted)


def test_prediction_from_the_model_folder_is_the_same(trained, incoming, predicted, tmp_path):
    where = ("-i", str(incoming), "-o", str(tmp_path))
    model = ("-m", str(trained.model_folder()), "-f", "0", "-device", "cpu")
    command("nnUNetv2_predict_from_modelfolder", *where, *model, *SERIAL, UNMIRRORED)
    assert_same(segmentations(tmp_path), predicted)


def test_the_predictor_gives_the_same_from_arrays_voxel_by_voxel(trained, subsets, predicted):
    model = predictor(trained, (0,))
    for code in all_codes(3):
        segmentation = model.predict_single_npy_array(*image_of(subsets, code))
        assert np.array_equal(segmentation, predicted[f"{subsets.cases[0]}_{code_digits(code)}.nii.gz"])


@pytest.mark.usefixtures("own_workers")
def test_the_predictor_gives_the_same_from_a_list_of_arrays_in_spawned_workers(trained, subsets, predicted):
    codes = [(True, False, False), (False, True, True)]
    images, properties = zip(*[image_of(subsets, code) for code in codes], strict=True)
    results = predictor(trained, (0,)).predict_from_list_of_npy_arrays(
        list(images), None, list(properties), None, num_processes=2, num_processes_segmentation_export=1
    )
    for code, segmentation in zip(codes, results, strict=True):
        assert np.array_equal(segmentation, predicted[f"{subsets.cases[0]}_{code_digits(code)}.nii.gz"])


def test_an_ensemble_of_folds_is_the_mean_of_both(trained, incoming, subsets, tmp_path):
    ensemble = predictor(trained, (0, 1), mirroring=True)
    preprocessor = ensemble.configuration_manager.preprocessor_class(verbose=False)
    managers = (ensemble.plans_manager, ensemble.configuration_manager, ensemble.dataset_json)
    image, properties = image_of(subsets, (True, False, True))
    data = torch.from_numpy(preprocessor.run_case_npy(image, None, properties, *managers)[0])
    both = ensemble.list_of_parameters
    assert any((both[0][name] != both[1][name]).any() for name in both[0])

    together = ensemble.predict_logits_from_preprocessed_data(data)
    single = []
    for parameters in both:
        ensemble.list_of_parameters = [parameters]
        single.append(ensemble.predict_logits_from_preprocessed_data(data))
    assert (single[0] - single[1]).abs().max() > 1e-2
    assert torch.equal(together, (single[0] + single[1]) / 2)

    codes = [(True, False, True), (False, True, False)]
    (tmp_path / "in").mkdir()
    for code in codes:
        for file in incoming.glob(f"*_{code_digits(code)}_*"):
            shutil.copy(file, tmp_path / "in")
    by_command = predict(tmp_path / "in", tmp_path / "out", folds=("0", "1"))
    for code in codes:
        ensemble.list_of_parameters = both
        segmentation = ensemble.predict_single_npy_array(*image_of(subsets, code))
        assert np.array_equal(segmentation, by_command[f"{subsets.cases[0]}_{code_digits(code)}.nii.gz"])


def test_the_training_log_shows_the_parts_of_the_loss_and_the_dice_of_each_code(trained):
    logs = (trained.model_folder() / "fold_0").glob("training_log*.txt")  # every trainer that is made begins one
    text = "".join(log.read_text() for log in logs)
    assert len(re.findall(r"L_seg full \S+, alpha L_reg \S+, L_seg dropped \S+, w beta L_sd \S+", text)) == 2
    for name in ("T1w", "T2w", "FLAIR", r"T1w\+T2w", r"T1w\+FLAIR", r"T2w\+FLAIR", r"T1w\+T2w\+FLAIR"):
        assert len(re.findall(rf"Pseudo dice {name}: \[", text)) == 2
    assert "Mean Validation Dice" in text


@pytest.mark.usefixtures("preloaded_commands")
def test_validation_alone_repeats_the_final_validation(trained):
    folder = trained.model_folder() / "fold_0" / "validation"
    before = {file.name: np.load(file)["probabilities"] for file in folder.glob("*.npz")}
    shutil.rmtree(folder)
    trained.train(more=("--val", "--npz"))
    after = {file.name: np.load(file)["probabilities"] for file in folder.glob("*.npz")}
    assert before and before.keys() == after.keys() and (folder / "summary.json").exists()
    for case, probabilities in before.items():
        # two processes need not add up in one order, and nnU-Net keeps logits in half precision
        np.testing.assert_allclose(after[case], probabilities, rtol=0, atol=2e-3, err_msg=case)


@pytest.mark.usefixtures("preloaded_commands")
@pytest.mark.parametrize("workers", [SERIAL, ("-npp", "0", "-nps", "0")])
def test_a_bad_case_stops_the_command_with_its_name_and_leaves_no_segmentation(trained, copied_case, tmp_path, workers):
    stranger = shutil.copy(copied_case[0], str(copied_case[0]).replace("_0000", "_0007"))
    model = ("-d", "901", "-c", "3d_tiny", "-tr", "nnUNetTrainerMoESD", "-f", "0", "-device", "cpu")
    where = ("-i", str(copied_case[0].parent), "-o", str(tmp_path / "out"))
    with pytest.raises(CommandError, match=facts("nnUNetv2_predict", "log")):
        trained.workspace.run("nnUNetv2_predict", *model, *where, *workers)
    assert f"{stranger} names no channel of this dataset" in trained.last_log()
    assert not list((tmp_path / "out").glob("*.nii.gz"))


def test_a_model_that_needs_all_modalities_is_refused_by_the_predictor(trained, tmp_path):
    folder = shutil.copytree(trained.model_folder(), tmp_path / "model")
    file = folder / "fold_0" / "checkpoint_final.pth"
    checkpoint = torch.load(file, weights_only=False)
    stock = MissingModalityPredictor(device=CPU)
    checkpoint["trainer_name"] = "nnUNetTrainer"
    checkpoint["network_weights"] = stock_weights(folder)
    torch.save(checkpoint, file)
    with pytest.raises(ModelError, match=facts("nnUNetTrainer", "PlainConvUNet", "all its modalities")):
        stock.initialize_from_trained_model_folder(str(folder), (0,))


def stock_weights(folder):
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    plans = PlansManager(str(folder / "plans.json"))
    return nnUNetTrainer.build_network_architecture(plans, plans.get_configuration("3d_tiny"), 3, 2).state_dict()


def test_learning_curves_are_the_same_from_data_and_from_the_log_alone(trained, tmp_path):
    fold = trained.model_folder() / "fold_0"
    for log in fold.glob("training_log*.txt"):
        shutil.copy2(log, tmp_path)
    from_log, from_data = read_training_logs(tmp_path), read_training_logs(fold)
    assert list(from_data) == list(from_log) == [0, 1]
    for number, epoch in from_data.items():
        assert epoch.train_loss == from_log[number].train_loss is not None
        assert str(epoch.dice) == str(from_log[number].dice) and len(epoch.dice) == 7
        assert epoch.gate_entropy == from_log[number].gate_entropy and epoch.gate_entropy
        assert list(epoch.loss_parts) == ["L_seg full", "alpha L_reg", "L_seg dropped", "w beta L_sd"]
