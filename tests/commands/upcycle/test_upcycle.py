"""Starting a training with experts from an ordinary nnU-Net."""

import copy
import json
import shutil
from pathlib import Path

import pytest
import torch
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
from nnunetv2.run.run_training import get_trainer_from_args

from facts import facts
from made_networks import batch, planned
from nnunet_moe.architectures.upcycling import UpcyclingSource, upcycled_weights
from nnunet_moe.cli import main
from nnunet_moe.commands.upcycle.request import Request
from nnunet_moe.commands.upcycle.upcycle import upcycle_checkpoint
from nnunet_moe.errors import ModelError, SettingsError
from nnunet_moe.modalities.codes import all_codes
from nnunet_moe.runtime.environment import trainers_known

CPU = torch.device("cpu")
MOESD = "nnUNetTrainerMoESD"


def upcycle(source: Path, out: Path, trainer: str, **options):
    return upcycle_checkpoint(Request(source=source, out=out, trainer=trainer, **options))


def initialised(trainer: str, configuration: str = "3d_tiny"):
    with trainers_known():
        made = get_trainer_from_args("901", configuration, 0, trainer, device=CPU)
    made.initialize()
    return made


@pytest.fixture(scope="module")
def ordinary(dataset, tmp_path_factory):
    """An ordinary nnU-Net with weights that are not its first ones, biases included, and its checkpoint."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("nnUNet_results", str(tmp_path_factory.mktemp("ordinary")))
        trainer = initialised("nnUNetTrainer")
        torch.manual_seed(5)
        with torch.no_grad():
            for parameter in trainer.network.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        file = Path(trainer.output_folder) / "checkpoint_final.pth"
        trainer.save_checkpoint(str(file))
        return trainer, file


@pytest.fixture(autouse=True)
def results_and_precision(tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))
    monkeypatch.setenv("nnunet_moe_bf16", "0")


def outputs(network, x):
    """All resolutions, in evaluation."""
    with torch.inference_mode():
        return network.eval()(x)


@pytest.mark.parametrize("trainer", [MOESD, "nnUNetTrainerMoEStem", "nnUNetTrainerDynamicStem"])
def test_without_noise_it_gives_the_ordinary_networks_output_exactly(ordinary, tmp_path, trainer):
    stock, file = ordinary
    upcycle(file, tmp_path / "up.pth", trainer, noise=0)
    made = initialised(trainer)
    made.network.load_state_dict(torch.load(tmp_path / "up.pth", weights_only=True)["network_weights"])
    x = torch.randn(2, 3, 32, 32, 32, generator=torch.Generator().manual_seed(0))
    for mine, theirs in zip(outputs(made.network, x), outputs(stock.network, x), strict=True):
        assert torch.equal(mine, theirs)
    x[:, 1] = torch.nan  # and with zeros for what is absent
    for mine, theirs in zip(outputs(made.network, x), outputs(stock.network, x.nan_to_num(0)), strict=True):
        assert torch.equal(mine, theirs)


def test_each_expert_is_a_copy_plus_noise_of_the_given_size_and_the_seed_fixes_it(ordinary, tmp_path):
    stock, file = ordinary
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        upcycle(file, tmp_path / f"{name}.pth", MOESD, noise=0.1, seed=seed)
    first, again, other = (torch.load(tmp_path / f"{n}.pth", weights_only=True)["network_weights"] for n in "abc")
    assert all(torch.equal(first[key], again[key]) for key in first)
    key = "encoder.stages.2.0.convs.1.conv.weight"
    assert (first[key] != other[key]).any() and (
        first[key.replace("weight", "gate.weight")] != other[key.replace("weight", "gate.weight")]
    ).any()
    plain = stock.network.state_dict()
    difference = (first[key] - plain[key]) / plain[key].std()
    assert len(difference) == 4 and difference.flatten(1).std(1).tolist() == pytest.approx([0.1] * 4, rel=0.1)
    assert (difference[0] - difference[1]).std() > 0.1
    unmixed = [key for key in plain if first[key].shape == plain[key].shape]
    assert len(unmixed) > 20 and all(torch.equal(first[key], plain[key]) for key in unmixed)
    assert torch.equal(first[key], first["decoder." + key])  # nnU-Net's second name of the same tensor


def test_nnunet_loads_it_as_pretrained_weights(ordinary, tmp_path):
    _, file = ordinary
    main(["upcycle", "-i", str(file), "-tr", MOESD, "-o", str(tmp_path / "up.pth")])
    made = initialised(MOESD)
    load_pretrained_weights(made.network, str(tmp_path / "up.pth"))
    upcycled = torch.load(tmp_path / "up.pth", weights_only=True)["network_weights"]
    own = made.network.state_dict()
    assert all(torch.equal(own[key], upcycled[key]) for key in own if ".seg_layers." not in key)
    assert any((own[key] != upcycled[key]).any() for key in own if ".seg_layers." in key)


def test_the_command_says_how_to_go_on_and_takes_another_configuration(dataset, ordinary, tmp_path, capsys):
    _, file = ordinary
    dataset.add_configuration("3d_seven", num_experts=7, placement=["decoder"])
    out = tmp_path / "up.pth"
    main(["upcycle", "-i", str(file), "-tr", "nnUNetTrainerMoE", "-c", "3d_seven", "-d", "901", "-o", str(out)])
    model = "Dataset901_Tiny 3d_seven FOLD -tr nnUNetTrainerMoE -p nnUNetPlans"
    assert f"nnUNetv2_train {model} -pretrained_weights {out}" in capsys.readouterr().out
    load_pretrained_weights(initialised("nnUNetTrainerMoE", "3d_seven").network, str(out))


@pytest.mark.usefixtures("preloaded_commands")
def test_the_whole_command_trains_from_it(dataset, ordinary, tmp_path):
    _, file = ordinary
    upcycle(file, tmp_path / "up.pth", MOESD)
    dataset.add_configuration("3d_upcycled", num_epochs=1)
    dataset.train(configuration="3d_upcycled", more=("-pretrained_weights", str(tmp_path / "up.pth")))
    assert "Loading pretrained weights from file" in dataset.last_log()
    assert (dataset.model_folder(configuration="3d_upcycled") / "fold_0" / "checkpoint_final.pth").exists()


@pytest.mark.parametrize("trainer", ["nnUNetTrainerSD", "nnUNetTrainerModalityDropout"])
def test_trainers_without_experts_take_an_ordinary_checkpoint_as_it_is(ordinary, tmp_path, trainer):
    with pytest.raises(ModelError, match=facts("nothing to upcycle")):
        upcycle(ordinary[1], tmp_path / "up.pth", trainer)
    made = initialised(trainer)
    load_pretrained_weights(made.network, str(ordinary[1]))
    weights, own = ordinary[0].network.state_dict(), made.network.state_dict()
    assert all(torch.equal(own[key], weights[key]) for key in weights if ".seg_layers." not in key)


def other_network(checkpoint):
    checkpoint["network_weights"]["encoder.stages.9.weight"] = torch.zeros(1)


def other_channels(checkpoint):
    for key in [key for key in checkpoint["network_weights"] if "stages.0.0.convs.0" in key and "conv.weight" in key]:
        checkpoint["network_weights"][key] = torch.zeros(4, 2, 3, 3, 3)


def fewer_modalities(checkpoint):
    other_channels(checkpoint)
    checkpoint["init_args"]["dataset_json"] |= {"channel_names": {"0": "T1w", "1": "FLAIR"}}


def more_modalities(checkpoint):
    checkpoint["init_args"]["dataset_json"] |= {"channel_names": dict(enumerate(("T1w", "T1c", "T2w", "FLAIR")))}


def other_width(checkpoint):
    for key in [key for key in checkpoint["network_weights"] if "stages.2.0.convs.0" in key and "conv.weight" in key]:
        checkpoint["network_weights"][key] = torch.zeros(9, 6, 3, 3, 3)


def no_configuration(checkpoint):
    checkpoint["init_args"]["configuration"] = "3d_gone"


def no_dataset(checkpoint):
    checkpoint["init_args"]["plans"] = {**checkpoint["init_args"]["plans"], "dataset_name": "Dataset999_Gone"}


def no_weights(checkpoint):
    del checkpoint["network_weights"]


def no_plans(checkpoint):
    checkpoint["init_args"] = None


def weights_of_nothing(checkpoint):
    checkpoint["network_weights"] = None


def not_a_number(checkpoint):
    next(iter(checkpoint["network_weights"].values())).fill_(torch.nan)


def unchanged(checkpoint):
    pass


@pytest.mark.parametrize(
    ("change", "trainer", "said"),
    [
        (other_network, MOESD, ("1 weights", "one of the networks only", "encoder.stages.9.weight")),
        (other_channels, MOESD, ("(4, 2, 3, 3, 3) in the checkpoint", "(4, 3, 3, 3, 3)")),
        (
            fewer_modalities,
            MOESD,
            ("2 modalities (T1w, FLAIR)", "has 3 (T1w, T2w, FLAIR)", "-map T1w=T1w FLAIR=FLAIR.", "mean"),
        ),
        (
            more_modalities,
            "nnUNetTrainerMoEStem",
            ("4 modalities (T1w, T1c, T2w, FLAIR)", "-map T1w=T1w T2w=T2w FLAIR=FLAIR."),
        ),
        (more_modalities, "nnUNetTrainer", ("4 modalities (T1w, T1c, T2w, FLAIR)", "has 3")),
        (other_width, "nnUNetTrainerSD", ("(9, 6, 3, 3, 3) in the checkpoint", "(8, 6, 3, 3, 3)")),
        (no_configuration, MOESD, ("'3d_gone'", "2d, 3d_fullres")),
        (no_dataset, MOESD, ("Dataset999_Gone/nnUNetPlans.json", "does not exist")),
        (no_weights, MOESD, ("no nnU-Net checkpoint", "KeyError", "'network_weights'")),
        (no_plans, MOESD, ("no nnU-Net checkpoint", "TypeError")),
        (weights_of_nothing, MOESD, ("no nnU-Net checkpoint", "AttributeError")),
        (not_a_number, MOESD, ("weights", "NaN")),
        (unchanged, "nnUNetTrainer", ("nnUNetTrainer", "no experts")),
        (unchanged, "nnUNetTrainerMoeSD", ("'nnUNetTrainerMoeSD'",)),
    ],
)
def test_what_does_not_fit_is_an_error_and_writes_nothing(ordinary, tmp_path, change, trainer, said):
    checkpoint = torch.load(ordinary[1], weights_only=False)
    change(checkpoint)
    torch.save(checkpoint, tmp_path / "changed.pth")
    with pytest.raises(ModelError, match=facts(*said)):
        upcycle(tmp_path / "changed.pth", tmp_path / "up.pth", trainer)
    assert not list(tmp_path.glob("up*"))


STEM = "encoder.stages.0.0.convs.0.conv.weight"
PLACES = [
    # the checkpoint's channels, the options, and for each of T1w, T2w, FLAIR the channel that it takes; None: the mean
    (("T1w", "FLAIR", "T2w"), (), (0, 2, 1)),
    (("FLAIR",), ("-map", "FLAIR=0", "T1w=0"), (0, None, 0)),
    (("MRI",), ("-map", "FLAIR=MRI", "-map", "T1w=0", "T2w=0"), (0, 0, 0)),
    (("T1c", "T1w", "T2w", "FLAIR"), ("-map", "FLAIR=FLAIR"), (1, 2, 3)),
    (("T1w", "T1c", "FLAIR"), ("-map", "T1w=T1w"), (0, None, 2)),
    (("1", "0"), ("-map", "T1w=1", "T2w=0"), (0, 1, None)),  # a name counts before a number
]


def trained_on(names, ordinary, file):
    """Write the checkpoint as one of a dataset with these channels, and return its network."""
    stock, checkpoint = copy.deepcopy(ordinary[0].network), torch.load(ordinary[1], weights_only=False)
    stem = stock.encoder.stages[0][0].convs[0].conv
    generator = torch.Generator().manual_seed(len(names))
    stem.weight = torch.nn.Parameter(torch.randn(4, len(names), 3, 3, 3, generator=generator))
    stem.in_channels = len(names)
    checkpoint["network_weights"] = stock.state_dict()
    checkpoint["init_args"]["dataset_json"] |= {"channel_names": dict(enumerate(names))}
    torch.save(checkpoint, file)
    return stock


@pytest.mark.parametrize(
    ("trainer", "names", "options", "places"),
    [(MOESD, *each) for each in PLACES] + [("nnUNetTrainerModalityDropout", *PLACES[1])],
)
def test_each_modality_starts_from_its_channel_and_new_ones_from_the_mean(
    ordinary, tmp_path, capsys, trainer, names, options, places
):
    source, out = trained_on(names, ordinary, tmp_path / "source.pth"), tmp_path / "up.pth"
    main(["upcycle", "-i", str(tmp_path / "source.pth"), "-tr", trainer, "-o", str(out), "-noise", "0", *options])
    told, expected = capsys.readouterr().out, source.state_dict()[STEM]
    content = torch.load(out, weights_only=True)
    weights = content["network_weights"]
    of_stem = weights[STEM][0] if trainer == MOESD else weights[STEM]
    for channel, place in enumerate(places):
        assert torch.equal(of_stem[:, channel], expected.mean(1) if place is None else expected[:, place])
        origin = f"channel {place} ({names[place]})" if place is not None else f"the mean of {', '.join(names)}"
        assert f"{('T1w', 'T2w', 'FLAIR')[channel]} from {origin}" in told
    assert "WARNING" not in told and ("map" in content["upcycled_from"]) == bool(options)
    assert all(torch.equal(weights[key], weights[key.removeprefix("decoder.")]) for key in weights if "encoder." in key)
    made = initialised(trainer).network
    made.load_state_dict(weights)
    require_equal_where_nothing_is_new(made.double(), source.double(), places, len(names))


def require_equal_where_nothing_is_new(made, source, places, num_trained):
    """For each choice of modalities of which none is new and no two share a channel, with zeros for the others."""
    images = torch.randn(1, 3, 16, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    checked = 0
    for code in all_codes(3):
        taken = [place for place, is_available in zip(places, code, strict=True) if is_available]
        if None in taken or len(set(taken)) < len(taken):
            continue
        x = torch.where(torch.tensor(code).view(1, 3, 1, 1, 1), images, torch.nan)
        theirs = torch.zeros(1, num_trained, 16, 16, 16, dtype=torch.float64)
        theirs[:, taken] = images[:, list(code)]
        for mine, expected in zip(outputs(made, x), outputs(source, theirs), strict=True):
            torch.testing.assert_close(mine, expected, rtol=1e-10, atol=1e-10)
        checked += 1
    assert checked >= 2


def test_nnunets_own_trainer_takes_a_checkpoint_with_other_channels_too(ordinary, tmp_path):
    source = trained_on(("A", "T2w"), ordinary, tmp_path / "source.pth")
    upcycle(tmp_path / "source.pth", tmp_path / "up.pth", "nnUNetTrainer", channels={"FLAIR": "A"})
    weights, old = torch.load(tmp_path / "up.pth", weights_only=True)["network_weights"], source.state_dict()[STEM]
    assert torch.equal(weights[STEM], torch.stack([old.mean(1), old[:, 1], old[:, 0]], dim=1))


def test_a_residual_network_takes_channels_in_its_stem_and_keeps_the_channels_after_the_images():
    """As those of a cascade's first stage."""
    trained = planned("residual", channels=3, seed=1)  # two modalities and a previous segmentation
    made = planned("residual", channels=4, seed=2)
    source = UpcyclingSource(trained.state_dict(), "nnUNetTrainer", ("A", "B"), {"C": "A"})
    made.load_state_dict(upcycled_weights(source, made, ("B", "C", "D"), noise=0.0))
    stem, old = (network.encoder.stem.convs[0].conv.weight for network in (made, trained))
    assert torch.equal(stem, torch.stack([old[:, 1], old[:, 0], old[:, :2].mean(1), old[:, 2]], dim=1))
    x = batch(channels=4)
    x[:, 2] = 0
    with torch.inference_mode():
        torch.testing.assert_close(made(x), trained(x[:, [1, 0, 3]]), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("-map", "T1c=0"), ("-map T1c=0", "no modality 'T1c'", "T1w, T2w, FLAIR")),
        (("-map", "T1w=3"), ("-map T1w=3", "no channel '3'", "0 (T1w), 1 (T2w), 2 (FLAIR)")),
        (("-map", "T1w=PD"), ("-map T1w=PD", "no channel 'PD'")),
        (("-map", "T1w=-1"), ("-map T1w=-1", "no channel '-1'")),
        (("-map", "T1w=0", "T1w=1"), ("-map", "T1w twice")),
        (("-map", "T1w=0"), ("nothing to upcycle",)),
    ],
)
def test_a_map_that_names_what_does_not_exist_or_changes_nothing_is_refused(ordinary, tmp_path, options, said):
    command = ["upcycle", "-i", str(ordinary[1]), "-tr", "nnUNetTrainerSD", "-o", str(tmp_path / "up.pth")]
    with pytest.raises(SystemExit, match=facts(*said)):
        main([*command, *options])
    assert not list(tmp_path.glob("up*"))


