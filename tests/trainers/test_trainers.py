import json
import os
import re
import signal
import subprocess
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

import nnunet_in_process
from facts import facts
from made_batches import LABELS, batch_for
from nnunet_moe.errors import ModalityError, SettingsError
from nnunet_moe.losses.moesd import gate_regularisation, ramp_up
from nnunet_moe.modalities.codes import available_modalities, code_text, drop_modalities
from nnunet_moe.preprocessing import MissingModalityPreprocessor
from nnunet_moe.runtime.files import atomic_write
from nnunet_moe.settings.two_views import TwoViewsSettings
from nnunet_moe.trainers.base import nnUNetTrainerMissingModality
from nnunet_moe.trainers.dedicated import nnUNetTrainerDedicated
from nnunet_moe.trainers.moesd import (
    nnUNetTrainerDynamicStem,
    nnUNetTrainerModalityDropout,
    nnUNetTrainerMoE,
    nnUNetTrainerMoENoReg,
    nnUNetTrainerMoESD,
    nnUNetTrainerMoESDPaper,
    nnUNetTrainerMoEStem,
    nnUNetTrainerSD,
)
from nnunet_moe.training_log import read_training_logs


def gradients(trainer):
    return {name: p.grad.clone() for name, p in trainer.network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("ignore", [False, True])
@pytest.mark.parametrize("sign", [-1, 0, 1])
def test_the_two_backward_passes_give_the_gradient_of_the_single_loss(make_trainer, kind, ignore, sign):
    trainer = make_trainer(labels=LABELS[kind], ignore=ignore, specialization_sign=sign)
    trainer.network.double()
    batch, iteration = batch_for(trainer), 1
    data, target = batch["data"], batch["target"]
    code = trainer.draw_codes(data, iteration)
    settings = trainer.settings

    torch.manual_seed(0)  # the noise on the codes
    teacher, full_parts = trainer.backward_full_view(data, target)
    dropped_parts = trainer.backward_dropped_view(drop_modalities(data, code), target, teacher, iteration)
    of_two_steps = gradients(trainer)

    trainer.network.zero_grad()
    torch.manual_seed(0)
    full, dropped = trainer.network(data), trainer.network(drop_modalities(data, code))
    valid = [None] * len(target)
    if ignore:
        valid = [t[:, -1:] == 0 if kind == "regions" else t != 3 for t in target]
    weight = ramp_up(iteration, settings.ramp_up_fraction * 2 * 3)
    l_reg = sum(gate_regularisation(gates, sign) for gates in trainer.network.gates_of_codes())
    l_sd = trainer.self_distillation(dropped, [level.detach() for level in full], valid)
    loss = (
        trainer.loss(full, target)
        + trainer.loss(dropped, target)
        + settings.alpha * l_reg
        + weight * settings.beta * l_sd
    )
    loss.backward()

    assert sum((full_parts | dropped_parts).values()).item() == pytest.approx(loss.item(), rel=1e-6)
    expected = gradients(trainer)
    assert of_two_steps.keys() == expected.keys() and len(expected) > 20
    for name, gradient in expected.items():
        torch.testing.assert_close(of_two_steps[name], gradient, rtol=0, atol=1e-6, msg=name)


def test_without_l_sd_the_teacher_gets_the_same_gradient_as_with_it(make_trainer):
    found = []
    for beta in (0.0, 5.0):
        trainer = make_trainer(beta=beta)
        torch.manual_seed(1)
        trainer.backward_full_view(
            **dict(zip(("data", "target"), batch_for(trainer, dtype=torch.float32).values(), strict=True))
        )
        found.append(gradients(trainer))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_l_sd_uses_nnunets_weights_of_deep_supervision(make_trainer):
    trainer = make_trainer()
    assert trainer.self_distillation.weight_factors == trainer.loss.weight_factors


def test_with_one_modality_the_baseline_is_nnunets_own_step_on_twice_its_loss(make_trainer):
    """Fails when nnU-Net changes what a training step does: both views are the same then, so L = 2 L_seg."""
    ours, theirs = (make_trainer(kind, num_modalities=1) for kind in (nnUNetTrainerModalityDropout, nnUNetTrainer))
    theirs.network.load_state_dict(ours.network.state_dict())
    loss = theirs.loss
    theirs.loss = lambda output, target: 2 * loss(output, target)
    for seed in range(3):
        batch = batch_for(ours, num_modalities=1, dtype=torch.float32, seed=seed)
        results = [
            trainer.train_step({"data": batch["data"].clone(), "target": [t.clone() for t in batch["target"]]})
            for trainer in (ours, theirs)
        ]
        assert results[0]["loss"] == pytest.approx(float(results[1]["loss"]), rel=1e-4)
    for mine, other in zip(ours.network.parameters(), theirs.network.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)


@pytest.fixture(autouse=True)
def single_precision(monkeypatch):
    monkeypatch.setenv("nnunet_moe_bf16", "0")


def test_modality_dropout_has_no_experts_and_its_plans_may_hold_the_settings_of_moesd(make_trainer):
    trainer = make_trainer(nnUNetTrainerModalityDropout, alpha=0.3, beta=2.0)
    assert trainer.network.mixtures == () and type(trainer.settings) is TwoViewsSettings
    parts = trainer.train_step(batch_for(trainer, dtype=torch.float32))
    assert parts.keys() == {"loss", "L_seg full", "L_seg dropped"}
    assert make_trainer().train_step(batch_for(trainer, dtype=torch.float32)).keys() == {
        *("loss", "L_seg full", "alpha L_reg", "L_seg dropped", "w beta L_sd")
    }


@pytest.mark.parametrize(
    ("trainer", "num_mixtures", "num_scaled", "parts"),
    [
        (nnUNetTrainerMoESD, 4, 0, {"alpha L_reg", "w beta L_sd"}),
        (nnUNetTrainerMoESDPaper, 4, 0, {"alpha L_reg", "w beta L_sd"}),
        (nnUNetTrainerMoE, 4, 0, {"alpha L_reg"}),
        (nnUNetTrainerMoEStem, 1, 0, {"alpha L_reg"}),
        (nnUNetTrainerMoENoReg, 4, 0, set()),
        (nnUNetTrainerSD, 0, 0, {"w beta L_sd"}),
        (nnUNetTrainerDynamicStem, 0, 1, set()),
        (nnUNetTrainerModalityDropout, 0, 0, set()),
    ],
)
def test_each_trainer_is_its_row_of_the_papers_table(make_trainer, trainer, num_mixtures, num_scaled, parts):
    made = make_trainer(trainer, alpha=0.3, beta=2.0)
    network = made.network
    assert (len(network.mixtures), len(network.code_layers) - len(network.mixtures)) == (num_mixtures, num_scaled)
    before = {name: parameter.clone() for name, parameter in network.named_parameters()}
    losses = made.train_step(batch_for(made, dtype=torch.float32))
    assert losses.keys() == {"loss", "L_seg full", "L_seg dropped", *parts}
    # the lowest resolution of deep supervision has weight 0 in nnU-Net; filter scaling starts at 1 whatever the code,
    # so that its hidden layer moves from the second step on
    unmoved = {name for name, parameter in network.named_parameters() if torch.equal(parameter, before[name])}
    assert all("seg_layers.0" in name or ".scaling.0." in name for name in unmoved), unmoved


def test_settings_of_another_method_and_those_that_are_forced_are_reported_in_one_line_of_the_log(
    make_trainer, monkeypatch
):
    given = {"width": 48, "election_interval": 3, "alpha": 0.3, "num_experts": 2}
    for trainer, unread in (
        (nnUNetTrainerMoESD, "election_interval, width"),
        (nnUNetTrainerModalityDropout, "alpha, election_interval, num_experts, width"),
        (nnUNetTrainerMoESDPaper, "alpha, election_interval, num_experts, width"),
    ):
        made, texts = make_trainer(trainer, **given), []
        monkeypatch.setattr(nnUNetTrainer, "on_train_start", lambda _: None)
        monkeypatch.setattr(made, "print_to_log_file", lambda *text, texts=texts, **_: texts.extend(text))
        made.on_train_start()
        (line,) = (text for text in texts if "no effect" in text)
        assert line.endswith(f": {unread}")


def test_the_papers_literal_settings_stay_whatever_the_plans_say(make_trainer):
    settings = make_trainer(nnUNetTrainerMoESDPaper, alpha=0.3, specialization_sign=-1, num_experts=2).settings
    assert (settings.alpha, settings.beta, settings.specialization_sign, settings.num_experts) == (0.1, 1, 1, 4)


def test_a_dedicated_model_takes_nnunets_own_step_on_its_code_and_validates_it_alone(make_trainer, monkeypatch):
    ours, theirs = make_trainer(nnUNetTrainerDedicated, modality_code=[1, 0, 1]), make_trainer(nnUNetTrainer)
    theirs.network.load_state_dict(ours.network.state_dict())
    for seed in range(3):
        batch = batch_for(ours, dtype=torch.float32, seed=seed)
        batch["data"] = batch["data"].nan_to_num(0.5)
        without = {"data": batch["data"].clone(), "target": batch["target"]}
        without["data"][:, 1] = 0
        assert float(ours.train_step(batch)["loss"]) == float(theirs.train_step(without)["loss"])
    for mine, other in zip(ours.network.parameters(), theirs.network.parameters(), strict=True):
        assert torch.equal(mine, other)

    assert ours.validation_codes == [(True, False, True)]
    texts = []
    monkeypatch.setattr(ours, "print_to_log_file", lambda *text, **_: texts.append(" ".join(map(str, text))))
    with torch.no_grad():
        ours.on_validation_epoch_start()
        ours.on_validation_epoch_end([ours.validation_step(dict(batch)) for _ in range(2)])
    assert [text.split(":")[0] for text in texts if "Pseudo dice " in text] == ["Pseudo dice m0+m2"]
    ours.on_train_epoch_end([{"loss": np.array(1.0)}])
    assert all(texts)  # a dedicated model's loss has no parts to tell of


@pytest.mark.parametrize(
    ("trainer", "settings", "said"),
    [
        (nnUNetTrainerDedicated, {}, ("nnUNetTrainerDedicated", "'modality_code'")),
        (nnUNetTrainerDedicated, {"modality_code": [1, 0]}, ("[1, 0]", "3 channels")),
        (nnUNetTrainerDedicated, {"modality_code": [0, 0, 0]}, ("list", "not all 0")),
        (nnUNetTrainerMoESD, {"modality_code": [1, 0, 1]}, ("dedicated",)),
    ],
)
def test_a_modality_code_that_does_not_fit_is_an_error_and_leaves_no_folder(
    make_trainer, tmp_path, trainer, settings, said
):
    with pytest.raises(SettingsError, match=facts(*said)):
        make_trainer(trainer, **settings)
    assert not list(tmp_path.iterdir())


def test_the_dropped_codes_follow_from_seed_fold_and_iteration_and_are_subsets_of_what_a_case_has(make_trainer):
    first, again, other = make_trainer(seed=4), make_trainer(seed=4), make_trainer(seed=5)
    data = batch_for(first)["data"]
    codes = [
        [trainer.draw_codes(data, iteration).tolist() for iteration in range(30)] for trainer in (first, again, other)
    ]
    assert codes[0] == codes[1] != codes[2]
    again.fold = 1
    assert [again.draw_codes(data, iteration).tolist() for iteration in range(30)] != codes[0]
    again.fold = "all"
    assert again.draw_codes(data, 0).any(dim=1).all()
    drawn = torch.tensor(codes[0])
    assert not (drawn & ~available_modalities(data)).any() and drawn.any(dim=2).all()


def test_the_seed_fixes_the_initial_weights(make_trainer):
    weights = [next(make_trainer(seed=seed).network.parameters()) for seed in (0, 0, 1)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_validation_takes_the_codes_in_turn_and_goes_on_from_epoch_to_epoch(make_trainer, monkeypatch):
    trainer = make_trainer(num_val_iterations_per_epoch=5)
    seen, texts = [], []
    forward = trainer.network.forward
    trainer.network.forward = lambda x: (seen.append(tuple(available_modalities(x)[0].tolist())), forward(x))[1]
    monkeypatch.setattr(trainer, "print_to_log_file", lambda *text, **_: texts.append(" ".join(map(str, text))))
    for epoch in range(3):
        trainer.current_epoch = epoch
        with torch.no_grad():
            trainer.on_validation_epoch_start()
            batch = batch_for(trainer, dtype=torch.float32)
            batch["data"] = batch["data"].nan_to_num()
            trainer.on_validation_epoch_end([trainer.validation_step(dict(batch)) for _ in range(5)])
    codes = trainer.validation_codes
    assert seen == [codes[number % 7] for number in range(15)]
    logged = [re.search(r"Pseudo dice (\S+): \[", text)[1] for text in texts if "Pseudo dice " in text]
    names = ("m0", "m1", "m2")
    assert logged == [
        code_text(codes[n], names) for epoch in range(3) for n in sorted((5 * epoch + i) % 7 for i in range(5))
    ]


def test_of_a_validation_batch_with_incomplete_cases_those_count_that_have_the_code_whose_turn_it_is(make_trainer):
    trainer = make_trainer()
    trainer.on_validation_epoch_start()
    mixed = batch_for(trainer, dtype=torch.float32)
    lacking = {"data": mixed["data"][[1, 1]], "target": [level[[1, 1]] for level in mixed["target"]]}
    with torch.no_grad():
        numbers = [[trainer.validation_step(dict(batch))["code"] for _ in range(7)] for batch in (mixed, lacking)]
    # turns: m0, m1, m2, m0+m1, m0+m2, m1+m2, all; the first item has all, the second m1+m2
    assert numbers == [[0, 1, 2, 3, 4, 5, 6], [5, 1, 2, 1, 2, 5, 5]]


def test_the_dice_of_a_code_in_the_log_is_that_of_its_own_batches(make_trainer, monkeypatch):
    trainer, texts = make_trainer(), []
    monkeypatch.setattr(trainer, "print_to_log_file", lambda *text, **_: texts.append(" ".join(map(str, text))))
    counts = [(3, 1, 0), (1, 1, 2), (5, 0, 0)]
    outputs = [
        {
            "loss": np.array(0.0),
            "code": code,
            **{key: np.array([float(n), 0.0]) for key, n in zip(("tp_hard", "fp_hard", "fn_hard"), count, strict=True)},
        }
        for code, count in zip((0, 0, 4), counts, strict=True)
    ]
    outputs.append({**outputs[0], "code": -1})  # a batch of several codes
    trainer.on_validation_epoch_end(outputs)
    assert texts == ["Pseudo dice m0: [0.6667, nan]", "Pseudo dice m0+m2: [1.0, nan]"]
    assert trainer.logger.get_value("mean_fg_dice", -1) == pytest.approx(2 * 12 / (2 * 12 + 3 + 2))


def test_building_the_network_gives_the_configuration_our_preprocessor(make_trainer):
    """The seam to nnUNetv2_predict: it calls this with the manager that its workers get."""
    trainer = make_trainer()
    assert trainer.configuration_manager.preprocessor_class is MissingModalityPreprocessor


def test_plans_and_dataset_that_do_not_fit_are_an_error_and_leave_no_folder(dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    plans, dataset_json = (json.loads(file.read_text()) for file in (dataset.plans_file, dataset.dataset_json_file))
    with pytest.raises(SettingsError, match=facts("'nnunet_moe'", "top")):
        nnUNetTrainerMoESD({**plans, "nnunet_moe": {}}, "3d_tiny", 0, dataset_json, torch.device("cpu"))
    dataset_json["channel_names"].pop("2")
    with pytest.raises(ModalityError, match=facts("2 channels (T1w, T2w)", 3)):
        nnUNetTrainerMoESD(plans, "3d_tiny", 0, dataset_json, torch.device("cpu"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"num_expert": 3}, ("Unknown", "'num_expert'")), ({"temperature": -1}, ("'temperature'", "from 0.01"))],
)
def test_a_mistake_in_the_plans_is_an_error_and_leaves_no_folder(make_trainer, tmp_path, settings, said):
    with pytest.raises(SettingsError, match=facts(*said)):
        make_trainer(**settings)
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_that_was_not_written_whole_leaves_the_one_before(make_trainer, tmp_path, monkeypatch):
    made, save, folder = make_trainer(), torch.save, tmp_path / "checkpoints"
    folder.mkdir()
    file = folder / "checkpoint_best.pth"
    made.save_checkpoint(str(file))
    before = file.read_bytes()

    def torn(content, filename):
        save(content, filename)
        os.truncate(filename, 100)
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", torn)
    with pytest.raises(OSError, match=facts("No space left")):
        made.save_checkpoint(str(file))
    assert file.read_bytes() == before and list(folder.iterdir()) == [file]
    made.disable_checkpointing = True
    made.save_checkpoint(str(folder / "none.pth"))
    assert list(folder.iterdir()) == [file]


def test_what_a_training_that_was_killed_while_it_saved_left_behind_is_removed_when_it_starts(
    make_trainer, monkeypatch
):
    made = make_trainer()
    monkeypatch.setattr(nnUNetTrainer, "on_train_start", lambda _: None)
    file = Path(made.output_folder) / "checkpoint_latest.pth"
    with subprocess.Popen(["true"]) as process:
        process.wait()
    with atomic_write(file) as unfinished:
        unfinished.write_bytes(b"whole")
        left = unfinished.with_name(unfinished.name.replace(f"_{os.getpid()}_", f"_{process.pid}_"))
        left.write_bytes(b"part")
    for rank in (1, 0):
        made.local_rank = rank
        made.on_train_start()
        assert left.exists() is (rank == 1) and file.read_bytes() == b"whole"


STEADY_BLUR = """
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from nnunet_moe.trainers.moesd import nnUNetTrainerMoESD

class nnUNetTrainerSteadyBlur(nnUNetTrainerMoESD):
    @staticmethod
    def get_training_transforms(*args, **kwargs):
        transforms = nnUNetTrainerMoESD.get_training_transforms(*args, **kwargs)
        inner = [getattr(transform, "transform", transform) for transform in transforms.transforms]
        (blur,) = [transform for transform in inner if isinstance(transform, GaussianBlurTransform)]
        assert blur.benchmark
        blur.benchmark = False
        return transforms
"""


def test_a_training_that_was_killed_goes_on_exactly_with_nnunets_c(dataset, preloaded_python, tmp_path, monkeypatch):
    """Weights and losses equal those of a training that ran through: ramp-up, rate, codes and noise all continue.

    nnU-Net's blur takes the faster of two ways to convolve, by a clock that it reads in every process anew; they round
    differently. Here it takes always the same.
    """
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "steady_blur.py").write_text(STEADY_BLUR)
    monkeypatch.setenv("nnUNet_extTrainer", str(tmp_path / "own"))
    dataset.add_configuration("3d_resumed", num_epochs=6, num_iterations_per_epoch=2, num_val_iterations_per_epoch=2)
    final = {}
    for name in ("through", "killed"):
        environment = {**os.environ, "nnUNet_results": str(tmp_path / name)}
        arguments = ["901", "3d_resumed", "0", "-tr", "nnUNetTrainerSteadyBlur", "-device", "cpu"]
        folder = tmp_path / name / "Dataset901_Tiny" / "nnUNetTrainerSteadyBlur__nnUNetPlans__3d_resumed" / "fold_0"
        command = [preloaded_python.with_name("nnUNetv2_train"), *arguments]
        if name == "killed":
            process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
            assert any("Epoch 3" in line for line in process.stdout)
            process.send_signal(signal.SIGKILL)
            process.communicate()  # until nobody writes any more
            assert not (folder / "checkpoint_final.pth").exists() and (folder / "checkpoint_best.pth").exists()
            command.append("--c")
        subprocess.run(command, env=environment, check=True, capture_output=True)
        final[name] = torch.load(folder / "checkpoint_final.pth", weights_only=False)
    for key in ("train_losses", "val_losses", "lrs", "mean_fg_dice"):
        assert final["killed"]["logging"][key] == final["through"]["logging"][key], key
    for name, weights in final["through"]["network_weights"].items():
        assert torch.equal(final["killed"]["network_weights"][name], weights), name


