"""The LCKD trainers: their step, their schedule, and elections on a phantom whose best modalities are known."""

import json
import re
import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
import SimpleITK as sitk
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from facts import facts
from incomplete import extract_fingerprint, plan_and_preprocess
from made_batches import LABELS, batch_for
from nnunet_in_process import command, train
from nnunet_in_process import make_trainer as made_by_nnunet
from nnunet_moe.cli import main
from nnunet_moe.errors import ModalityError, SettingsError
from nnunet_moe.losses.lckd import cross_modal_distillation
from nnunet_moe.modalities.codes import drop_modalities
from nnunet_moe.trainers.base import nnUNetTrainerMissingModality
from nnunet_moe.trainers.case_content import CaseContent
from nnunet_moe.trainers.lckd import (
    nnUNetTrainerLCKD,
    nnUNetTrainerLCKDFixedTeacher,
    nnUNetTrainerLCKDNoDistillation,
    nnUNetTrainerLCKDRandomTeacher,
    nnUNetTrainerLCKDSingle,
)
from nnunet_moe.trainers.lckd_election import Election

pytestmark = pytest.mark.slow

DATASET = "Dataset903_Elections"
SCORES = np.array([[0.1, 0.9, 0.8], [0.3, 0.2, 0.1], [0.2, 0.4, 0.2]])
THREE = {"labels": {"background": 0, "a": 1, "b": 2, "c": 3}}
ELECTED = re.compile(r"Soft Dice of each modality by itself for a, b (.* A [\d.]+ \(\d\), .*; B .*; noise .*)")
ALL = (
    nnUNetTrainerLCKD,
    nnUNetTrainerLCKDFixedTeacher,
    nnUNetTrainerLCKDNoDistillation,
    nnUNetTrainerLCKDRandomTeacher,
    nnUNetTrainerLCKDSingle,
)


@pytest.mark.parametrize("kind", LABELS)
def test_the_step_has_the_gradient_of_its_loss(make_trainer, kind):
    trainer = make_trainer(nnUNetTrainerLCKD, labels=LABELS[kind], warm_up_fraction=0.0, distillation_weight=0.3)
    trainer.network.double()
    trainer.network.teachers[:] = torch.tensor([True, False, True])
    batch, iteration = batch_for(trainer), 1
    data, target = batch["data"], batch["target"]
    parts = trainer.backward(data, target, iteration)
    found = {name: p.grad.clone() for name, p in trainer.network.named_parameters() if p.grad is not None}

    trainer.network.zero_grad()
    dropped = drop_modalities(data, trainer.draw_codes(data, iteration).expand(2, -1))
    output = trainer.network(dropped, with_features=True)
    l_kd = cross_modal_distillation(output.features, output.available, trainer.network.teachers)
    loss = trainer.loss(output.logits, target) + 0.3 * l_kd
    loss.backward()
    assert sum(parts.values()).item() == pytest.approx(loss.item())
    assert list(parts) == ["L_seg", "weight L_kd"]
    expected = {name: p.grad for name, p in trainer.network.named_parameters() if p.grad is not None}
    assert found.keys() == expected.keys() and len(found) > 20
    assert all(torch.equal(found[name], gradient) for name, gradient in expected.items())


def test_a_distilling_step_pulls_the_students_to_the_teacher(make_trainer):
    trainer = make_trainer(nnUNetTrainerLCKD, distillation_weight=1.0)
    trainer.network.teachers[1] = True
    batch = batch_for(trainer, dtype=torch.float32)
    batch["data"] = batch["data"].nan_to_num(0.3)
    trainer.loss = lambda logits, _: 0 * logits[0].sum()  # L_kd alone
    found = [float(trainer.train_step(batch)["weight L_kd"]) for _ in range(6)]
    assert found == sorted(found, reverse=True) and found[-1] < 0.9 * found[0]