def test_nnunet_starts_a_training_from_a_checkpoint_with_other_channels(ordinary, tmp_path):
    trained_on(("FLAIR",), ordinary, tmp_path / "source.pth")
    upcycle(tmp_path / "source.pth", tmp_path / "up.pth", MOESD, channels={"FLAIR": "0"})
    made = initialised(MOESD)
    load_pretrained_weights(made.network, str(tmp_path / "up.pth"))
    upcycled = torch.load(tmp_path / "up.pth", weights_only=True)["network_weights"]
    assert torch.equal(made.network.state_dict()[STEM], upcycled[STEM])


def test_modalities_with_other_names_are_noted_with_both_lists(ordinary, tmp_path, capsys):
    checkpoint = torch.load(ordinary[1], weights_only=False)
    checkpoint["init_args"]["dataset_json"] |= {"channel_names": {"0": "T1w", "1": "T1c", "2": "FLAIR"}}
    torch.save(checkpoint, tmp_path / "changed.pth")
    for file, is_noted in ((tmp_path / "changed.pth", True), (ordinary[1], False)):
        main(["upcycle", "-i", str(file), "-tr", MOESD, "-o", str(tmp_path / f"up{is_noted}.pth")])
        told = capsys.readouterr().out
        assert ("trained with T1w, T1c, FLAIR. The training to start has T1w, T2w, FLAIR." in told) == is_noted
        assert ("WARNING" in told) == is_noted
    noted, other = (torch.load(tmp_path / f"up{is_noted}.pth")["network_weights"] for is_noted in (True, False))
    assert all(torch.equal(noted[key], other[key]) for key in other)


