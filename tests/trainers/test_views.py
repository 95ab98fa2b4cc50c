"""The settings of views, averaged weights and the last phase, on trainers that need no data."""

import copy
import math

import pytest
import torch

from made_trainers import TRAINERS, levels_of, made_trainer
from nnunet_moe.errors import SettingsError
from nnunet_moe.losses.any_subset import ranking_loss, soft_overlap
from nnunet_moe.modalities.codes import all_codes, available_modalities, drop_modalities
from nnunet_moe.settings.two_views import TwoViewsSettings
from nnunet_moe.trainers.code_needs import MEMORY, CodeNeeds

BASELINE, WITH_DISTILLATION = "nnUNetTrainerModalityDropout", "nnUNetTrainerSD"
CODES = all_codes(3)


@pytest.fixture
def trainer_with(tmp_path, monkeypatch):
    """Trainers in 2D with the given settings, the same initial weights each time."""
    made = []

    def make(name=BASELINE, **settings):
        folder = tmp_path / str(len(made))
        made.append(made_trainer(name, folder, monkeypatch, patch_size=[16, 16], **settings))
        return made[-1]

    return make


def batch_of(trainer, seed=0, incomplete=True):
    generator = torch.Generator().manual_seed(seed)
    data = torch.randn(2, 3, 16, 16, generator=generator)
    if incomplete:
        data[1, 0] = torch.nan
    label = torch.randint(0, 2, (2, 1, 16, 16), generator=generator).to(torch.int16)
    return {"data": data, "target": levels_of(trainer, label), "keys": ["a", "b"]}


def weights(trainer):
    return {name: parameter.detach().clone() for name, parameter in trainer.network.named_parameters()}


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def gradients(trainer):
    return {name: p.grad.clone() for name, p in trainer.network.named_parameters() if p.grad is not None}


def epoch(trainer, seeds=(0, 1)):
    """A training epoch up to the start of its validation."""
    trainer.on_train_epoch_start()
    outputs = [trainer.train_step(batch_of(trainer, seed)) for seed in seeds]
    trainer.on_train_epoch_end(outputs)
    trainer.on_validation_epoch_start()
    return [float(output["loss"]) for output in outputs]


def test_with_layers_by_code_a_training_starts_as_modality_dropout(trainer_with):
    plain, by_code = trainer_with(), trainer_with(norm_by_code=True, rank=4)
    first, same = (trainer.train_step(batch_of(trainer)) for trainer in (plain, by_code))
    assert first["loss"] == pytest.approx(same["loss"], rel=1e-5)
    assert len(weights(by_code)) > len(weights(plain))


def test_the_full_view_is_the_batch_itself_or_a_superset_of_the_dropped_view(trainer_with):
    complete, nested = trainer_with(), trainer_with(full_view="superset", complete_share=0.0)
    data = batch_of(complete)["data"]
    seen = set()
    for iteration in range(40):
        dropped = drop_modalities(data, nested.draw_codes(data, iteration))
        assert complete.full_view(data, dropped, iteration) is data
        full = nested.full_view(data, dropped, iteration)
        subset, superset, available = (available_modalities(view) for view in (dropped, full, data))
        assert (subset <= superset).all() and (superset <= available).all()
        assert ((subset == superset).all(dim=1) == (subset == available).all(dim=1)).all()
        assert torch.equal(full.nan_to_num(9), drop_modalities(data, superset).nan_to_num(9))
        seen |= {tuple(code) for code in superset.tolist()}
    assert len(seen) > 3


@pytest.mark.parametrize("is_right", [True, False])
def test_the_ranking_loss_changes_a_gradient_only_where_more_modalities_have_a_larger_loss(trainer_with, is_right):
    weight = 3.0
    trainer, plain = trainer_with(ranking_weight=weight), trainer_with()
    batch = batch_of(trainer)
    data, target = batch["data"], batch["target"]
    loss_of = type(trainer).full_view_loss, type(trainer).dropped_view_loss
    full, dropped = data, drop_modalities(data, trainer.draw_codes(data, 0))
    values = [plain.loss(plain.network(view), target).item() for view in (full, dropped)]
    if (values[0] <= values[1]) != is_right:  # give both trainers the other order of the views
        full, dropped = dropped, full
        for each in (trainer, plain):
            each.full_view_loss = lambda data, target, each=each: loss_of[0](each, full, target)
            each.dropped_view_loss = lambda data, target, *more, each=each: loss_of[1](each, dropped, target, *more)
    parts = trainer.backward(data, target, 0)
    found = gradients(trainer)
    l_full, l_dropped = (plain.loss(plain.network(view), target) for view in (full, dropped))
    (l_full + l_dropped + (0 if is_right else weight * (l_full - l_dropped))).backward()
    for name, expected in gradients(plain).items():
        torch.testing.assert_close(found[name], expected, rtol=1e-4, atol=1e-6)
    assert (float(parts["weight L_rank"]) == 0) == is_right


