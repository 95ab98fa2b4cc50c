"""Swin U-Net and M4oE by nnU-Net's own commands, on cases of two image types with a label each."""

import json
import re
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.paths import nnUNet_results

from facts import facts
from incomplete import write
from nnunet_in_process import command, make_trainer, train
from nnunet_moe.architectures.moe_mlp import gates_kept
from nnunet_moe.cli import main
from nnunet_moe.commands.demo.small_configuration import add_small_configuration
from nnunet_moe.errors import ModalityError, ModelError
from nnunet_moe.prediction import MissingModalityPredictor
from nnunet_moe.runtime import precision
from nnunet_moe.runtime.files import nnunet_folder
from nnunet_moe.trainers.m4oe import nnUNetTrainerM4oE
from nnunet_moe.trainers.swin_unet import nnUNetTrainerSwinUNet
from two_image_types import CHANNELS, phantom

M4OE = "nnUNetTrainerM4oE"
ABLATIONS = ("Encoder", "Decoder", "NoGate", "ChannelGate")
LENGTH = {"num_epochs": 2, "num_iterations_per_epoch": 3, "num_val_iterations_per_epoch": 2}
NAME = "Dataset904_TwoKinds"


@pytest.fixture(scope="module")
def raw(two_image_types, dataset, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("nnunet_moe_bf16", "0")
        patch.setenv("nnUNet_results", str(tmp_path_factory.mktemp("results")))
        plans = dataset.workspace.preprocessed / NAME / "nnUNetPlans.json"
        # no multiple of 32; the features are those of a U-Net that nobody builds
        small = {"patch_size": [20, 18], "features_per_stage": [4, 6], "batch_size": 6}
        add_small_configuration(plans, "flat", **small, settings={**LENGTH, "width": 12})
        yield two_image_types


@pytest.fixture(scope="module")
def trained_m4oe(raw):
    return train(904, "flat", M4OE)


def predict(trainer, images: Path, out: Path, *more) -> dict[str, np.ndarray]:
    options = ("-f", 0, "-device", "cpu", "-npp", 0, "-nps", 0, "--disable_tta")
    command("nnUNetv2_predict", "-d", 904, "-c", "flat", "-tr", trainer, "-i", images, "-o", out, *options, *more)
    return {file.name[:-7]: sitk.GetArrayFromImage(sitk.ReadImage(str(file))) for file in out.glob("*.nii.gz")}


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_each_ablation_is_what_its_name_says(raw, ablation):
    made = make_trainer(904, "flat", M4OE + ablation)
    made.initialize()
    places = {
        name.partition(".")[0] for name, module in made.network.named_modules() if module in made.network.mixtures
    }
    assert places == {"Encoder": {"encoder"}, "Decoder": {"decoder"}}.get(ablation, {"encoder", "decoder"})
    routing = {"NoGate": "image_type", "ChannelGate": "channel_gate"}.get(ablation, "gate")
    assert {mixture.routing for mixture in made.network.mixtures} == {routing}
    assert {mixture.num_experts for mixture in made.network.mixtures} == {2}


@pytest.mark.parametrize("trainer", ["nnUNetTrainerSwinUNet", M4OE, M4OE + "NoGate"])
def test_they_train_and_predict_by_stock_commands(raw, tmp_path, trainer):
    made = train(904, "flat", trainer)
    log = Path(made.log_file).read_text()
    assert len(re.findall(r"Pseudo dice (?:CT|MR): ", log)) >= 2 and len(re.findall(r"train_loss -?\d", log)) == 2
    predicted = predict(trainer, raw / "imagesTs", tmp_path / "out")
    for image_type, channel in CHANNELS.items():
        assert set(np.unique(predicted[f"{image_type}4"])) <= {0, channel + 1}


def test_biases_norms_and_positions_do_not_decay(trained_m4oe):
    made = trained_m4oe
    names = {id(parameter): name for name, parameter in made.network.named_parameters()}
    decaying, others = (
        {names.pop(id(parameter)).rpartition(".")[2] for parameter in group["params"]}
        for group in made.optimizer.param_groups
    )
    assert decaying == {"weight", "weight_in", "weight_out"} and not names
    assert others == {"weight", "bias", "bias_in", "bias_out", "relative_position_bias_table"}
    assert [group["weight_decay"] for group in made.optimizer.param_groups] == [0.05, 0.0]
    assert all(parameter.ndim > 1 for parameter in made.optimizer.param_groups[0]["params"])
    one_dimensional = [parameter.ndim == 1 for parameter in made.optimizer.param_groups[1]["params"]]
    assert sum(one_dimensional) == sum(parameter.ndim == 1 for parameter in made.network.parameters())


def test_the_log_tells_how_the_gates_weigh_the_experts_for_each_kind(trained_m4oe):
    log = Path(trained_m4oe.log_file).read_text()
    told = re.findall(r"Mean gate of (\w+), by expert: (\S+), (\S+)\s", log)
    assert [image_type for image_type, *_ in told] == ["CT", "MR"] * LENGTH["num_epochs"]
    assert all(abs(float(first) + float(second) - 1) < 0.002 for _, first, second in told)
    network = trained_m4oe.network.eval()
    with torch.no_grad(), gates_kept(network.mixtures) as kept:
        for image_type, images in sorted(trained_m4oe._last_images.items()):
            network(images)
            weights = torch.stack([of_block[image_type] for of_block in kept]).mean(dim=0)
            assert [f"{weight:.3f}" for weight in weights.tolist()] == list(told[-2 + image_type][1:])
    network(images)
    assert len(kept[0]) == 2  # nothing more is kept then


def test_a_validation_batch_counts_for_the_kind_whose_turn_it_is(trained_m4oe):
    made = trained_m4oe
    made.network.eval()
    data = torch.full((4, 2, 20, 18), torch.nan)
    for item, image_type in enumerate((0, 1, 1, 0)):
        data[item, image_type] = torch.randn(20, 18)
    target = torch.ones(4, 1, 20, 18, dtype=torch.int16)
    target[1:3] = 2
    batch = {"data": data, "target": target, "keys": ["ct0", "mr0", "mr1", "ct1"]}
    made.on_validation_epoch_start()
    assert made._validation_step % 2 == 0
    with torch.no_grad():
        found = [made.validation_step({**batch, "target": target.clone()}) for _ in range(2)]
        for image_type, items in ((0, [0, 3]), (1, [1, 2])):
            assert found[image_type]["code"] == image_type
            predicted = made.network(data[items]).argmax(dim=1)
            # each of the two items twice, in the places of the others
            assert found[image_type]["tp_hard"].tolist()[image_type] == 2 * (predicted == image_type + 1).sum().item()
            assert found[image_type]["fn_hard"].tolist()[1 - image_type] == 0


def test_a_training_that_is_stopped_goes_on_exactly(trained_m4oe, tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_results", str(tmp_path))

    def stopped(trainer):
        if trainer.current_epoch == 1:
            raise KeyboardInterrupt
        nnUNetTrainerSwinUNet.on_epoch_start(trainer)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(nnUNetTrainerM4oE, "on_epoch_start", stopped)
        train(904, "flat", M4OE)
    resumed = train(904, "flat", M4OE, go_on=True).network.state_dict()
    for name, weights in trained_m4oe.network.state_dict().items():
        assert torch.equal(resumed[name], weights), name


@pytest.mark.usefixtures("preloaded_commands")
def test_a_fresh_process_predicts_the_same(raw, trained_m4oe, dataset, tmp_path):
    here = predict(M4OE, raw / "imagesTs", tmp_path / "here")
    (folder,) = nnunet_folder(nnUNet_results).glob(f"{NAME}/{M4OE}__*__flat")
    where = ("-i", str(raw / "imagesTs"), "-o", str(tmp_path / "there"), "-m", str(folder))
    options = ("-f", "0", "-device", "cpu", "--disable_tta", "-npp", "1", "-nps", "1")
    dataset.workspace.run("nnUNetv2_predict_from_modelfolder", *where, *options)
    for case, segmentation in here.items():
        other = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "there" / f"{case}.nii.gz")))
        assert np.array_equal(segmentation, other)