@pytest.mark.parametrize("trainer", [MOESD, "nnUNetTrainerSD"])
def test_a_model_with_experts_is_not_upcycled_again(ordinary, tmp_path, trainer):
    upcycle(ordinary[1], tmp_path / "up.pth", MOESD)
    checkpoint = torch.load(ordinary[1], weights_only=False)
    checkpoint["network_weights"] = torch.load(tmp_path / "up.pth")["network_weights"]
    torch.save(checkpoint, tmp_path / "moe.pth")
    with pytest.raises(ModelError, match=facts("experts", "already")):
        upcycle(tmp_path / "moe.pth", tmp_path / "again.pth", trainer)


def test_an_inheritance_that_leads_nowhere_is_named(dataset, ordinary, tmp_path):
    plans = json.loads(dataset.plans_file.read_text())
    plans["configurations"]["3d_orphan"] = {"inherits_from": "3d_nowhere"}
    changed = dataset.plans_file.with_name("OrphanPlans.json")
    changed.write_text(json.dumps(plans))
    with pytest.raises(ModelError, match=facts("'3d_orphan'", "OrphanPlans.json")):
        upcycle(ordinary[1], tmp_path / "up.pth", MOESD, plans="OrphanPlans", configuration="3d_orphan")


def test_a_file_that_cannot_be_written_leaves_nothing_behind(ordinary, tmp_path, monkeypatch):
    def fails_half_way(_, file):
        file.write_bytes(b"half")
        raise RuntimeError("unexpected pos 64 vs 0")

    monkeypatch.setattr(torch, "save", fails_half_way)
    with pytest.raises(ModelError, match=facts("up.pth", "written", "unexpected pos")):
        upcycle(ordinary[1], tmp_path / "up.pth", MOESD)
    assert not list(tmp_path.glob("up*"))