def test_the_ranking_loss_is_a_hinge():
    one, two = (torch.tensor(value, requires_grad=True) for value in (1.0, 2.0))
    assert float(ranking_loss(one, two)) == 0 and float(ranking_loss(two, one)) == 1
    ranking_loss(one, two).backward()
    assert one.grad == two.grad == 0


@pytest.mark.parametrize("decay", [0.05, 0.999])
def test_the_average_is_the_recursion_of_the_weights_after_each_step(trainer_with, decay):
    trainer = trainer_with(ema_decay=decay)
    trainer.on_train_epoch_start()
    expected = weights(trainer)
    outputs = []
    for step in range(4):
        outputs.append(trainer.train_step(batch_of(trainer, step)))
        d = min(decay, (1 + step) / (10 + step))
        expected = {name: d * expected[name] + (1 - d) * now for name, now in weights(trainer).items()}
    trained = weights(trainer)
    trainer.on_train_epoch_end(outputs)
    assert equal(weights(trainer), trained)
    trainer.on_validation_epoch_start()
    for name, value in weights(trainer).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-7)
    trainer.current_epoch = 0
    trainer.on_train_epoch_start()
    assert equal(weights(trainer), trained)


SETTINGS = [
    {"ema_decay": 0.9},
    {"need_power": 2.0},
    {
        "ema_decay": 0.9,
        "ema_teacher": True,
        "full_view": "superset",
        "need_power": 1.0,
        "norm_by_code": True,
        "rank": 2,
    },
]


@pytest.mark.parametrize("settings", SETTINGS, ids=["average", "need", "all"])
def test_a_resumed_training_goes_on_as_if_it_had_not_stopped(trainer_with, tmp_path, settings):
    whole = trainer_with(WITH_DISTILLATION, num_epochs=2, **settings)
    epoch(whole)
    saved_weights = weights(whole)
    file = tmp_path / "checkpoint.pth"
    whole.save_checkpoint(str(file))
    torch.load(file, weights_only=True)

    resumed = trainer_with(WITH_DISTILLATION, num_epochs=2, **settings)
    resumed.load_checkpoint(str(file))
    assert equal(weights(resumed), saved_weights)
    for trainer in (whole, resumed):
        trainer.current_epoch = 1
    assert epoch(whole, seeds=(2, 3)) == epoch(resumed, seeds=(2, 3))
    assert equal(weights(whole), weights(resumed))
    if whole.needs is not None:
        assert torch.equal(whole.needs.weights, resumed.needs.weights) and len(set(whole.needs.weights.tolist())) > 1


def test_a_checkpoint_without_averages_can_be_resumed_with_them(trainer_with, tmp_path):
    file = tmp_path / "checkpoint.pth"
    trainer_with().save_checkpoint(str(file))
    resumed = trainer_with(ema_decay=0.9, need_power=1.0)
    resumed.load_checkpoint(str(file))
    assert all(math.isfinite(loss) for loss in epoch(resumed))


def test_the_averaged_teacher_has_no_gradient_and_computes_the_full_view(trainer_with):
    trainer = trainer_with(
        WITH_DISTILLATION, ema_decay=0.9, ema_teacher=True, ramp_up_fraction=0.0, full_view="superset"
    )
    trainer.on_train_epoch_start()
    trainer.train_step(batch_of(trainer, 5))
    trained = weights(trainer)
    trainer.average.show()
    averaged_network = copy.deepcopy(trainer.network)
    trainer.average.begin()
    assert not equal(trained, dict(averaged_network.named_parameters()))

    batch, iteration = batch_of(trainer), 3
    data, target = batch["data"], batch["target"]
    trainer.network.zero_grad()
    parts = trainer.backward(data, target, iteration)
    found = gradients(trainer)
    assert equal(weights(trainer), trained) and set(parts) == {"L_seg dropped", "w beta L_sd"}

    trainer.network.zero_grad()
    dropped = drop_modalities(data, trainer.draw_codes(data, iteration))
    with torch.no_grad():
        teacher = averaged_network(trainer.full_view(data, dropped, iteration))
    logits = trainer.network(dropped)
    loss = trainer.loss(logits, target) + trainer.self_distillation(logits, teacher, [None] * len(teacher))
    loss.backward()
    assert float(sum(parts.values())) == pytest.approx(float(loss), rel=1e-5)
    for name, expected in gradients(trainer).items():
        torch.testing.assert_close(found[name], expected, rtol=1e-4, atol=1e-6)


