"""Everything that nnU-Net plans and trains, trained for a few iterations and predicted with files missing.

nnU-Net's commands run inside this process, and trainings end before the final validation, to save what starting worker
processes costs; `test_nnunet_commands` runs them whole.
"""

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.evaluation.evaluate_predictions import compute_metrics
from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.paths import nnUNet_preprocessed

from facts import facts
from incomplete import extract_fingerprint
from nnunet_in_process import CPU, command, make_trainer, train
from nnunet_moe.cli import main
from nnunet_moe.commands.package import program
from nnunet_moe.images.phantom import SIGNAL, draw_phantom
from nnunet_moe.modalities.codes import all_codes, code_digits, code_text, parse_code

MOESD, LCKD = "nnUNetTrainerMoESD", "nnUNetTrainerLCKD"
LENGTH = {"num_epochs": 1, "num_iterations_per_epoch": 2, "num_val_iterations_per_epoch": 1}


def shorten(file: Path, *configurations: str, patch_size: list[int] | None = None) -> None:
    """Few iterations, few features a stage and, by a larger patch, few windows: what else nnU-Net planned stays."""
    plans = json.loads(file.read_text())
    for configuration in map(plans["configurations"].get, configurations):
        configuration["nnunet_moe"] = LENGTH
        if patch_size is not None:
            configuration["patch_size"] = patch_size
    for configuration in plans["configurations"].values():
        if "architecture" in configuration:
            network = configuration["architecture"]["arch_kwargs"]
            network["features_per_stage"] = [4 + 2 * stage for stage in range(network["n_stages"])]
    file.write_text(json.dumps(plans))


def incoming(folder: Path, raw: Path, case: str, codes) -> Path:
    """A case under each code as a case of its own; files of absent modalities are just absent."""
    folder.mkdir()
    for code in codes:
        for channel in np.flatnonzero(code):
            name = f"{case}_{channel:04d}.nii.gz"
            shutil.copy(raw / "imagesTs" / name, folder / f"c{code_digits(code)}_{channel:04d}.nii.gz")
    return folder


def predict(dataset_id, configuration, images: Path, out: Path, *more, trainer=MOESD, plans="nnUNetPlans", fold=0):
    """Probabilities `(classes or regions, *space)` and segmentations by case."""
    model = ("-d", dataset_id, "-c", configuration, "-tr", trainer, "-p", plans, "-f", fold, "-device", "cpu")
    options = ("-npp", 0, "-nps", 0, "--disable_tta", "--save_probabilities", *more)
    command("nnUNetv2_predict", *model, "-i", images, "-o", out, *options)
    segmentations = {f.name[:-7]: sitk.GetArrayFromImage(sitk.ReadImage(str(f))) for f in out.glob("*.nii.gz")}
    return {case: (np.load(out / f"{case}.npz")["probabilities"], seg) for case, seg in segmentations.items()}


def assert_predicted(predicted, codes, shape, labels):
    """A prediction for each code, in the images' grid, finite, and not the same whatever is there."""
    assert set(predicted) == {f"c{code_digits(code)}" for code in codes}
    for probabilities, segmentation in predicted.values():
        assert np.isfinite(probabilities).all() and 0 <= probabilities.min() <= probabilities.max() <= 1
        assert segmentation.shape == shape and set(np.unique(segmentation)) <= labels
    assert len({probabilities.tobytes() for probabilities, _ in predicted.values()}) == len(codes)