def test_other_labels_start_with_new_heads(dataset, ordinary, tmp_path):
    checkpoint = torch.load(ordinary[1], weights_only=False)
    heads = [key for key in checkpoint["network_weights"] if ".seg_layers." in key]
    for key in heads:
        checkpoint["network_weights"][key] = torch.cat([checkpoint["network_weights"][key]] * 3)
    torch.save(checkpoint, tmp_path / "labels.pth")
    upcycle(tmp_path / "labels.pth", tmp_path / "up.pth", MOESD)
    network = initialised(MOESD).network
    load_pretrained_weights(network, str(tmp_path / "up.pth"))
    own, upcycled = network.state_dict(), torch.load(tmp_path / "up.pth", weights_only=True)["network_weights"]
    assert all(torch.equal(own[key], upcycled[key]) for key in own if key not in heads)


def test_bad_options_and_files_are_named(ordinary, tmp_path):
    file, out = ordinary[1], tmp_path / "up.pth"
    for options in ({"noise": -1.0}, {"noise": float("nan")}, {"noise": float("inf")}, {"seed": -1}, {"seed": 2**70}):
        with pytest.raises(SettingsError, match=facts("at least 0")):
            upcycle(file, out, MOESD, **options)
    for name in ("777", "foo"):
        with pytest.raises(ModelError, match=facts(f"-d {name}", "dataset")):
            upcycle(file, out, MOESD, dataset=name)
    with pytest.raises(ModelError, match=facts("up.pth", "folder", "does not exist")):
        upcycle(file, tmp_path / "gone" / "up.pth", MOESD)
    with (
        pytest.MonkeyPatch.context() as patch,
        pytest.raises(ModelError, match=facts("nnUNet_preprocessed", "not set")),
    ):
        patch.delenv("nnUNet_preprocessed")
        upcycle(file, out, MOESD)
    with pytest.raises(SystemExit, match=facts("gone.pth", "does not exist")):
        main(["upcycle", "-i", str(tmp_path / "gone.pth"), "-tr", MOESD, "-o", str(out)])
    (tmp_path / "text.pth").write_text("no checkpoint")
    with pytest.raises(ModelError, match=facts("text.pth", "cannot be read")):
        upcycle(tmp_path / "text.pth", out, MOESD)
    shutil.copy(file, out)
    with pytest.raises(ModelError, match=facts("up.pth", "already exists")):
        upcycle(file, out, MOESD)