def test_nothing_is_dropped_in_the_warm_up_then_one_code_a_batch_is_drawn(make_trainer):
    trainer = make_trainer(nnUNetTrainerLCKD, num_epochs=10, warm_up_fraction=0.7)
    data = batch_for(trainer)["data"]
    for epoch in range(7):
        trainer.current_epoch = epoch
        assert trainer.draw_codes(data, 100 * epoch).all()
    trainer.current_epoch = 7
    draws = Counter(tuple(trainer.draw_codes(data, iteration)[0].tolist()) for iteration in range(4000))
    # a number of modalities from 1 to 3, then a subset of so many: 1/9 for each single and pair, 1/3 for all
    assert len(draws) == 7
    for code, count in draws.items():
        assert count / 4000 == pytest.approx(1 / 3 if all(code) else 1 / 9, abs=0.03)


@pytest.mark.parametrize("num_modalities", [1, 2, 5])
def test_the_complete_code_can_be_left_out_of_what_is_drawn(make_trainer, num_modalities):
    trainer = make_trainer(nnUNetTrainerLCKD, num_modalities=num_modalities, warm_up_fraction=0.0, drop_none_too=False)
    data = batch_for(trainer, num_modalities=num_modalities)["data"]
    numbers = {int(trainer.draw_codes(data, iteration).sum()) for iteration in range(300)}
    assert numbers == ({1} if num_modalities == 1 else set(range(1, num_modalities)))


def test_the_rate_starts_again_when_modalities_begin_to_be_dropped(make_trainer):
    trainer = make_trainer(nnUNetTrainerLCKD, num_epochs=10, warm_up_fraction=0.7)
    rates = []
    for epoch in range(10):
        trainer.lr_scheduler.step(epoch)  # as nnU-Net calls it
        rates.append(trainer.optimizer.param_groups[0]["lr"])
    assert rates[:7] == pytest.approx([0.01 * (1 - t / 7) ** 0.9 for t in range(7)])
    assert rates[7:] == pytest.approx([0.01 * 0.3**0.9 * (1 - t / 3) ** 0.9 for t in range(3)])


@pytest.mark.parametrize("trainer", ALL)
def test_what_a_trainers_name_says(make_trainer, trainer, monkeypatch):
    made = make_trainer(trainer, teacher="m2", election_interval=1, num_epochs=5, labels=THREE)
    logged = []
    monkeypatch.setattr(made, "print_to_log_file", lambda *text, **_: logged.append(" ".join(map(str, text))))
    monkeypatch.setattr(nnUNetTrainerMissingModality, "on_train_start", lambda _: None)
    made.on_train_start()
    monkeypatch.setattr(made.election, "scores_alone", lambda: (SCORES, np.full((3, 3), 2)))
    made.on_train_epoch_end([{"loss": np.array(1.0)}])
    teachers = made.network.teachers.tolist()
    expected = {
        nnUNetTrainerLCKD: [True, True, False],
        nnUNetTrainerLCKDSingle: [True, False, False],
        nnUNetTrainerLCKDFixedTeacher: [False, False, True],
        nnUNetTrainerLCKDNoDistillation: [False] * 3,
    }
    if trainer in expected:
        assert teachers == expected[trainer]
    else:
        seen = set()
        for made.current_epoch in range(40):
            made.on_train_epoch_end([{"loss": np.array(1.0)}])
            seen.add(tuple(made.network.teachers.tolist()))
        assert len(seen) == 7, "one drawn for each of three labels: every set of modalities can be"
    elects = trainer in (nnUNetTrainerLCKD, nnUNetTrainerLCKDSingle)
    told = (
        "a, b, c (number of cases): m0 0.1000 (2), 0.9000 (2), 0.8000 (2); m1 0.3000 (2)",
        "Best: m1 for a, m0 for b, m0 for c",
    )
    assert all(any(text in line for line in logged) == elects for text in told)


def test_elections_are_held_after_the_first_epoch_and_every_interval_from_there(make_trainer, monkeypatch):
    made, held = make_trainer(nnUNetTrainerLCKD, election_interval=3, num_epochs=10), []
    monkeypatch.setattr(made.election, "hold", lambda: held.append(made.current_epoch))
    for made.current_epoch in range(10):
        made.on_train_epoch_end([{"loss": np.array(1.0)}])
    assert held == [0, 3, 6, 9]