def test_a_case_of_two_kinds_is_an_error_in_prediction(raw, trained_m4oe, tmp_path):
    for channel in (0, 1):
        write(tmp_path / "in" / f"both_{channel:04d}.nii.gz", phantom(0, "ct")[0])
    with pytest.raises(ModalityError, match=facts("both_0000.nii.gz", "CT+MR", "one")):
        predict(M4OE, tmp_path / "in", tmp_path / "out")
    predictor = MissingModalityPredictor(device=torch.device("cpu"))
    (folder,) = nnunet_folder(nnUNet_results).glob(f"{NAME}/{M4OE}__*__flat")
    predictor.initialize_from_trained_model_folder(str(folder), (0,))
    with pytest.raises(ModalityError, match=facts("CT+MR")):
        image = np.arange(2 * 20 * 22 * 20, dtype=np.float32).reshape(2, 20, 22, 20)
        predictor.predict_single_npy_array(image, {"spacing": [1, 1, 1]})


def test_a_case_of_a_kind_that_there_is_not_is_an_error(raw, trained_m4oe, tmp_path):
    write(tmp_path / "in" / "pet_0002.nii.gz", phantom(0, "ct")[0])
    with pytest.raises(ModalityError, match=facts("pet_0002.nii.gz")):
        predict(M4OE, tmp_path / "in", tmp_path / "out")


