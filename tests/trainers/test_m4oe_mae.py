"""Phase one of M4oE: experts of image types reconstruct what is masked, and phase two starts from there."""

import json
from pathlib import Path

import pytest
import torch

from facts import facts
from made_networks import of_image_types, without_drop_path
from nnunet_in_process import make_trainer, train
from nnunet_moe.architectures.masked_autoencoder import MASKED_PATCH, MaskedAutoencoder, enlarged
from nnunet_moe.architectures.swin_network import swin_unet
from nnunet_moe.architectures.swin_unet import PatchExpanding
from nnunet_moe.cli import main
from nnunet_moe.commands.demo.small_configuration import add_small_configuration
from nnunet_moe.errors import ModelError
from nnunet_moe.losses.m4oe import reconstruction_loss
from nnunet_moe.settings.m4oe import M4oESettings

MAE, M4OE = "nnUNetTrainerM4oEMAE", "nnUNetTrainerM4oE"


@pytest.fixture(autouse=True)
def single_precision(monkeypatch):
    monkeypatch.setenv("nnunet_moe_bf16", "0")


def autoencoder(patch_size=(50, 38), num_modalities=3):
    torch.manual_seed(0)
    settings = M4oESettings(placement=("encoder", "decoder"), routing="image_type", width=12)
    plain = swin_unet(2, patch_size, num_modalities, settings)
    return MaskedAutoencoder(plain, num_modalities=num_modalities, settings=settings).eval()


def test_the_loss_is_the_squared_error_where_it_counts():
    image, found = torch.tensor([[[[1.0, 2.0, 3.0]]]]), torch.tensor([[[[1.5, 4.0, 9.0]]]])
    counted = torch.tensor([[[[True, True, False]]]])
    assert reconstruction_loss(found, image, counted).item() == pytest.approx((0.25 + 4) / 2)
    assert reconstruction_loss(found, image, torch.zeros_like(counted)).item() == 0


def test_what_is_masked_changes_nothing_and_what_is_not_does():
    made, size = autoencoder(), (50, 38)
    x = of_image_types([0, 2], size)
    masked = torch.zeros(2, 4, 4, dtype=torch.bool)
    masked[0, 1:3, 0], masked[1, 0, 1] = True, True
    pixels = enlarged(masked, MASKED_PATCH)[:, None, : size[0], : size[1]]
    with torch.inference_mode():
        found = made(x, masked)
        assert found.shape == (2, 1, *size)
        assert torch.equal(made(torch.where(pixels, x + 7, x), masked), found)
        assert not torch.allclose(made(torch.where(pixels, x, x + 7), masked), found, atol=1e-3)


def test_each_token_becomes_a_square_of_its_own():
    torch.manual_seed(0)
    expanding = PatchExpanding(8, 4, 2)
    tokens = torch.randn(1, 3, 5, 8)
    changed = tokens.clone()
    changed[0, 1, 3] += 1
    with torch.inference_mode():
        differs = (expanding(tokens) != expanding(changed)).any(dim=-1)[0]
    assert differs.nonzero().tolist() == [[2, 6], [2, 7], [3, 6], [3, 7]]


def test_the_last_layer_has_the_pixels_of_a_patch_row_by_row():
    made = autoencoder((64, 64))
    with torch.no_grad():
        made.reconstruction.to_pixels.weight.zero_()
        made.reconstruction.to_pixels.bias.copy_(torch.arange(16.0))
        found = made.reconstruction(torch.randn(1, 2, 2, 96))
    assert torch.equal(found, torch.arange(16.0).reshape(4, 4).repeat(1, 1, 16, 16))


def test_only_the_encoder_with_the_experts_of_the_batchs_kinds_is_trained():
    made = without_drop_path(autoencoder().train())
    masked = torch.zeros(2, 4, 4, dtype=torch.bool)
    masked[:, :2] = True
    x = of_image_types([2, 2], (50, 38))
    made(x, masked).square().sum().backward()
    for name, parameter in made.named_parameters():
        if name.startswith("decoder.") or ".gate." in name:
            assert parameter.grad is None and not parameter.requires_grad, name
        elif ".mlp.weight_" in name or ".mlp.bias_" in name:
            assert parameter.grad[2].any() and not parameter.grad[:2].any(), name
        else:
            assert parameter.grad is not None and parameter.grad.any(), name


def test_it_does_not_segment():
    made = autoencoder()
    with pytest.raises(ModelError, match=facts("pre-training", "cannot segment")):
        made.require_segmentation()
    with pytest.raises(ModelError, match=facts("pre-training", "cannot segment")):
        made(of_image_types([0], (50, 38)))