def test_with_one_modality_there_is_nothing_to_elect(make_trainer, monkeypatch):
    made = make_trainer(nnUNetTrainerLCKD, num_modalities=1)
    monkeypatch.delattr(Election, "hold")
    made.on_train_epoch_end([{"loss": np.array(1.0)}])
    assert made.election.draw_cases(["case0", "case1"], []) == ()


def test_where_nothing_can_be_scored_the_teachers_stay(make_trainer, monkeypatch):
    made, logged = make_trainer(nnUNetTrainerLCKD), []
    made.network.teachers[1] = True
    monkeypatch.setattr(made, "print_to_log_file", lambda *text, **_: logged.append(" ".join(map(str, text))))
    monkeypatch.setattr(made.election, "scores_alone", lambda: (np.full((3, 2), np.nan), np.zeros((3, 2), int)))
    made.on_train_epoch_end([{"loss": np.array(1.0)}])
    assert made.network.teachers.tolist() == [False, True, False]
    assert any("WARNING: no label could be scored" in text for text in logged)


@pytest.mark.parametrize("ignore", [False, True])
@pytest.mark.parametrize("kind", LABELS)
def test_the_scores_are_those_of_the_network_on_whole_cases(make_trainer, monkeypatch, kind, ignore):
    """Two cases of the patch's size, of which one lacks the second modality, against the definition."""
    made = make_trainer(nnUNetTrainerLCKD, labels=LABELS[kind], ignore=ignore)
    made.election.cases = ("whole", "part")
    size, rng = made.configuration_manager.patch_size, np.random.default_rng(0)
    images = {case: rng.normal(size=(3, *size)).astype(np.float32) for case in made.election.cases}
    images["part"][1] = np.nan
    labels = {case: rng.integers(0, 4 if ignore else 3, (1, *size)) for case in made.election.cases}
    labels["part"][labels["part"] == 2] = 0
    made.inference_allowed_mirroring_axes = (0, 1, 2)  # that is not done
    made.dataset_class = lambda folder, cases, **_: SimpleNamespace(
        load_case=lambda case: (images[case], labels[case], None, {})
    )
    found, numbers = made.election.scores_alone()

    made.network.eval()
    made.set_deep_supervision_enabled(False)
    scored = {"labels": [(1,), (2,)], "regions": [(1, 2), (2,)]}[kind]
    expected = np.full((2, 3, 2), np.nan)
    for number, case in enumerate(made.election.cases):
        for modality in range(3):
            if case == "part" and modality == 1:
                continue
            alone = np.full_like(images[case], np.nan)
            alone[modality] = images[case][modality]
            with torch.no_grad():
                logits = made.network(torch.from_numpy(alone[None]))[0]
            p = (logits.sigmoid() if kind == "regions" else logits.softmax(dim=0)[1:]).numpy()
            known = labels[case][0] != 3
            for label, values in enumerate(scored):
                g = np.isin(labels[case][0], values) & known
                if g.any():
                    expected[number, modality, label] = (
                        2 * (p[label] * g).sum() / ((p[label] * known).sum() + g.sum() + 1)
                    )
    # nnU-Net keeps logits in half precision
    np.testing.assert_allclose(found, expected[0], rtol=0, atol=2e-3)  # on the case that has all
    assert (numbers == 1).all()
    monkeypatch.setattr(made.election, "cases", ("part",))
    np.testing.assert_allclose(made.election.scores_alone()[0], expected[1], rtol=0, atol=2e-3)
    assert np.isnan(expected[1, :, 1]).all() and np.isnan(expected[1, 1]).all() and not np.isnan(expected[1, 0, 0])
    assert made.network.decoder.deep_supervision