def test_a_training_case_of_two_kinds_is_an_error(dataset, tmp_path, monkeypatch):
    """The tiny dataset has three modalities a case."""
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    command("nnUNetv2_preprocess", "-d", 901, "-c", "2d", "-np", 1)
    plans = dataset.plans_file
    add_small_configuration(plans, "2d_m4oe", patch_size=[32, 32], features_per_stage=[4, 6], settings={"width": 12})
    with pytest.raises(ModalityError, match=facts("has T1w+T2w+FLAIR", "nnUNetTrainerM4oE", "one image type")):
        train(901, "2d_m4oe", M4OE)


def test_three_dimensions_are_refused_before_anything_is_written(raw, tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "none"))
    with pytest.raises(ModelError, match=facts("configuration 2d")):
        make_trainer(904, "3d_fullres", M4OE)
    assert not (tmp_path / "none").exists()


def test_a_kind_is_exported_as_onnx(raw, trained_m4oe, tmp_path):
    model = ("-d", "904", "-c", "flat", "-tr", M4OE, "-f", "0")
    with pytest.MonkeyPatch.context() as patch:  # on whatever processor, the file is in single precision
        patch.setenv("nnunet_moe_bf16", "1")
        patch.setattr(precision, "_cpu_has_bfloat16_units", lambda: True)
        main(["export", *model, "-m", "MR", "--onnx", "-o", str(tmp_path / "mr")])
    session = onnxruntime.InferenceSession(str(tmp_path / "mr" / "fold_0" / "model.onnx"))
    predictor = MissingModalityPredictor(device=torch.device("cpu"))
    (folder,) = nnunet_folder(nnUNet_results).glob(f"{NAME}/{M4OE}__*__flat")
    predictor.initialize_from_trained_model_folder(str(folder), (0,))
    x = torch.randn(3, 1, 20, 18)
    (found,) = session.run(None, {"image": x.numpy()})
    with torch.inference_mode():
        expected = predictor.network.eval()(torch.cat((torch.full_like(x, torch.nan), x), dim=1))
    np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=1e-4)
    with pytest.raises(SystemExit, match=facts("-m CT+MR", "CT or MR")):
        main(["export", *model, "-m", "CT+MR", "--onnx", "-o", str(tmp_path / "both")])
    assert not (tmp_path / "both").exists()


def test_a_trained_model_is_upcycled_to_a_kind_more_and_nnunet_starts_from_it(raw, trained_m4oe, dataset, tmp_path):
    """The dataset with three image types has plans and dataset.json of its own, which is what a network is made of."""
    known, target = (dataset.workspace.preprocessed / name for name in (NAME, "Dataset908_ThreeKinds"))
    target.mkdir()
    (target / "nnUNetPlans_2d").symlink_to(known / "nnUNetPlans_2d")
    plans, description = (json.loads((known / f"{name}.json").read_text()) for name in ("nnUNetPlans", "dataset"))
    for configuration in plans["configurations"].values():
        for key in ("normalization_schemes", "use_mask_for_norm"):
            if key in configuration:
                configuration[key] = [*configuration[key], configuration[key][1]]
    plans["dataset_name"] = target.name
    names = {"0": "CT", "1": "PET", "2": "MR"}
    contents = {"nnUNetPlans": plans, "dataset": {**description, "channel_names": names}}
    for name, content in contents.items():
        (target / f"{name}.json").write_text(json.dumps(content))
    source, out = Path(trained_m4oe.output_folder) / "checkpoint_final.pth", tmp_path / "up.pth"
    options = ("-tr", M4OE, "-d", target.name, "-c", "flat", "-like", "MR", "-noise", "0")
    main(["upcycle", "-i", str(source), "-o", str(out), *options])
    made = make_trainer(target.name, "flat", M4OE, pretrained=str(out))
    before, after = trained_m4oe.network.state_dict(), made.network.state_dict()
    expert = "encoder.stages.0.0.mlp.weight_in"
    assert torch.equal(after[expert], before[expert][[0, 1, 1]])
    assert all(torch.equal(after[name], before[name]) for name in after if name.endswith("qkv.weight"))
    with pytest.raises(SystemExit, match=facts("experts for CT, MR")):
        main(["upcycle", "-i", str(source), "-o", str(tmp_path / "x.pth"), *options[:-3], "US"])


def test_evaluate_scores_each_kind(raw, trained_m4oe, tmp_path):
    model = ("-d", "904", "-c", "flat", "-tr", M4OE, "-f", "0", "-device", "cpu", "--disable_tta")
    images = ("-i", str(raw / "imagesTs"), "-l", str(raw / "labelsTs"))
    main(["evaluate", *model, *images, "-o", str(tmp_path / "scores")])
    rows = (tmp_path / "scores" / "results.csv").read_text().splitlines()[1:]
    assert {tuple(row.split(",")[2:5]) for row in rows} == {
        (f"{image_type}4", code, label)
        for image_type, code in (("ct", "CT"), ("mr", "MR"))
        for label in ("first", "second")
    }