def assert_evaluated_alike(predicted, raw, case, names, out, configuration, *more, plans="nnUNetPlans"):
    """`nnunet_moe evaluate` on the complete case gives the segmentations that nnU-Net gives with files missing."""
    codes = [text.removeprefix("c") for text in predicted]
    model = ("-d", int(raw.name[7:10]), "-c", configuration, "-tr", MOESD, "-p", plans, "-f", 0, "-device", "cpu")
    where = ("-i", raw / "imagesTs", "-l", raw / "labelsTs", "-o", out, "--disable_tta", "--save_predictions", *more)
    main(["evaluate", *map(str, (*model, *where, "-codes", *codes))])
    for text, (_, segmentation) in predicted.items():
        code = code_text(parse_code(text.removeprefix("c"), names), names)
        kept = sitk.ReadImage(str(out / "predictions" / MOESD / code / f"{case}.nii.gz"))
        assert np.array_equal(sitk.GetArrayFromImage(kept), segmentation), code


def assert_exported_alike(
    predicted, images, folder, dataset_id, configuration, *, plans="nnUNetPlans", previous=None, step_size=0.5
):
    """Each code's model, exported as an ordinary nnU-Net, gives stock nnU-Net the same."""
    for case, (probabilities, segmentation) in predicted.items():
        model = folder / case
        options = ("-d", dataset_id, "-c", configuration, "-tr", MOESD, "-p", plans, "-f", 0)
        main(["export", *map(str, (*options, "-m", case.removeprefix("c"), "-o", model))])
        files = []
        for number, file in enumerate(sorted(images.glob(f"{case}_*"))):
            files.append(str(shutil.copy(file, model / f"{case}_{number:04d}.nii.gz")))
        stock = nnUNetPredictor(tile_step_size=step_size, use_mirroring=False, device=CPU, allow_tqdm=False)
        stock.initialize_from_trained_model_folder(str(model), (0,))
        assert type(stock.network).__module__.startswith("dynamic_network_architectures.")
        where = ([files], [str(model / "result")], True, True, None if previous is None else str(previous))
        stock.predict_from_files_sequential(*where)
        assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(model / "result.nii.gz"))), segmentation), case
        np.testing.assert_allclose(np.load(model / "result.npz")["probabilities"], probabilities, rtol=0, atol=1e-5)