def test_logits_that_overflow_score_nothing_and_end_no_training(make_trainer, monkeypatch):
    made, logged = make_trainer(nnUNetTrainerLCKD), []
    made.election.cases = ("a",)
    size = made.configuration_manager.patch_size
    case = np.ones((3, *size), np.float32), np.ones((1, *size), int), None, {}
    made.dataset_class = lambda folder, cases, **_: SimpleNamespace(load_case=lambda case_name: case)
    monkeypatch.setattr(made, "print_to_log_file", lambda *text, **_: logged.append(" ".join(map(str, text))))
    with torch.no_grad():
        for layer in made.network.decoder.seg_layers:
            layer.weight *= 1e9
    made.on_train_epoch_end([{"loss": np.array(1.0)}])
    assert sum("case a: no score for m1 by itself: Encountered inf" in text for text in logged) == 1
    assert any("WARNING: no label could be scored" in text for text in logged) and made.network.decoder.deep_supervision


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
        RuntimeError("Expected all tensors to be on the same device"),
    ],
)
def test_a_case_that_cannot_be_predicted_for_another_reason_ends_the_training(make_trainer, monkeypatch, error):
    """Want of memory says nothing of a modality: without its score another one would be elected."""
    made = make_trainer(nnUNetTrainerLCKD)
    made.election.cases = ("a",)
    size = made.configuration_manager.patch_size
    case = np.ones((3, *size), np.float32), np.ones((1, *size), int), None, {}
    made.dataset_class = lambda folder, cases, **_: SimpleNamespace(load_case=lambda case_name: case)

    def fail(*_):
        raise error

    monkeypatch.setattr(nnUNetPredictor, "predict_sliding_window_return_logits", fail)
    with pytest.raises(type(error)) as raised:
        made.on_train_epoch_end([{"loss": np.array(1.0)}])
    assert raised.value is error


def test_random_teachers_are_drawn_by_seed_fold_and_epoch_alike_in_all_processes(make_trainer):
    for rank in (0, 1):
        made = make_trainer(nnUNetTrainerLCKDRandomTeacher, seed=5, election_interval=1)
        made.local_rank = rank
        for made.current_epoch in range(3):
            made.on_train_epoch_end([{"loss": np.array(1.0)}])
            seed = np.random.SeedSequence([5, 1, 0, 2**32 - 2, made.current_epoch]).generate_state(1)[0]
            drawn = np.random.default_rng(seed).integers(3, size=2)
            assert made.network.teachers.nonzero().flatten().tolist() == sorted(set(drawn.tolist()))


def test_what_no_case_of_the_elections_shows_is_told(make_trainer, monkeypatch):
    made, logged = make_trainer(nnUNetTrainerLCKD), []
    everything, one_more = (
        CaseContent((True,) * 3, frozenset({0})),
        CaseContent((True, False, False), frozenset({0, 1})),
    )
    monkeypatch.setattr(made, "print_to_log_file", lambda *text, **_: logged.append(" ".join(map(str, text))))
    monkeypatch.setattr(made, "_content", lambda case: one_more if case == "case3" else everything)
    assert set(made.election.draw_cases([f"case{number}" for number in range(4)], [])) < {"case0", "case1", "case2"}
    assert any("WARNING: the cases of the elections do not show other in m0." in text for text in logged)
    logged.clear()
    made.election.draw_cases([f"case{number}" for number in range(3)], [])
    assert not any("WARNING" in text for text in logged)


@pytest.mark.parametrize("trainer", ALL)
def test_a_tenth_of_the_cases_is_drawn_by_seed_and_fold_alike_for_all_trainers_and_processes(
    make_trainer, monkeypatch, trainer
):
    cases = [f"case{number:02d}" for number in range(30)]
    everything = CaseContent((True,) * 3, frozenset({0, 1}))

    def drawn(seed=0, fold=0, rank=0, validation=(), **settings):
        made = make_trainer(trainer, seed=seed, teacher="m0", **settings)
        made.fold, made.local_rank = fold, rank
        monkeypatch.setattr(made, "_content", lambda _: everything)
        return made.election.draw_cases(cases, validation)

    kept = drawn()
    assert len(kept) == 3 and set(kept) < set(cases) and drawn(rank=1) == kept
    rng = np.random.default_rng(np.random.SeedSequence([0, 1, 0, 2**32 - 1]).generate_state(1)[0])
    assert set(kept) == set(rng.permutation(cases)[:3])
    assert len({drawn(seed=seed, fold=fold) for seed in range(3) for fold in range(3)}) == 9
    assert len(drawn(max_election_cases=2)) == 2 and len(drawn(election_fraction=0.0)) == 1
    assert not set(drawn(validation=kept)) & set(kept), "what is validated has no say"
    assert set(drawn(fold="all", validation=cases)) < set(cases)


