import copy
import pickle

import pytest
import torch

from facts import facts
from made_networks import batch, planned
from nnunet_moe.architectures.shared_encoder_network import SharedEncoderNetwork, _filled
from nnunet_moe.errors import ModelError
from nnunet_moe.modalities.codes import all_codes, drop_modalities
from nnunet_moe.settings.lckd import LCKDSettings


def shared(num_modalities=3, *, others=0, fill_skips=False, seed=0, **more):
    """In float64, with affine parameters that are not those of the start."""
    network = planned(channels=1 + others, seed=seed, **more)
    made = SharedEncoderNetwork(
        network, num_modalities=num_modalities, settings=LCKDSettings(fill_skips=fill_skips)
    ).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return made


def everything_encoded(network, x):
    """What the network computes when every absent modality passes through the encoder as a zero image."""
    available = network.available(x)
    stages = [
        torch.stack(maps, dim=1)
        for maps in zip(
            *[
                network.encoder(torch.cat((x[:, [k]].nan_to_num(0), x[:, network.num_modalities :]), dim=1))
                for k in range(network.num_modalities)
            ],
            strict=True,
        )
    ]
    filled = [_filled(stage, available) for stage in stages]
    skips = filled if network.fill_skips else [*stages[:-1], filled[-1]]
    return network.decoder([reduce(skip.flatten(1, 2)) for reduce, skip in zip(network.reducers, skips, strict=True)])


def with_code(x, code):
    return drop_modalities(x, torch.tensor(code).expand(len(x), -1))


@pytest.mark.parametrize("fill_skips", [False, True])
@pytest.mark.parametrize(("kind", "dimensions"), [("plain", 3), ("plain", 2), ("residual", 3), ("residual", 2)])
@pytest.mark.parametrize("num_modalities", [1, 2, 3, 5])
@pytest.mark.parametrize("others", [0, 2])
def test_what_is_skipped_changes_nothing(fill_skips, kind, dimensions, num_modalities, others):
    network = shared(num_modalities, kind=kind, dimensions=dimensions, others=others, fill_skips=fill_skips)
    x = batch(channels=num_modalities + others, dimensions=dimensions)
    for training in (True, False):
        network.train(training)
        for code in all_codes(num_modalities)[:: max(1, num_modalities - 2)]:
            incomplete = with_code(x, code)
            torch.testing.assert_close(network(incomplete), everything_encoded(network, incomplete), rtol=0, atol=1e-12)
        mixed = x.clone()
        mixed[0, 0] = mixed[1, num_modalities - 1] = torch.nan
        torch.testing.assert_close(network(mixed), everything_encoded(network, mixed), rtol=0, atol=1e-12)


