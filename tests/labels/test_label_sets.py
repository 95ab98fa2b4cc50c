"""What nobody annotated is neither trained as background nor predicted."""

import copy
import csv
import json
import shutil
from functools import partial

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.paths import nnUNet_results
from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss, DC_and_CE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss

from facts import facts
from made_batches import batch_for
from made_networks import planned
from nnunet_in_process import CPU, command, train
from nnunet_moe.architectures.modality_network import ModalityNetwork
from nnunet_moe.architectures.shared_encoder_network import SharedEncoderNetwork
from nnunet_moe.cli import main
from nnunet_moe.commands.demo.small_configuration import add_small_configuration
from nnunet_moe.commands.plan_and_preprocess.raw_dataset import read_raw_dataset
from nnunet_moe.errors import ModalityError, SettingsError
from nnunet_moe.labels.label_sets import OUTSIDE, LabelSets, restricted
from nnunet_moe.losses.label_sets import LabelSetLoss
from nnunet_moe.runtime.environment import trainers_known
from nnunet_moe.runtime.files import nnunet_folder
from nnunet_moe.settings.lckd import LCKDSettings
from nnunet_moe.settings.moesd import MoESDSettings
from nnunet_moe.trainers.case_content import CaseContent
from nnunet_moe.trainers.dedicated import nnUNetTrainerDedicated
from nnunet_moe.trainers.lckd import nnUNetTrainerLCKD
from nnunet_moe.trainers.moesd import nnUNetTrainerModalityDropout, nnUNetTrainerMoESD
from two_image_types import CHANNELS, phantom

ABDOMEN = {
    "channel_names": {"0": "CT", "1": "MRI", "2": "CE-MRI"},
    "labels": {"background": 0, "tumour": 3, "liver": 1, "spleen": 2},
    "label_sets": {"CT": ["liver", "spleen"], "CE-MRI": ["tumour", "liver"]},
    "file_ending": ".nii.gz",
}
REGIONS = {
    **ABDOMEN,
    "labels": {"background": 0, "body": [1, 2, 3], "spleen": 2, "ignore": 4},
    "regions_class_order": [1, 2],
    "label_sets": {"CT": ["body"]},
}


@pytest.fixture(autouse=True)
def single_precision(monkeypatch):
    monkeypatch.setenv("nnunet_moe_bf16", "0")


def test_label_sets_are_of_nnunets_outputs():
    sets = LabelSets.of(ABDOMEN)
    assert sets is not None and sets.by_modality.int().tolist() == [[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 0, 1]]
    assert LabelSets.of(REGIONS).by_modality.int().tolist() == [[1, 0], [1, 1], [1, 1]]
    without = {key: value for key, value in ABDOMEN.items() if key != "label_sets"}
    assert LabelSets.of(without) is None
    of_a_case = LabelSets.of({**without, "label_sets_of_cases": {"c": ["spleen"]}})
    assert of_a_case.by_modality.all() and of_a_case.by_case["c"].int().tolist() == [1, 0, 1, 0]


def test_a_case_has_the_sets_of_all_its_modalities_or_its_own():
    sets = LabelSets.of({**ABDOMEN, "label_sets_of_cases": {"own": ["spleen"]}})
    available = torch.tensor([[1, 0, 0], [0, 0, 1], [1, 0, 1], [0, 1, 0], [1, 0, 1]]).bool()
    found = sets.of_items(available, ["a", "b", "c", "d", "own"]).int().tolist()
    assert found == [[1, 1, 1, 0], [1, 1, 0, 1], [1, 1, 1, 1], [1, 1, 1, 1], [1, 0, 1, 0]]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"label_sets": {"PET": ["liver"]}}, ("'PET'", "CT, MRI, CE-MRI")),
        (
            {"label_sets": {"CT": ["kidney"]}},
            ("['kidney'] for CT", "at least one of liver, spleen, tumour"),
        ),
        ({"label_sets": {"CT": []}}, ("[] for CT",)),
        ({"label_sets": {"CT": ["background"]}}, ("['background'] for CT",)),
        ({"label_sets": {"CT": [""]}}, ("[''] for CT",)),
        ({"label_sets": {"CT": "liver"}}, ("'liver' for CT",)),
        ({"label_sets": ["liver"]}, ("'label_sets'", "dataset.json", "['liver']", "object")),
        ({"label_sets_of_cases": {"case": [1]}}, ("'label_sets_of_cases' in dataset.json", "[1] for case")),
    ],
)
def test_mistakes_in_dataset_json_are_errors_that_say_what_is_allowed(change, said):
    with pytest.raises(ModalityError, match=facts(*said)):
        LabelSets.of({**ABDOMEN, **change})