def test_a_compiled_autoencoder_is_one_graph_and_the_same_function():
    made = autoencoder()
    compiled = torch.compile(made, backend="eager", fullgraph=True)
    masked = torch.zeros(2, 4, 4, dtype=torch.bool)
    masked[:, :3] = True
    for image_types in ([0, 2], [1, 1]):
        x = of_image_types(image_types, (50, 38))
        torch.testing.assert_close(compiled(x, masked), made(x, masked), rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def pretrained(two_image_types, dataset, tmp_path_factory):
    """The trainer after a pre-training, and what its network was before."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("nnunet_moe_bf16", "0")
        patch.setenv("nnUNet_results", str(tmp_path_factory.mktemp("results")))
        plans = dataset.workspace.preprocessed / two_image_types.name / "nnUNetPlans.json"
        length = {"num_epochs": 3, "num_iterations_per_epoch": 5, "num_val_iterations_per_epoch": 2}
        small = {"patch_size": [36, 40], "features_per_stage": [4, 6], "batch_size": 6}
        add_small_configuration(plans, "large", **small, settings={**length, "width": 12})
        before = make_trainer(904, "large", MAE)
        before.initialize()
        first = {name: weights.clone() for name, weights in before.network.state_dict().items()}
        yield train(904, "large", MAE), first


def test_pretraining_trains_the_encoder_and_leaves_decoder_and_gates_as_they_were_drawn(pretrained):
    trainer, before = pretrained
    checkpoint = torch.load(Path(trainer.output_folder) / "checkpoint_final.pth", weights_only=True)
    after = checkpoint["network_weights"]
    assert after.keys() == before.keys()
    for name, weights in after.items():
        is_left = name.startswith("decoder.") or ".gate." in name
        assert torch.equal(weights, before[name]) == is_left, name
    assert trainer._best_ema < 0  # by what nnU-Net chooses the best epoch: the loss with its sign changed


def test_the_setting_is_swin_maes(pretrained):
    trainer, _ = pretrained
    assert (trainer.masked_ratio, MASKED_PATCH, trainer.oversample_foreground_percent) == (0.75, 16, 0.0)
    assert all(group["betas"] == (0.9, 0.95) for group in trainer.optimizer.param_groups)
    transforms = trainer.get_training_transforms(None, None, None, (0, 1), False)
    assert [(type(each).__name__, each.allowed_axes) for each in transforms.transforms] == [("MirrorTransform", (0, 1))]
    batch = {"data": of_image_types([0, 1], (36, 40), 2), "target": torch.zeros(2, 1, 36, 40, dtype=torch.int16)}
    with torch.no_grad():
        losses = [trainer.validation_step(batch)["loss"].item() for _ in range(4)]
    assert losses[0] == losses[2] != losses[1] == losses[3]  # two iterations an epoch, each with patches of its own


def test_what_is_padded_does_not_count(pretrained):
    """The images have 20 by 22 pixels, the patch 36 by 40."""
    trainer, _ = pretrained
    trainer.on_train_start()
    batch = next(trainer.dataloader_train)
    assert ((batch["target"] == -1).float().mean() > 0.5) and set(batch["target"].unique().tolist()) <= {-1, 0, 1, 2}
    trainer.network.eval()
    with torch.no_grad():
        loss = trainer._loss_of(batch["data"], batch["target"], seed=1)
        spoilt = batch["data"].clone()
        outside = (batch["target"] == -1).expand_as(spoilt) & spoilt.isfinite()
        trainer.masked_ratio = 1.0  # so that what is outside cannot be seen either
        first = trainer._loss_of(batch["data"], batch["target"], seed=1)
        spoilt[outside] += 5
        assert torch.equal(trainer._loss_of(spoilt, batch["target"], seed=1), first)
        del trainer.masked_ratio
    assert loss > 0 and loss != first


def test_phase_two_starts_with_the_trained_encoder_by_nnunets_own_option(pretrained, tmp_path, monkeypatch):
    trainer, _ = pretrained
    file = Path(trainer.output_folder) / "checkpoint_final.pth"
    weights = torch.load(file, weights_only=True)["network_weights"]
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    made = make_trainer(904, "large", M4OE, pretrained=str(file))
    own = made.network.state_dict()
    assert {name for name in own if ".seg_layers." not in name} <= weights.keys()
    for name, mine in own.items():
        assert torch.equal(mine, weights[name]) or ".seg_layers." in name, name
    assert all(parameter.requires_grad for parameter in made.network.parameters())
    made.run_training()
    trained = made.network.state_dict()
    assert all(not torch.equal(trained[name], weights[name]) for name in weights.keys() & trained.keys())


def test_it_is_refused_at_once_wherever_something_is_to_be_segmented(pretrained, two_image_types, tmp_path):
    model = ("-d", "904", "-c", "large", "-tr", "nnUNetTrainerM4oEMAE", "-f", "0")
    images = ("-i", str(two_image_types / "imagesTr"))
    for verb, *more in (
        ("predict", *images),
        ("evaluate", *images, "-l", str(two_image_types / "labelsTr")),
        ("export", "-m", "CT", "--onnx"),
        ("package", "--target", "plain"),
    ):
        with pytest.raises(SystemExit, match=facts(f"nnunet_moe {verb}: ", "pre-training", "cannot segment")):
            main([verb, *model, *more, "-o", str(tmp_path / verb)])
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".json"]


def test_the_channel_gate_has_other_gates_and_nnunet_says_so(pretrained, tmp_path, monkeypatch):
    trainer, _ = pretrained
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    with pytest.raises(AssertionError, match=facts("gate.weight", "not the same")):
        make_trainer(
            904, "large", M4OE + "ChannelGate", pretrained=str(Path(trainer.output_folder) / "checkpoint_final.pth")
        )


def test_the_plans_tell_the_length_of_pretraining(pretrained):
    trainer, _ = pretrained
    plans = json.loads((Path(trainer.output_folder_base) / "plans.json").read_text())
    assert plans["configurations"]["large"]["nnunet_moe"]["num_epochs"] == 3 == trainer.current_epoch