def test_the_teacher_must_be_a_modality(make_trainer, tmp_path):
    for trainer, teacher in (
        (nnUNetTrainerLCKDFixedTeacher, {}),
        (nnUNetTrainerLCKDFixedTeacher, {"teacher": "T9"}),
        (nnUNetTrainerLCKD, {"teacher": "T9"}),
    ):
        with pytest.raises(
            SettingsError, match=facts("'teacher'", "'nnunet_moe'", "m0, m1, m2", repr(teacher.get("teacher")))
        ):
            make_trainer(trainer, **teacher)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def elections(tmp_path_factory):
    """Each of three modalities shows one label, or none: 'a' is bright in the first, 'b' dark in the second."""
    folder, rng = tmp_path_factory.mktemp("elections"), np.random.default_rng(0)
    raw = folder / "nnUNet_raw" / DATASET
    for part in ("imagesTr", "labelsTr"):
        (raw / part).mkdir(parents=True)
    grid = np.stack(np.meshgrid(*[np.arange(24)] * 3, indexing="ij"))
    for case in range(6):
        labels = np.zeros((24, 24, 24), np.uint8)
        for label in (1,) if case == 4 else (1, 2):
            for _ in range(3):
                center = rng.uniform(5, 19, (3, 1, 1, 1))
                labels[((grid - center) ** 2).sum(axis=0) < 3.5**2] = label
        images = rng.normal(10, 1, (3, 24, 24, 24))
        images[0][labels == 1] += 8
        images[1][labels == 2] -= 8
        sitk.WriteImage(sitk.GetImageFromArray(labels), str(raw / "labelsTr" / f"case{case}.nii.gz"))
        for channel, image in enumerate(images):
            if (case, channel) != (5, 2):  # one case is incomplete, another has one label alone
                file = raw / "imagesTr" / f"case{case}_{channel:04d}.nii.gz"
                sitk.WriteImage(sitk.GetImageFromArray(image.astype(np.float32)), str(file))
    (raw / "dataset.json").write_text(
        json.dumps(
            {
                "channel_names": {"0": "A", "1": "B", "2": "noise"},
                "labels": {"background": 0, "a": 1, "b": 2},
                "numTraining": 6,
                "file_ending": ".nii.gz",
            }
        )
    )
    with pytest.MonkeyPatch.context() as patch:
        for name in ("raw", "preprocessed", "results"):
            (folder / f"nnUNet_{name}").mkdir(exist_ok=True)
            patch.setenv(f"nnUNet_{name}", str(folder / f"nnUNet_{name}"))
        patch.setenv("nnunet_moe_bf16", "0")
        extract_fingerprint(903)
        plan_and_preprocess("-d", "903", "-c", "3d_fullres")
        yield folder / "nnUNet_preprocessed" / DATASET / "nnUNetPlans.json"


@pytest.fixture(scope="module")
def elected(elections):
    """A short training on the phantom."""
    plans = json.loads(elections.read_text())
    network = plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    network["features_per_stage"] = [6 + 2 * stage for stage in range(network["n_stages"])]
    plans["configurations"]["3d_fullres"]["nnunet_moe"] = {
        "num_epochs": 3,
        "num_iterations_per_epoch": 12,
        "num_val_iterations_per_epoch": 1,
        "warm_up_fraction": 0.0,
        "election_interval": 2,
        "election_fraction": 0.3,
    }
    elections.write_text(json.dumps(plans))
    return train(903, "3d_fullres", "nnUNetTrainerLCKD")