@pytest.mark.parametrize("key", ["label_set", "labels_sets", "label_sets_of_case", "Label_Sets"])
def test_a_misspelt_key_is_an_error(key):
    """Else what nobody annotated would be trained as background, without a word."""
    without = {name: value for name, value in ABDOMEN.items() if name != "label_sets"}
    with pytest.raises(SettingsError, match=facts("has the key", f"'{key}'")):
        LabelSets.of({**without, key: {"CT": ["liver"]}})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_label_outside_the_set_never_wins_and_others_stay_as_they_are(dtype):
    logits = (15 * torch.randn(2, 4, 50)).to(dtype)
    sets = torch.tensor([[1, 1, 0, 0], [1, 0, 1, 1]]).bool()
    found = restricted(logits, sets)
    assert sets[torch.arange(2)[:, None], found.argmax(dim=1)].all()
    assert torch.equal(found[sets], logits[sets])
    assert not found.float().softmax(dim=1).half()[~sets].any() and not found.float().sigmoid().half()[~sets].any()


def segmentation_loss(kind: str, *, batch_dice: bool, ignore: int | None):
    """As nnU-Net's trainer builds it for labels or regions, over two resolutions."""
    dice = {"batch_dice": batch_dice, "smooth": 1e-5, "ddp": False}
    if kind == "labels":
        options = {"ignore_label": ignore, "dice_class": MemoryEfficientSoftDiceLoss}
        loss = DC_and_CE_loss({**dice, "do_bg": False}, {}, **options)
    else:
        loss = DC_and_BCE_loss({}, {**dice, "do_bg": True}, use_ignore_label=ignore is not None)
    return DeepSupervisionWrapper(loss, (0.7, 0.3))


SETS = torch.tensor([[1, 1, 0, 0, 1], [1, 0, 1, 1, 0], [1, 1, 0, 0, 1], [1, 1, 1, 1, 1]]).bool()


def drawn(kind: str, ignore: int | None):
    """Logits of five outputs and a target in two resolutions, in which items hold labels of their sets alone."""
    generator = torch.Generator().manual_seed(0)
    logits = [torch.randn(4, 5, size, size, generator=generator, dtype=torch.float64) for size in (12, 6)]
    numbers = torch.rand(4, 5, 12, 12, generator=generator)
    if kind == "labels":
        target = numbers.where(SETS[..., None, None], -1).argmax(dim=1, keepdim=True).to(torch.int16)
        if ignore is not None:
            target[:, :, :3] = ignore
    else:
        target = (numbers > 0.5) & SETS[..., None, None]
        if ignore is not None:
            target = torch.cat((target, torch.zeros(4, 1, 12, 12, dtype=torch.bool)), dim=1)
            target[:, 5, :3] = True
    return [level.requires_grad_() for level in logits], [target, target[:, :, ::2, ::2]]


def alone(kind, loss, logits, target, items, ignore):
    """The loss of some items of one set, written out: of the set's logits, with the set's own numbers."""
    chosen = SETS[items[0]].nonzero().flatten().tolist()
    targets = []
    for level in target:
        if kind == "labels":
            own = level[items].clone()
            for number, label in enumerate(chosen):
                own[level[items] == label] = number
        else:
            own = level[items][:, [*chosen, 5] if ignore is not None else chosen]
        targets.append(own)
    return loss([level[items][:, chosen] for level in logits], targets)


@pytest.mark.parametrize("kind", ["labels", "regions"])
@pytest.mark.parametrize("ignore", [None, 5])
@pytest.mark.parametrize("batch_dice", [False, True])
def test_a_mixed_batch_has_the_mean_loss_of_its_items_alone(kind, ignore, batch_dice):
    loss = segmentation_loss(kind, batch_dice=batch_dice, ignore=ignore)
    of_sets = LabelSetLoss(loss)
    of_sets.use(SETS)
    logits, target = drawn(kind, ignore)
    found = of_sets(logits, target)
    # with a Dice over the batch, items of one set stay together
    together = [[0, 2], [1], [3]] if batch_dice else [[0], [1], [2], [3]]
    expected = [len(items) / 4 * alone(kind, loss, logits, target, items, ignore) for items in together]
    torch.testing.assert_close(found, sum(expected), rtol=0, atol=1e-6)
    found.backward()
    for level in logits:
        assert not level.grad[~SETS].any() and level.grad[SETS].abs().amax(dim=(1, 2)).all()