@pytest.mark.parametrize("trainer", [nnUNetTrainerMoESD, nnUNetTrainerDynamicStem])
@pytest.mark.parametrize("bf16", [False, True])
def test_compiled_training_is_one_graph_and_does_not_recompile_from_step_to_step(make_trainer, trainer, bf16):
    """As with `nnUNet_compile=true`, which nnU-Net heeds on GPUs alone, under autocast; the codes change every step."""
    made = make_trainer(trainer)
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    made.network = torch.compile(made.network, backend="aot_eager")
    found = []
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        for epoch in range(2):
            made.current_epoch = epoch
            made.on_train_epoch_start()
            for seed in range(4):
                made.train_step(batch_for(made, dtype=torch.float32, seed=seed))
                found.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
            made.network.eval()
            with torch.no_grad():
                made.on_validation_epoch_start()
                for seed in range(3):
                    made.validation_step(batch_for(made, dtype=torch.float32, seed=seed))
            found.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
            made.network.train()
    assert found == [1, 1, 1, 1, 2, 2, 2, 2, 2, 2]  # one for training, one for validation
    assert not torch._dynamo.utils.counters["graph_break"]


def test_a_trainer_that_differentiates_nothing_cannot_be_made(make_trainer, tmp_path):
    with pytest.raises(TypeError, match=r"abstract method '?backward"):
        make_trainer(type("nnUNetTrainerUnfinished", (nnUNetTrainerMissingModality,), {}))
    assert not list(tmp_path.iterdir())


def test_the_first_process_alone_writes_learning_curves(make_trainer, monkeypatch):
    made = make_trainer()
    monkeypatch.setattr(nnUNetTrainer, "on_epoch_end", lambda _: None)
    made.logger.log("train_losses", 0.5, 0)
    for rank in (1, 0):
        made.local_rank = rank
        made.on_epoch_end()
        assert list(read_training_logs(Path(made.output_folder))) == ([0] if rank == 0 else [])


def test_training_and_validation_use_the_cores_that_the_process_may_use_and_not_all_of_the_machine(
    dataset, tmp_path, monkeypatch
):
    monkeypatch.setattr(joblib, "cpu_count", lambda: 1)
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    dataset.add_configuration("3d_short", num_epochs=1, num_iterations_per_epoch=1)
    before, seen = torch.get_num_threads(), set()
    trainer = nnunet_in_process.make_trainer(901, "3d_short", "nnUNetTrainerMoESD")
    trainer.initialize()
    trainer.network.register_forward_hook(lambda *_: seen.add(torch.get_num_threads()))
    torch.set_num_threads(2)  # as nnU-Net's command does: a thread for each core of the machine
    try:
        trainer.run_training()
        trainer.perform_actual_validation()
        assert seen == {1} and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