@pytest.mark.parametrize("code", all_codes(3))
@pytest.mark.parametrize("others", [0, 2])
def test_with_the_code_fixed_it_takes_what_is_there(code, others):
    network, x = shared(3, others=others).eval(), batch(channels=3 + others)
    kept = [channel for channel in range(3 + others) if channel >= 3 or code[channel]]
    with torch.no_grad():
        torch.testing.assert_close(network.of_code(x[:, kept], code), network(with_code(x, code)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("code", all_codes(4))
def test_the_encoder_sees_in_prediction_what_is_there_and_the_zero_image_once_a_patch_shape(code):
    network, fresh, seen = shared(4).eval(), shared(4).eval(), []
    network.encoder.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    x = with_code(batch(channels=4), code)
    with torch.inference_mode():
        for _ in range(3):
            network.eval()(x)  # nnU-Net's predictor says so for every case
        assert [len(rows) for rows in seen[:1]] == [2 * sum(code)]
        zeros = [rows for rows in seen if not rows.any()]
        assert sum(len(rows) for rows in seen) == 3 * 2 * sum(code) + len(zeros)
        assert [tuple(rows.shape) for rows in zeros] == [(1, 1, 8, 8, 8)] * (not all(code))
        larger = torch.cat((x, x), dim=2)
        assert torch.equal(network(larger), fresh(larger))
        assert [tuple(rows.shape) for rows in seen if not rows.any()][1:] == [(1, 1, 16, 8, 8)] * (not all(code))


def test_new_weights_are_seen_in_what_is_kept():
    network, other, x = shared().eval(), shared(seed=1).eval(), with_code(batch(), (True, False, False))
    with torch.inference_mode():
        before = network(x)
    network.load_state_dict(other.state_dict())
    with torch.inference_mode():
        assert not torch.allclose(network(x), before)
        assert torch.equal(network(x), other(x))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("num_modalities", [1, 2, 3, 5])
def test_what_stood_in_an_absent_channel_influences_no_output_and_no_gradient(training, num_modalities):
    network = shared(num_modalities).train(training)
    for code in all_codes(num_modalities)[:: max(1, num_modalities - 2)]:
        results = []
        for seed in (2, 3):
            x = batch(channels=num_modalities, seed=4)
            x[:, ~torch.tensor(code)] = batch(channels=num_modalities, seed=seed)[:, ~torch.tensor(code)]
            network.zero_grad()
            logits = network(with_code(x, code))
            logits.sum().backward()
            results.append([logits.detach(), *[p.grad.clone() for p in network.parameters() if p.grad is not None]])
        assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_an_absent_modalitys_feature_is_the_mean_of_those_there_are():
    features = torch.tensor([[1.0, 5.0, 12.0, 100.0], [1.0, 5.0, 12.0, 100.0], [7.0, 7.0, 7.0, 7.0]])[..., None, None]
    available = torch.tensor([[True, True, True, False], [False, True, False, True], [False] * 4])
    filled = _filled(features, available)[..., 0, 0]
    assert filled.tolist() == [[1.0, 5.0, 12.0, 6.0], [52.5, 5.0, 52.5, 100.0], [0.0] * 4]


def test_a_lone_modality_fills_all_and_its_channel_alone_says_which_it_is():
    network = shared(3).eval()
    image = batch(channels=1)
    outputs = []
    for modality in range(3):
        x = torch.full((2, 3, 8, 8, 8), torch.nan, dtype=torch.float64)
        x[:, modality] = image[:, 0]
        outputs.append(network(x, with_features=True))
    for output, modality in zip(outputs, range(3), strict=True):
        assert torch.equal(output.features[:, modality], outputs[0].features[:, 0])
        assert output.available.tolist() == [[k == modality for k in range(3)]] * 2
    assert not torch.allclose(outputs[0].logits, outputs[1].logits)  # the skips know the order


def test_one_modality_is_an_ordinary_network_with_a_reducer_at_every_stage():
    network = shared(1).eval()
    skips = network.encoder(batch(channels=1))
    expected = network.decoder([reduce(skip) for reduce, skip in zip(network.reducers, skips, strict=True)])
    torch.testing.assert_close(network(batch(channels=1)), expected)


@pytest.mark.parametrize("deep_supervision", [False, True])
def test_the_decoder_and_its_heads_are_nnunets(deep_supervision):
    network, ordinary = shared(deep_supervision=deep_supervision), planned(deep_supervision=deep_supervision)
    of_decoder = {name: tensor.shape for name, tensor in ordinary.state_dict().items() if name.startswith("decoder.")}
    own = {name: tensor.shape for name, tensor in network.state_dict().items()}
    differing = {name for name, shape in of_decoder.items() if own[name] != shape}
    assert all(".encoder." in name and name.endswith("weight") for name in differing)  # the stem, one channel wide
    logits, expected = network(batch()), ordinary(batch())
    if not deep_supervision:
        logits, expected = [logits], [expected]
    assert [level.shape for level in logits] == [level.shape for level in expected]


def test_the_teachers_are_part_of_the_weights_and_nothing_else_but_parameters_is():
    network = shared()
    assert network.state_dict().keys() - dict(network.named_parameters(remove_duplicate=False)).keys() == {"teachers"}
    network.teachers[1] = True
    other = shared(seed=1)
    other.load_state_dict(network.state_dict())
    assert other.teachers.tolist() == [False, True, False]


def test_copies_and_pickles_work_on_their_own_weights():
    network, x = shared().eval(), with_code(batch(), (False, True, False))
    with torch.no_grad():
        before = network(x)
        for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
            assert torch.equal(other(x), before)
            for parameter in other.parameters():
                parameter.zero_()
            assert torch.equal(network(x), before) and not other(x).any()


def test_networks_that_nnunet_does_not_plan_are_refused():
    with pytest.raises(ModelError, match=facts("Sequential", "encoder", "decoder")):
        SharedEncoderNetwork(torch.nn.Sequential(), num_modalities=3, settings=LCKDSettings())


@pytest.mark.parametrize("training", [False, True])
def test_compiled_it_is_one_graph_that_serves_every_code(training):
    network = shared().train(training)
    torch.compiler.reset()
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    with torch.set_grad_enabled(training):
        for code in all_codes(3):
            x = with_code(batch(), code)
            found, expected = (run(x, with_features=training) for run in (compiled, network))
            assert type(found) is type(expected)
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