def test_on_a_phantom_the_best_modality_of_each_label_is_elected(elected):
    log = Path(elected.log_file).read_text()
    assert len(ELECTED.findall(log)) == 2
    assert re.findall(r"Teachers: (.*?) *$", log, re.MULTILINE)[-1] == "A, B"
    assert elected.network.teachers.tolist() == [True, True, False]


def test_the_cases_of_elections_are_neither_trained_on_nor_validated(elected):
    training, validation = (set(part.identifiers) for part in elected.get_tr_and_val_datasets())
    split = json.loads(Path(elected.preprocessed_dataset_folder_base, "splits_final.json").read_text())[0]
    kept = set(elected.election.cases)
    assert len(kept) == 1 and training == set(split["train"]) - kept and validation == set(split["val"])
    assert not kept & (training | validation)
    assert not {"case4", "case5"} & kept, "what shows most comes first"
    assert {case: elected._content(case) for case in ("case0", "case4", "case5")} == {
        "case0": CaseContent((True, True, True), frozenset({0, 1})),
        "case4": CaseContent((True, True, True), frozenset({0})),
        "case5": CaseContent((True, True, False), frozenset({0, 1})),
    }


def test_a_training_that_is_stopped_after_an_election_goes_on_exactly(elected, tmp_path, monkeypatch):
    """It takes teachers from the checkpoint: the next election is held later."""
    monkeypatch.setenv("nnUNet_results", str(tmp_path))

    def stopped(trainer):
        if trainer.current_epoch == 1:
            raise KeyboardInterrupt
        nnUNetTrainerMissingModality.on_epoch_start(trainer)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(nnUNetTrainerLCKD, "on_epoch_start", stopped)
        train(903, "3d_fullres", "nnUNetTrainerLCKD")
    train(903, "3d_fullres", "nnUNetTrainerLCKD", go_on=True)
    (final,) = tmp_path.glob("*/*/fold_0/checkpoint_final.pth")
    through, resumed = (
        torch.load(path, weights_only=True) for path in (f"{elected.output_folder}/checkpoint_final.pth", final)
    )
    assert resumed["logging"]["train_losses"] == through["logging"]["train_losses"]
    for name, weights in through["network_weights"].items():
        assert torch.equal(resumed["network_weights"][name], weights), name
    logs = "".join(log.read_text() for log in sorted(final.parent.glob("training_log_*")))
    assert ELECTED.findall(logs) == ELECTED.findall(Path(elected.log_file).read_text())