def test_needs_are_one_minus_the_dice_of_all_views_of_an_epoch():
    needs = CodeNeeds(CODES, power=2.0, floor=0.3, num_labels=2, device=torch.device("cpu"))
    assert torch.allclose(needs.weights, torch.full((7,), 1 / 7, dtype=torch.float64))
    generator = torch.Generator().manual_seed(0)
    codes, dices = torch.tensor([CODES[0], CODES[6], CODES[0]]), []
    for _ in range(2):
        overlap = torch.rand(3, 2, 2, generator=generator) * torch.tensor([1.0, 2.0])
        overlap[:, 1] = 0  # a label that is neither annotated nor predicted does not count
        needs.count(codes, overlap)
        needs.end_epoch()
        first = float((overlap[0, 0, 0] + overlap[2, 0, 0]) / (overlap[0, 0, 1] + overlap[2, 0, 1]))
        dices.append([first, float(overlap[1, 0, 0] / overlap[1, 0, 1])])
    running = [MEMORY * before + (1 - MEMORY) * now for before, now in zip(*dices, strict=True)]
    assert needs.dice[[0, 6]].tolist() == pytest.approx(running, rel=1e-5)
    assert needs.dice[1:6].isnan().all()
    need = [(1 - running[0]) ** 2, *[1.0] * 5, (1 - running[1]) ** 2]
    expected = [0.3 / 7 + 0.7 * each / sum(need) for each in need]
    assert needs.weights.tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("regions", [False, True])
def test_soft_overlaps_give_the_soft_dice_of_each_item(regions):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.float64)
    valid = torch.rand(2, 1, 4, 5, generator=generator) > 0.3
    if regions:
        target = torch.rand(2, 4, 4, 5, generator=generator) > 0.5  # the last one is the ignore label
        probabilities, masks = logits.sigmoid(), [target[:, channel] for channel in range(3)]
    else:
        target = torch.randint(0, 3, (2, 1, 4, 5), generator=generator)
        probabilities, masks = logits.softmax(dim=1)[:, 1:], [target[:, 0] == label for label in (1, 2)]
    found = soft_overlap(logits, target, valid, regions=regions)
    for item in range(2):
        for channel, mask in enumerate(masks):
            p, t = probabilities[item, channel][valid[item, 0]], mask[item][valid[item, 0]].double()
            assert found[item, channel].tolist() == pytest.approx([float(2 * (p * t).sum()), float((p + t).sum())])


def test_a_training_draws_more_often_what_it_does_worse(trainer_with):
    trainer = trainer_with(need_power=3.0, need_floor=0.1)
    trainer.needs.dice = torch.tensor([0.1, 0.95, 0.95, 0.95, 0.95, 0.95, 0.95], dtype=torch.float64)
    data = batch_of(trainer, incomplete=False)["data"]
    drawn = [tuple(code) for iteration in range(200) for code in trainer.draw_codes(data, iteration).tolist()]
    assert drawn.count(CODES[0]) / len(drawn) == pytest.approx(float(trainer.needs.weights[0]), abs=0.1)
    assert float(trainer.needs.weights[0]) > 0.9


def test_in_the_last_phase_only_weights_that_depend_on_the_code_keep_their_rate(trainer_with):
    trainer = trainer_with(norm_by_code=True, rank=2, code_phase_fraction=0.25, num_epochs=8)
    stock = trainer_with(num_epochs=8)
    shared, of_codes = trainer.optimizer.param_groups
    names = {id(parameter): name for name, parameter in trainer.network.named_parameters()}
    assert len(shared["params"]) + len(of_codes["params"]) == len(names)
    assert {names[id(p)].split(".")[-1] for p in of_codes["params"]} == {"weight", "outputs", "inputs", "space"}
    assert all(
        any(part in names[id(p)] for part in ("scaling", "outputs", "inputs", "space")) for p in of_codes["params"]
    )
    assert not any("scaling" in names[id(p)] for p in shared["params"])
    assert {key: value for key, value in of_codes.items() if key != "params"} == {
        key: value for key, value in stock.optimizer.param_groups[0].items() if key != "params"
    }
    for number in range(8):
        for each in (trainer, stock):
            each.lr_scheduler.step(number)
        rate = stock.optimizer.param_groups[0]["lr"]
        assert of_codes["lr"] == rate and shared["lr"] == pytest.approx(rate * (0.01 if number >= 6 else 1))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"ema_teacher": True}, "ema_decay"),
        ({"ema_teacher": True, "ema_decay": 0.9, "ranking_weight": 1.0}, "ranking_weight"),
        ({"code_phase_fraction": 0.2}, "norm_by_code"),
        ({"full_view": "all"}, "superset"),
    ],
)
def test_settings_that_do_not_fit_each_other_are_refused(trainer_with, settings, said):
    with pytest.raises(SettingsError, match=said):
        trainer_with(**settings)


def test_the_papers_trainers_use_none_of_these_settings_by_default():
    default = TwoViewsSettings()
    new = set(vars(default)) - {"placement", "item_kernels"}
    for name, trainer in TRAINERS.items():
        settings = trainer.settings_class()
        if isinstance(settings, TwoViewsSettings):
            assert {key: vars(settings)[key] for key in new} == {key: vars(default)[key] for key in new}, name
    assert (default.full_view, default.need_power, default.ranking_weight, default.norm_by_code) == (
        "complete",
        0,
        0,
        False,
    )
    assert (default.rank, default.ema_decay, default.ema_teacher, default.code_phase_fraction) == (0, 0, False, 0)