@pytest.fixture(scope="module", autouse=True)
def results_and_precision(dataset, tmp_path_factory):
    """The other modules' models stay as they are; as stock nnU-Net computes on every CPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("nnunet_moe_bf16", "0")
        patch.setenv("nnUNet_results", str(tmp_path_factory.mktemp("results")))
        yield


@pytest.fixture(scope="module")
def three_modalities(dataset, tmp_path_factory):
    """A test case of the tiny dataset under all codes."""
    return incoming(tmp_path_factory.mktemp("three") / "in", dataset.raw, "phantomTs000", all_codes(3))


TINY = {"codes": all_codes(3), "shape": (32, 36, 32), "labels": {0, 1}}


@pytest.fixture(scope="module")
def preprocessed_2d(dataset):
    """The tiny dataset, also preprocessed in 2D."""
    command("nnUNetv2_preprocess", "-d", 901, "-c", "2d", "-np", 1)
    shorten(dataset.plans_file, "2d")


@pytest.mark.usefixtures("preprocessed_2d")
def test_2d(dataset, three_modalities, tmp_path):
    trainer = train(901, "2d")
    assert all(mixture.weight.ndim == 5 for mixture in trainer.network.mixtures)  # experts and a 2D kernel
    predicted = predict(901, "2d", three_modalities, tmp_path / "out")
    assert_predicted(predicted, **TINY)
    assert_evaluated_alike(predicted, dataset.raw, "phantomTs000", tuple(SIGNAL), tmp_path / "scored", "2d")
    some = {case: predicted[case] for case in ("c100", "c101", "c111")}
    assert_exported_alike(some, three_modalities, tmp_path / "exported", 901, "2d")


@pytest.mark.usefixtures("preprocessed_2d")
def test_lckd_in_2d(dataset, three_modalities, tmp_path):
    trainer = train(901, "2d", LCKD)
    assert len(trainer.network.reducers) == len(trainer.configuration_manager.pool_op_kernel_sizes)
    assert re.search(r"Best: \S+ for lesion", Path(trainer.log_file).read_text())
    assert_predicted(predict(901, "2d", three_modalities, tmp_path / "out", trainer=LCKD), **TINY)


@pytest.mark.parametrize(("size", "memory"), [("M", 0.05), ("XL", 0.2)])
def test_residual_encoder_presets(dataset, three_modalities, tmp_path, size, memory):
    plans = f"nnUNetResEncUNet{size}Plans"
    command("nnUNetv2_plan_experiment", "-d", 901, "-pl", f"nnUNetPlannerResEnc{size}", "-gpu_memory_target", memory)
    shorten(dataset.plans_file.with_name(f"{plans}.json"), "3d_fullres")
    trainer = train(901, "3d_fullres", plans=plans)
    blocks = trainer.configuration_manager.network_arch_init_kwargs["n_blocks_per_stage"]
    assert len(trainer.network.mixtures) == 1 + sum(blocks)
    predicted = predict(901, "3d_fullres", three_modalities, tmp_path / "out", plans=plans)
    assert_predicted(predicted, **TINY)
    some = {case: predicted[case] for case in ("c100", "c111")}
    assert_exported_alike(some, three_modalities, tmp_path / "exported", 901, "3d_fullres", plans=plans)


FEW_WINDOWS = ("-step_size", 1)
"""Fewer windows for the second stage of the cascade; they still overlap."""


def after(stage: Path) -> tuple:
    """Options to predict the second stage after the first."""
    return ("-prev_stage_predictions", stage, *FEW_WINDOWS)


def test_the_cascade(dataset, tmp_path):
    """Low resolution with its validation, which writes what the next stage is trained on; then full resolution."""
    plans = "nnUNetPlansCascade"
    finer = ("-overwrite_target_spacing", 0.5, 0.5, 0.5, "-overwrite_plans_name", plans)
    command("nnUNetv2_plan_experiment", "-d", 901, "-gpu_memory_target", 0.05, *finer)
    command("nnUNetv2_preprocess", "-d", 901, "-plans_name", plans, "-c", "3d_fullres", "3d_lowres", "-np", 1, 1)
    shorten(dataset.plans_file.with_name(f"{plans}.json"), "3d_lowres", patch_size=[40] * 3)
    shorten(dataset.plans_file.with_name(f"{plans}.json"), "3d_cascade_fullres", patch_size=[32] * 3)
    cases = sorted(file.name[:-7] for file in (dataset.raw / "labelsTr").iterdir())[:2]
    splits = dataset.plans_file.with_name("splits_final.json")
    before = splits.read_text() if splits.exists() else None
    splits.write_text(json.dumps([{"train": cases, "val": cases}]))  # one training predicts all that the next needs

    train(901, "3d_lowres", plans=plans).perform_actual_validation()
    trainer = train(901, "3d_cascade_fullres", plans=plans)
    low_folder = Path(trainer.output_folder_base).with_name(f"{MOESD}__{plans}__3d_lowres")
    shutil.copytree(low_folder, low_folder.with_name(f"{LCKD}__{plans}__3d_lowres"))
    lckd = train(901, "3d_cascade_fullres", LCKD, plans=plans)
    splits.unlink() if before is None else splits.write_text(before)
    stem = trainer.network.mixtures[0]
    assert stem.weight.shape[2] == 4 and stem.gate.in_features == trainer.network.num_modalities == 3

    codes = [(True, False, False), (False, True, True)]
    images = incoming(tmp_path / "in", dataset.raw, "phantomTs000", codes)
    low = predict(901, "3d_lowres", images, tmp_path / "low", plans=plans)
    assert_predicted(low, **{**TINY, "codes": codes})
    full = [
        predict(901, "3d_cascade_fullres", images, tmp_path / name, *after(stage), plans=plans)
        for name, stage in (("full", tmp_path / "low"), ("other", inverted(tmp_path / "low", tmp_path / "inverted")))
    ]
    assert_predicted(full[0], **{**TINY, "codes": codes})
    assert all((full[0][case][0] != full[1][case][0]).any() for case in low)  # the previous stage is looked at
    assert re.search(r"Best: \S+ for lesion", Path(lckd.log_file).read_text())
    assert lckd.network.encoder.stages[0][0].convs[0].conv.in_channels == 2  # a modality and the previous stage
    second = {"trainer": LCKD, "plans": plans}
    by_lckd = [
        predict(901, "3d_cascade_fullres", images, tmp_path / name, *after(stage), **second)
        for name, stage in (("lckd", tmp_path / "low"), ("lckd_other", tmp_path / "inverted"))
    ]
    assert_predicted(by_lckd[0], **{**TINY, "codes": codes})
    assert all((by_lckd[0][case][0] != by_lckd[1][case][0]).any() for case in low)
    assert_cohort_alike(full[0], images, tmp_path, "3d_cascade_fullres", plans)
    scored = (dataset.raw, "phantomTs000", tuple(SIGNAL), tmp_path / "scored", "3d_cascade_fullres")
    assert_evaluated_alike(full[0], *scored, *FEW_WINDOWS, plans=plans)
    assert_packaged_alike(full[0], images, tmp_path, "3d_cascade_fullres", plans)
    assert_exported_alike(low, images, tmp_path / "low_exported", 901, "3d_lowres", plans=plans)
    second_stage = (full[0], images, tmp_path / "exported", 901, "3d_cascade_fullres")
    assert_exported_alike(*second_stage, plans=plans, previous=tmp_path / "low", step_size=1)
    card = (tmp_path / "exported" / "c011" / "README.md").read_text()
    assert "-prev_stage_predictions STAGE\n" in card and "the segmentations of 3d_lowres" in card


def assert_cohort_alike(predicted, images, folder, configuration, plans):
    """`nnunet_moe predict` gives the same from the previous stage, and tells of cases that lack it or do not fit it."""
    model = ("-d", 901, "-c", configuration, "-tr", MOESD, "-p", plans, "-f", 0, "-device", "cpu", "--disable_tta")
    model += FEW_WINDOWS
    stage, wrong, out, older = (folder / name for name in ("stage", "wrong", "cohort", "of_an_earlier_version"))
    shutil.copytree(folder / "low", stage)
    first, second = sorted(predicted)
    wrong.mkdir()
    moved = sitk.ReadImage(str(stage / f"{second}.nii.gz"))
    moved.SetOrigin((9, 0, 0))
    sitk.WriteImage(moved, str(wrong / f"{second}.nii.gz"))

    def predict_after(previous, out, *more):
        options = ("-i", images, "-o", out, "-prev_stage_predictions", previous, "-npp", 0, "-nps", 0, *more)
        main(["predict", *map(str, (*model, *options))])

    predict_after(stage, out)
    for case, (_, segmentation) in predicted.items():
        assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(out / f"{case}.nii.gz"))), segmentation)
    manifest = (out / "manifest.csv").read_text()
    predict_after(stage.rename(folder / "elsewhere"), out, "--continue_prediction")
    assert (out / "manifest.csv").read_text() == manifest, "with the seconds of the first run"
    shutil.copytree(out, older)
    (older / "inputs.jsonl").unlink()
    for cohort in (out, older):
        with pytest.raises(SystemExit) as error:
            predict_after(wrong, cohort, "--continue_prediction")
        assert f"{first}.nii.gz does not exist. Predict the cascade's previous stage first" in str(error.value)
        assert f"{second}.nii.gz and " in str(error.value) and "differ in origin" in str(error.value)
        assert not list(cohort.glob("*.nii.gz"))
    with pytest.raises(SystemExit, match=facts("segmentations", "3d_lowres", "folder")):
        main(["predict", *map(str, (*model, "-i", images, "-o", out))])


def assert_packaged_alike(predicted, images, folder, configuration, plans):
    """A container has both stages, also of an exported subset, and its program gives the same."""
    model = ("-d", 901, "-c", configuration, "-tr", MOESD, "-p", plans, "-f", 0, "-device", "cpu", "--disable_tta")
    model += FEW_WINDOWS
    of_subset = folder / "of_subset"
    of_subset.mkdir()
    for file in images.glob("*011_*"):
        shutil.copy(file, of_subset)
    for trainer, sent, more in ((MOESD, images, ()), ("nnUNetTrainer", of_subset, ("-m", "011"))):
        app, out = folder / f"app_{trainer}", folder / f"out_{trainer}"
        main(["package", *map(str, (*model, "-o", app, "--target", "plain", *more))])
        stages = [f"{trainer}__{plans}__{stage}" for stage in (configuration, "3d_lowres")]
        assert sorted(path.name for path in (app / "model").iterdir() if path.is_dir()) == stages
        assert program.main(app, ["--input", str(sent), "--output", str(out), "--device", "cpu"]) == 0
        found = {file.name[:-7]: sitk.GetArrayFromImage(sitk.ReadImage(str(file))) for file in out.iterdir()}
        assert len(found) == (2 if trainer == MOESD else 1)
        for case, segmentation in found.items():
            assert trainer != MOESD or np.array_equal(segmentation, predicted[case][1])


def inverted(folder: Path, out: Path) -> Path:
    out.mkdir()
    for file in folder.glob("*.nii.gz"):
        sitk.WriteImage(1 - sitk.ReadImage(str(file)), str(out / file.name))
    return out


def write_dataset(
    dataset_id: int, names: list[str], labels: dict, channels, relabel, *, every: int = 1, **more
) -> Path:
    """A raw dataset made of phantoms: `channels` makes its K images, `relabel` its labels; every n-th slice is kept."""
    from nnunetv2.paths import nnUNet_raw

    raw = Path(str(nnUNet_raw)) / f"Dataset{dataset_id}_Made"
    for suffix, count in (("Tr", 5), ("Ts", 1)):
        (raw / f"images{suffix}").mkdir(parents=True)
        (raw / f"labels{suffix}").mkdir()
        for number in range(count):
            phantom = draw_phantom(np.random.default_rng(number), (20 * every if every > 1 else 36, 36, 32))
            arrays = [*channels(phantom.images), relabel(phantom.lesions)]
            files = [f"images{suffix}/p{number}_{channel:04d}" for channel in range(len(names))]
            for array, file in zip(arrays, [*files, f"labels{suffix}/p{number}"], strict=True):
                image = sitk.GetImageFromArray(array[::every])
                image.SetSpacing((1.0, 1.0, float(every)))
                sitk.WriteImage(image, str(raw / f"{file}.nii.gz"))
    channel_names = {str(channel): name for channel, name in enumerate(names)}
    description = {"channel_names": channel_names, "labels": labels, "numTraining": 5, "file_ending": ".nii.gz"}
    (raw / "dataset.json").write_text(json.dumps({**description, **more}))
    return raw


@pytest.fixture(scope="module")
def made_datasets(dataset):
    """902: CT and MRI, anisotropic, overlapping regions, ignore label. 903: one modality. 905: five modalities."""
    rng = np.random.default_rng(0)

    def with_core_and_ignored(lesions):
        labels = lesions.copy()
        labels[lesions.astype(bool) & (np.arange(lesions.shape[2]) % 2 == 0)] = 2
        labels[:, :4] = 3
        return labels

    def five(images):
        return [*images, images[::-1].mean(0), *(images[:1] + rng.normal(0, 9, images[:1].shape))]

    def as_float(channels):
        return lambda images: [channel.astype(np.float32) for channel in channels(images)]

    raw = {
        902: write_dataset(
            902,
            ["CT", "MRI"],
            {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3},
            as_float(lambda images: [images[0] * 3 - 1000, images[2]]),
            with_core_and_ignored,
            every=4,
            regions_class_order=[1, 2],
        ),
        903: write_dataset(903, ["FLAIR"], {"background": 0, "lesion": 1}, lambda images: images[2:], np.copy),
        905: write_dataset(905, list("abcde"), {"background": 0, "lesion": 1}, as_float(five), np.copy),
    }
    for dataset_id in raw:
        extractor = DatasetFingerprintExtractor(dataset_id, num_processes=1)
        extractor.num_foreground_voxels_for_intensitystats = 1e5  # of 1e8: most of what the command takes its time for
        extractor.run()
    command("nnUNetv2_plan_experiment", "-d", *raw, "-gpu_memory_target", 0.05)
    command("nnUNetv2_preprocess", "-d", *raw, "-c", "3d_fullres", "-np", 1)
    for folder in raw.values():
        shorten(dataset.workspace.preprocessed / folder.name / "nnUNetPlans.json", "2d", "3d_fullres")
    return raw


@pytest.mark.parametrize("dataset_id", [902, 903, 905])
def test_the_fingerprint_of_complete_cases_is_nnunets(made_datasets, tmp_path, monkeypatch, dataset_id):
    theirs = Path(str(nnUNet_preprocessed)) / made_datasets[dataset_id].name / "dataset_fingerprint.json"
    expected = theirs.read_text()
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path))
    extract_fingerprint(dataset_id, num_samples=1e5)
    assert (tmp_path / made_datasets[dataset_id].name / "dataset_fingerprint.json").read_text() == expected


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_ct_beside_mri_anisotropic_with_regions_and_an_ignore_label(made_datasets, tmp_path, configuration):
    if configuration == "2d":
        command("nnUNetv2_preprocess", "-d", 902, "-c", "2d", "-np", 1)
    trainer = train(902, configuration)
    manager = trainer.configuration_manager
    assert trainer.label_manager.has_regions and trainer.label_manager.has_ignore_label
    assert manager.normalization_schemes == ["CTNormalization", "ZScoreNormalization"]
    if configuration == "3d_fullres":
        kernels = [tuple(mixture.weight.shape[3:]) for mixture in trainer.network.mixtures]
        assert kernels[0] == (1, 3, 3) and (3, 3, 3) in kernels
    images = incoming(tmp_path / "in", made_datasets[902], "p0", all_codes(2))
    predicted = predict(902, configuration, images, tmp_path / "out")
    assert_predicted(predicted, all_codes(2), (20, 36, 32), {0, 1, 2})
    assert all(probabilities.shape == (2, 20, 36, 32) for probabilities, _ in predicted.values())
    assert_evaluated_alike(predicted, made_datasets[902], "p0", ("CT", "MRI"), tmp_path / "scored", configuration)
    assert_scored_as_nnunet_does(tmp_path / "scored", made_datasets[902] / "labelsTs" / "p0.nii.gz", ("CT", "MRI"))
    assert_exported_alike(predicted, images, tmp_path / "exported", 902, configuration)


def assert_scored_as_nnunet_does(scored, reference, names):
    """Dice and volumes of regions, with the ignore label left out."""
    with (scored / "results.csv").open() as opened:
        rows = {(row["code"], row["label"]): row for row in csv.DictReader(opened)}
    regions = {"whole": (1, 2), "core": 2}
    assert {label for _, label in rows} == set(regions) and len(rows) == 6
    for code in ("CT", "MRI", "CT+MRI"):
        prediction = scored / "predictions" / MOESD / code / "p0.nii.gz"
        theirs = compute_metrics(str(reference), str(prediction), SimpleITKIO(), list(regions.values()), 3)["metrics"]
        for label, region in regions.items():
            voxel = float(np.prod(sitk.ReadImage(str(reference)).GetSpacing()))
            assert float(rows[code, label]["volume_mm3"]) == pytest.approx(theirs[region]["n_pred"] * voxel)
            assert float(rows[code, label]["reference_volume_mm3"]) == pytest.approx(theirs[region]["n_ref"] * voxel)
            assert float(rows[code, label]["dsc"]) == pytest.approx(theirs[region]["Dice"])


def test_one_modality(made_datasets, tmp_path):
    trainer = train(903, "3d_fullres")
    assert trainer.validation_codes == [(True,)] and all(m.gate.in_features == 1 for m in trainer.network.mixtures)
    images = incoming(tmp_path / "in", made_datasets[903], "p0", all_codes(1))
    predicted = predict(903, "3d_fullres", images, tmp_path / "out")
    assert_predicted(predicted, all_codes(1), (36, 36, 32), {0, 1})
    assert_exported_alike(predicted, images, tmp_path / "exported", 903, "3d_fullres")


def test_five_modalities(made_datasets, tmp_path):
    trainer = train(905, "3d_fullres")
    assert len(trainer.validation_codes) == 31 and trainer.network.mixtures[0].weight.shape[2] == 5
    images = incoming(tmp_path / "in", made_datasets[905], "p0", all_codes(5))
    assert_predicted(predict(905, "3d_fullres", images, tmp_path / "out"), all_codes(5), (36, 36, 32), {0, 1})


def test_fold_all_starting_from_the_weights_of_another_model(dataset, three_modalities, tmp_path):
    dataset.add_configuration("3d_first")
    first = train(901, "3d_first")
    source = Path(first.output_folder) / "checkpoint_final.pth"
    trainer = train(901, "3d_tiny", fold="all", pretrained=str(source))
    assert Path(trainer.output_folder).name == "fold_all"
    assert_predicted(predict(901, "3d_tiny", three_modalities, tmp_path / "out", fold="all"), **TINY)
    started = make_trainer(901, "3d_tiny", MOESD, fold="all", pretrained=str(source))
    weights = torch.load(source, weights_only=False)["network_weights"]
    own = started.network.state_dict()
    assert all(torch.equal(own[name], weights[name]) for name in own if ".seg_layers." not in name)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("MoE", {"placement": ["stem", "encoder", "decoder"]}),
        ("MoEStem", {}),
        ("MoENoReg", {}),
        ("SD", {}),
        ("DynamicStem", {}),
        ("ModalityDropout", {}),
    ],
)
def test_every_row_of_the_papers_table_trains_and_predicts(dataset, three_modalities, tmp_path, name, settings):
    dataset.add_configuration("3d_rows", **LENGTH, **settings)
    train(901, "3d_rows", f"nnUNetTrainer{name}")
    predicted = predict(901, "3d_rows", three_modalities, tmp_path / "out", trainer=f"nnUNetTrainer{name}")
    assert_predicted(predicted, **TINY)


def test_a_dedicated_model_predicts_from_its_modalities_whatever_else_is_there(dataset, three_modalities, tmp_path):
    dataset.add_configuration("3d_dedicated", **LENGTH, modality_code=[1, 0, 1])
    trainer = train(901, "3d_dedicated", "nnUNetTrainerDedicated")
    assert "Dedicated model: trained and validated only on T1w+FLAIR" in Path(trainer.log_file).read_text()
    model = {"configuration": "3d_dedicated", "trainer": "nnUNetTrainerDedicated"}
    enough = tmp_path / "enough"
    enough.mkdir()
    for file in three_modalities.iterdir():
        if file.name.startswith(("c111", "c101")):
            shutil.copy(file, enough)
    predicted = predict(901, images=enough, out=tmp_path / "out", **model)
    assert np.array_equal(predicted["c111"][0], predicted["c101"][0])
    with pytest.raises(Exception, match=facts("dedicated", "T1w+FLAIR", "T1w is")):
        predict(901, images=three_modalities, out=tmp_path / "none", **model)
    assert not list((tmp_path / "none").glob("*.nii.gz"))