def test_a_batch_in_which_all_labels_are_annotated_has_nnunets_own_loss():
    loss = segmentation_loss("labels", batch_dice=True, ignore=None)
    logits, target = drawn("labels", None)
    of_sets = LabelSetLoss(loss)
    of_sets.use(torch.ones(4, 5).bool())
    torch.testing.assert_close(of_sets(logits, target), loss(logits, target), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("kind", "settings_of"),
    [(ModalityNetwork, partial(MoESDSettings, code_noise_sd=0.0)), (SharedEncoderNetwork, LCKDSettings)],
)
@pytest.mark.parametrize("label_sets", [None, ((1, 0), (0, 1), (1, 1))])
def test_networks_give_labels_of_the_available_modalities_alone_but_in_training(kind, settings_of, label_sets):
    """`planned` has two outputs; regions need no background."""
    channels = kind.encoder_channels(3, 3)
    network, free = (
        kind(planned(channels=channels), num_modalities=3, settings=each).double()
        for each in (settings_of(label_sets=label_sets), settings_of(label_sets=label_sets, predict_all_labels=True))
    )
    free.load_state_dict(network.state_dict())
    x = torch.randn(3, 3, 8, 8, 8, dtype=torch.float64)
    x[0, 1:] = x[1, ::2] = x[2, :1] = torch.nan
    assert torch.equal(network.train()(x), free.train()(x))
    found, expected = network.eval()(x), free.eval()(x)
    inside = torch.tensor([[1, 0], [0, 1], [1, 1]] if label_sets else [[1, 1]] * 3).bool()
    assert torch.equal(found[inside], expected[inside]) and (found[~inside] == OUTSIDE).all()


TWO_KINDS = {
    "labels": {"background": 0, "lesion": 1, "other": 2},
    "label_sets": {"m0": ["lesion"], "m1": ["other"], "m2": ["lesion", "other"]},
}


def two_image_types(trainer, *, lesion: bool):
    """A batch of two cases, one without its first channel; what both are annotated with is one label alone."""
    batch = batch_for(trainer, dtype=torch.float32)
    batch["data"][:, 1 if lesion else 0] = torch.nan
    batch["data"][:, 2] = torch.nan
    batch["data"][1] = batch["data"][0] + 1
    value = 1 if lesion else 2
    return {
        **batch,
        "target": [(level == value).to(level.dtype) * value for level in batch["target"]],
        "keys": ["a", "b"],
    }


@pytest.mark.parametrize("kind", [nnUNetTrainerMoESD, nnUNetTrainerModalityDropout, nnUNetTrainerLCKD])
@pytest.mark.parametrize("lesion", [False, True])
def test_a_step_of_every_trainer_leaves_labels_alone_that_nobody_annotated(make_trainer, kind, lesion):
    trainer = make_trainer(kind, labels=TWO_KINDS)
    other = 2 if lesion else 1
    trainer.train_step(two_image_types(trainer, lesion=lesion))
    heads = [(name, p) for name, p in trainer.network.named_parameters() if ".seg_layers." in name]
    trained = [p.grad for _, p in heads if p.grad is not None and p.grad.any()]
    assert trained and not any(grad[other].any() for grad in trained)
    assert all(grad[3 - other].any() and grad[0].any() for grad in trained)


def test_a_dedicated_trainer_too(make_trainer):
    trainer = make_trainer(nnUNetTrainerDedicated, labels=TWO_KINDS, modality_code=[1, 0, 0])
    trainer.train_step(two_image_types(trainer, lesion=True))
    bias = trainer.network.decoder.seg_layers[-1].bias.grad
    assert bias[0] and bias[1] and not bias[2]


def test_validation_counts_what_the_network_gives_under_the_code(make_trainer):
    trainer = make_trainer(nnUNetTrainerModalityDropout, labels=TWO_KINDS)
    trainer.network.eval()
    trainer.on_validation_epoch_start()
    batch = {**batch_for(trainer, dtype=torch.float32), "keys": ["a", "b"]}
    batch["data"] = torch.randn_like(batch["data"])
    for code in trainer.validation_codes:
        found = trainer.validation_step(copy.deepcopy(batch))
        assert np.isfinite(found["loss"]) and found["loss"] < 5
        may_appear = [code[0] or code[2], code[1] or code[2]]
        assert ((found["tp_hard"] + found["fp_hard"]) * ~np.array(may_appear) == 0).all()
        assert (found["fn_hard"] > 0)[~np.array(may_appear)].all()