def test_what_pretrained_weights_bring_does_not_teach(elected, tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    made = train(903, "3d_fullres", "nnUNetTrainerLCKD", pretrained=f"{elected.output_folder}/checkpoint_final.pth")
    log = Path(made.log_file).read_text()
    assert log.index("Teachers: none") < log.index("Epoch 0")
    distances = [float(distance) for distance in re.findall(r"weight L_kd (\S+)", log)]
    assert distances[0] == 0 and all(distances[1:])


def test_the_fixed_teacher_is_the_one_in_the_plans_whatever_was_loaded(elected, elections, tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    before = json.loads(elections.read_text())

    def trained(teacher, num_epochs, **more):
        plans = json.loads(json.dumps(before))
        short = {"teacher": teacher, "num_epochs": num_epochs, "num_iterations_per_epoch": 1}
        plans["configurations"]["3d_fullres"]["nnunet_moe"] |= short
        elections.write_text(json.dumps(plans))
        return train(903, "3d_fullres", "nnUNetTrainerLCKDFixedTeacher", **more)

    try:
        assert trained("A", 1).network.teachers.tolist() == [True, False, False]
        (checkpoint,) = tmp_path.glob("*/*/fold_0/checkpoint_final.pth")
        checkpoint.rename(checkpoint.with_name("checkpoint_latest.pth"))
        resumed = trained("noise", 2, go_on=True)
        assert resumed.network.teachers.tolist() == [False, False, True]
        assert "Teachers: noise" in Path(resumed.log_file).read_text()
    finally:
        elections.write_text(json.dumps(before))


def test_it_predicts_with_files_missing_and_is_scored_alike(elected, elections, tmp_path):
    raw = elections.parents[2] / "nnUNet_raw" / DATASET
    (case, *_) = elected.do_split()[1]
    (tmp_path / "in").mkdir()
    for code in ("100", "011", "111"):
        for channel in np.flatnonzero([digit == "1" for digit in code]):
            file = raw / "imagesTr" / f"{case}_{channel:04d}.nii.gz"
            shutil.copy(file, tmp_path / "in" / f"c{code}_{channel:04d}.nii.gz")
    model = ("-d", "903", "-c", "3d_fullres", "-tr", "nnUNetTrainerLCKD", "-f", "0", "-device", "cpu")
    where = ("-i", str(tmp_path / "in"), "-o", str(tmp_path / "out"))
    command("nnUNetv2_predict", *model, *where, "-npp", 0, "-nps", 0, "--disable_tta")
    main(["evaluate", *model, "-o", str(tmp_path / "scored"), "--disable_tta", "--save_predictions"])
    segmentations = {}
    for code, text in {"100": "A", "011": "B+noise", "111": "A+B+noise"}.items():
        scored = tmp_path / "scored" / "predictions" / "nnUNetTrainerLCKD" / text / f"{case}.nii.gz"
        found = [sitk.GetArrayFromImage(sitk.ReadImage(str(f))) for f in (tmp_path / "out" / f"c{code}.nii.gz", scored)]
        assert np.array_equal(*found)
        segmentations[code] = found[0].tobytes()
    assert len(set(segmentations.values())) == 3


def test_it_is_exported_as_onnx_and_not_as_an_ordinary_network(elected, tmp_path):
    options = ["export", "-d", "903", "-c", "3d_fullres", "-tr", "nnUNetTrainerLCKD", "-f", "0", "-m", "A+noise"]
    with pytest.raises(SystemExit, match=facts("nnUNetTrainerLCKD", "ordinary nnU-Net", "--onnx")):
        main([*options, "-o", str(tmp_path / "model")])
    assert not (tmp_path / "model").exists()
    main([*options, "-o", str(tmp_path / "model"), "--onnx"])
    assert sorted(path.name for path in (tmp_path / "model").rglob("*") if path.is_file()) == [
        "README.md", "dataset.json", "dataset_fingerprint.json", "model.onnx", "plans.json",
    ]  # fmt: skip
    divisor = max(np.prod(elected.configuration_manager.pool_op_kernel_sizes, axis=0))
    size = 2 * int(divisor)
    image = torch.randn(2, 3, size, size, size, generator=torch.Generator().manual_seed(0))
    image[:, 1] = torch.nan
    session = onnxruntime.InferenceSession(str(tmp_path / "model" / "fold_0" / "model.onnx"))
    (logits,) = session.run(None, {"image": image[:, [0, 2]].numpy()})
    elected.set_deep_supervision_enabled(False)
    with torch.no_grad():
        expected = elected.network.eval()(image)
    torch.testing.assert_close(torch.from_numpy(logits), expected, rtol=0, atol=1e-4)


def test_an_ordinary_checkpoint_is_no_start_for_it(elected, tmp_path):
    checkpoint, out = f"{elected.output_folder}/checkpoint_final.pth", tmp_path / "up.pth"
    with pytest.raises(SystemExit, match=facts("nnUNetTrainerLCKD", "no experts")):
        main(["upcycle", "-i", checkpoint, "-o", str(out), "-tr", "nnUNetTrainerLCKD"])
    assert not out.exists()


def test_a_fold_that_can_spare_no_case_is_an_error(elections):
    splits = elections.with_name("splits_final.json")
    before = splits.read_text() if splits.exists() else None
    splits.write_text(json.dumps([{"train": ["case0"], "val": ["case1"]}]))
    try:
        with pytest.raises(ModalityError, match=facts("1 training cases", "fold 0", "election")):
            made_by_nnunet(903, "3d_fullres", "nnUNetTrainerLCKD").do_split()
    finally:
        splits.unlink() if before is None else splits.write_text(before)