def test_the_plans_of_a_model_tell_its_network_the_label_sets(make_trainer, tmp_path):
    trainer = make_trainer(labels=TWO_KINDS)
    trainer.save_checkpoint(str(tmp_path / "checkpoint.pth"))
    plans = torch.load(tmp_path / "checkpoint.pth", weights_only=True)["init_args"]["plans"]
    settings = plans["configurations"]["3d_tiny"]["nnunet_moe"]
    assert settings["label_sets"] == ((1, 1, 0), (1, 0, 1), (1, 1, 1)) and settings["num_epochs"] == 2
    assert trainer.network.label_sets.int().tolist() == [[1, 1, 0], [1, 0, 1], [1, 1, 1]]


@pytest.mark.parametrize("labels", [{}, TWO_KINDS])
def test_label_sets_that_are_only_in_the_plans_are_an_error(make_trainer, labels):
    with pytest.raises(SettingsError, match=facts("'label_sets'", "'nnunet_moe'", "plans", "only into dataset.json")):
        make_trainer(labels={"labels": TWO_KINDS["labels"], **labels}, label_sets=[[1, 1, 0], [1, 1, 1], [1, 1, 1]])


@pytest.fixture(scope="module")
def two_kinds_dataset(two_image_types, dataset, tmp_path_factory):
    """Cases of CT and of MR, each annotated with one of two labels, and a model that was trained on them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("nnunet_moe_bf16", "0")
        patch.setenv("nnUNet_results", str(tmp_path_factory.mktemp("results")))
        length = {"num_epochs": 12, "num_iterations_per_epoch": 10, "num_val_iterations_per_epoch": 2}
        plans = dataset.workspace.preprocessed / two_image_types.name / "nnUNetPlans.json"
        add_small_configuration(plans, "tiny", patch_size=[16] * 3, features_per_stage=[8, 12, 16], settings=length)
        train(904, "tiny", "nnUNetTrainerModalityDropout")
        yield two_image_types


MODEL = ("-d", "904", "-c", "tiny", "-tr", "nnUNetTrainerModalityDropout", "-f", "0")


def test_stock_nnunet_predicts_in_each_kind_what_was_annotated_there(two_kinds_dataset, tmp_path):
    options = ("-device", "cpu", "-npp", 0, "-nps", 0, "--disable_tta")
    command("nnUNetv2_predict", *MODEL, "-i", two_kinds_dataset / "imagesTs", "-o", tmp_path / "out", *options)
    for kind, channel in CHANNELS.items():
        predicted = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out" / f"{kind}4.nii.gz")))
        assert set(np.unique(predicted)) == {0, channel + 1}
        true = phantom(4, kind)[1] > 0
        assert 2 * (true & (predicted > 0)).sum() / (true.sum() + (predicted > 0).sum()) > 0.7


def test_an_exported_model_gives_the_same_and_its_card_says_what_it_never_gives(two_kinds_dataset, tmp_path):
    options = ("-device", "cpu", "-npp", 0, "-nps", 0, "--disable_tta", "--save_probabilities")
    command("nnUNetv2_predict", *MODEL, "-i", two_kinds_dataset / "imagesTs", "-o", tmp_path / "out", *options)
    for kind, name in (("ct", "CT"), ("mr", "MR")):
        main(["export", *MODEL, "-m", name, "-o", str(tmp_path / kind)])
        files = [
            str(shutil.copy(next((two_kinds_dataset / "imagesTs").glob(f"{kind}4_*")), tmp_path / "x_0000.nii.gz"))
        ]
        stock = nnUNetPredictor(use_mirroring=False, device=CPU, allow_tqdm=False)
        stock.initialize_from_trained_model_folder(str(tmp_path / kind), (0,))
        stock.predict_from_files_sequential([files], [str(tmp_path / kind / "result")], True, True)
        ours, theirs = (
            sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / file)))
            for file in (f"out/{kind}4.nii.gz", f"{kind}/result.nii.gz")
        )
        assert np.array_equal(ours, theirs) and ours.any()
        never = "second" if kind == "ct" else "first"
        assert f"modalities it never predicts {never}," in (tmp_path / kind / "README.md").read_text()


def test_the_log_tells_what_was_annotated(two_kinds_dataset):
    (file,) = nnunet_folder(nnUNet_results).glob("*904*/*/fold_0/training_log*")
    log = file.read_text()
    assert "Annotated in CT: first" in log and "Annotated in MR: second" in log
    assert "WARNING: each training case has only one modality" in log
    assert "Pseudo dice CT: [" in log and "Pseudo dice MR: [" in log


def test_predict_tells_no_volume_of_what_cannot_appear(two_kinds_dataset, tmp_path):
    options = ["-device", "cpu", "--disable_tta", "-npp", "0", "-nps", "0", "-o", str(tmp_path / "out")]
    main(["predict", *MODEL, *options, "-i", str(two_kinds_dataset / "imagesTs")])
    rows = {row["case"]: row for row in csv.DictReader((tmp_path / "out" / "manifest.csv").open())}
    for case, appears, never in (("ct4", "first", "second"), ("mr4", "second", "first")):
        assert float(rows[case][f"volume_mm3_{appears}"]) > 0 and rows[case][f"volume_mm3_{never}"] == ""
    main(["predict", *MODEL, *options, "-i", str(two_kinds_dataset / "imagesTs"), "--continue_prediction"])
    assert {row["case"]: row for row in csv.DictReader((tmp_path / "out" / "manifest.csv").open())} == rows


def test_evaluate_scores_what_was_annotated_in_a_case(two_kinds_dataset, tmp_path):
    images, labels = (str(two_kinds_dataset / folder) for folder in ("imagesTs", "labelsTs"))
    main(
        [
            "evaluate",
            *MODEL,
            "-device",
            "cpu",
            "-i",
            images,
            "-l",
            labels,
            "-o",
            str(tmp_path / "scores"),
            "--disable_tta",
        ]
    )
    rows = csv.DictReader((tmp_path / "scores" / "results.csv").open())
    scored = {(row["case"], row["label"]): row["dsc"] for row in rows}
    assert float(scored["ct4", "first"]) > 0.7 and float(scored["mr4", "second"]) > 0.7
    assert scored["ct4", "second"] == scored["mr4", "first"] == ""


def test_all_labels_can_be_allowed_in_the_models_plans(two_kinds_dataset, tmp_path):
    """The logits are those of the same network, with what nobody annotated in CT among them."""
    (folder,) = nnunet_folder(nnUNet_results).glob("*904*/*")
    shutil.copytree(folder, tmp_path / "model")
    file = tmp_path / "model" / "plans.json"
    plans = json.loads(file.read_text())
    plans["configurations"]["tiny"]["nnunet_moe"]["predict_all_labels"] = True
    file.write_text(json.dumps(plans))
    x, found = torch.from_numpy(phantom(4, "ct")[0])[None], []
    for model in (folder, tmp_path / "model"):
        predictor = nnUNetPredictor(use_mirroring=False, device=CPU, allow_tqdm=False)
        with trainers_known():
            predictor.initialize_from_trained_model_folder(str(model), (0,))
        found.append(predictor.predict_logits_from_preprocessed_data(torch.cat((x, torch.full_like(x, torch.nan)))))
    restricted_to_ct, free = found
    assert torch.equal(restricted_to_ct[:2], free[:2])
    assert (restricted_to_ct[2] < OUTSIDE + 1).all() and free[2].std() > 0.1


def test_what_is_scored_depends_on_the_case_alone(two_kinds_dataset, tmp_path):
    """A case with both kinds was annotated with the labels of both: without MR the second cannot be found."""
    images, labels = tmp_path / "images", tmp_path / "labels"
    for folder in (images, labels):
        folder.mkdir()
    for number, kind in enumerate(("ct", "mr")):
        shutil.copy(two_kinds_dataset / "imagesTs" / f"{kind}4_{number:04d}.nii.gz", images / f"x_{number:04d}.nii.gz")
    both = sum(sitk.ReadImage(str(two_kinds_dataset / "labelsTs" / f"{kind}4.nii.gz")) for kind in ("ct", "mr"))
    sitk.WriteImage(both, str(labels / "x.nii.gz"))
    options = ("-device", "cpu", "-i", str(images), "-l", str(labels), "-o", str(tmp_path / "scores"), "--disable_tta")
    main(["evaluate", *MODEL, *options])
    rows = csv.DictReader((tmp_path / "scores" / "results.csv").open())
    scored = {(row["code"], row["label"]): float(row["dsc"]) for row in rows}
    assert scored["CT", "first"] > 0.7 and scored["MR", "second"] > 0.7
    assert scored["CT", "second"] == scored["MR", "first"] == 0
    assert scored["CT+MR", "first"] > 0 and scored["CT+MR", "second"] > 0


def test_voxels_that_nobody_annotated_are_an_error_that_names_the_case(
    two_kinds_dataset, dataset, monkeypatch, tmp_path
):
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    file = dataset.workspace.preprocessed / two_kinds_dataset.name / "dataset.json"
    before = file.read_text()
    try:
        file.write_text(json.dumps({**json.loads(before), "label_sets_of_cases": {"ct2": ["second"]}}))
        said = facts("case ct2", "voxels of first", "has CT", "dataset.json allows only second")
        with pytest.raises(ModalityError, match=said):
            train(904, "tiny", "nnUNetTrainerModalityDropout", fold="all")
    finally:
        file.write_text(before)


def test_a_name_that_no_case_has_is_an_error_in_training(two_kinds_dataset, dataset, monkeypatch, tmp_path):
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    file = dataset.workspace.preprocessed / two_kinds_dataset.name / "dataset.json"
    before = file.read_text()
    try:
        file.write_text(json.dumps({**json.loads(before), "label_sets_of_cases": {"ct9": ["first"]}}))
        with pytest.raises(ModalityError, match=facts("ct9", "no training case")):
            train(904, "tiny", "nnUNetTrainerLCKD")
    finally:
        file.write_text(before)


NESTED = {
    "labels": {"background": 0, "whole": [1, 2], "core": [2], "other": [3, 4]},
    "regions_class_order": [1, 2, 3],
    "label_sets": {"m0": ["core"], "m1": ["whole"]},
}


def test_a_region_may_show_that_shares_labels_with_one_that_was_annotated(make_trainer, monkeypatch):
    trainer = make_trainer(labels=NESTED)
    strange = facts("voxels of other", "has m0", "dataset.json allows only core")
    for code, labels, message in (
        ((True, False, False), {0, 1}, None),  # voxels of 2: core, and whole with it
        ((False, True, False), {0, 1}, None),
        ((True, False, False), {2}, strange),
        ((True, True, True), {0, 1, 2}, None),
    ):
        monkeypatch.setattr(
            trainer, "_content", lambda _, code=code, labels=labels: CaseContent(code, frozenset(labels))
        )
        if message is None:
            trainer._require_annotated(["phantomTr000"])
        else:
            with pytest.raises(ModalityError, match=message):
                trainer._require_annotated(["phantomTr000"])


def test_settings_that_an_inheriting_configuration_has_stay_with_the_label_sets(make_trainer):
    """The plans' entry of a configuration replaces the whole entry that it inherits."""
    trainer = make_trainer(labels=TWO_KINDS, num_experts=3)
    plans = json.loads(json.dumps(trainer.plans_manager.plans))
    plans["configurations"]["heir"] = {"inherits_from": "3d_tiny", "batch_size": 2}
    del plans["configurations"]["3d_tiny"]["nnunet_moe"]["label_sets"]
    plans["continue_training"] = False
    heir = type(trainer)(plans, "heir", 0, trainer.dataset_json, CPU)
    settings = heir.configuration_manager.configuration["nnunet_moe"]
    assert settings["num_experts"] == 3 and settings["label_sets"] == ((1, 1, 0), (1, 0, 1), (1, 1, 1))
    again = json.loads(json.dumps({**heir.plans_manager.plans, "continue_training": False}))
    assert type(trainer)(again, "heir", 0, trainer.dataset_json, CPU).settings.num_experts == 3  # the same sets: fine


def test_planning_names_a_case_that_there_is_not(two_kinds_dataset, dataset):
    raw = dataset.workspace.raw / "Dataset905_Wrong"
    shutil.copytree(two_kinds_dataset, raw)
    description = json.loads((raw / "dataset.json").read_text())
    (raw / "dataset.json").write_text(json.dumps({**description, "label_sets_of_cases": {"ct9": ["first"]}}))
    with pytest.raises(ModalityError, match=facts("'label_sets_of_cases'", "dataset.json", "ct9", "no training case")):
        read_raw_dataset(raw.name)
    (raw / "dataset.json").write_text(json.dumps({**description, "label_sets": {"PET": ["first"]}}))
    with pytest.raises(ModalityError, match=facts("CT, MR")):
        read_raw_dataset(raw.name)
    shutil.rmtree(raw)
