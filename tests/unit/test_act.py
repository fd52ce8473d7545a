"""ACT against its formulas, torch's own layers and the sizes that LeRobot's training logs print."""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from understudy.envs.experts.policy_expert import PolicyExpert
from understudy.envs.rollouts.ensembling import TemporalEnsemble
from understudy.errors import SpecError
from understudy.normaliser import Normaliser
from understudy.policy import Policy
from understudy.randomness import numpy_generator, torch_generator
from understudy.spec.keys import build_run
from understudy.trainables.algorithms.act import ACT, ACTConfig, ACTNetwork, kl_from_standard_normal, masked_l1
from understudy.trainables.algorithms.bc import BC, BCConfig
from understudy.trainables.networks.transformer import (
    Attention,
    DecoderLayer,
    Dropout,
    EncoderLayer,
    LayerSizes,
    draw_masks,
    sine_positions,
    sine_positions_2d,
)
from understudy.trainables.packs.pack import Pack

FORM = LayerSizes(width=16, heads=4, feedforward=24)
SMALL: dict[str, Any] = {
    **{"dim_model": 16, "n_heads": 2, "dim_feedforward": 32, "latent_dim": 4, "n_encoder_layers": 1},
    **{"n_vae_encoder_layers": 1, "horizon_length": 4, "lr": 3e-3},
}
TWO_CAMERAS = {"state": (5,), "front": (32, 32, 3), "wrist": (24, 40, 3)}


def tokens(*shape: int) -> torch.Tensor:
    """Return float64 numbers."""
    return torch.from_numpy(numpy_generator(0, "tokens", *shape).normal(size=shape))


def copy_attention(ours: Attention, theirs: nn.MultiheadAttention) -> None:
    """Give torch's attention our weights, biases that are not zero among them."""
    nn.init.normal_(ours.in_proj.bias, generator=torch_generator(1, "bias"))
    theirs.load_state_dict(
        {
            "in_proj_weight": ours.in_proj.weight,
            "in_proj_bias": ours.in_proj.bias,
            "out_proj.weight": ours.out_proj.weight,
            "out_proj.bias": ours.out_proj.bias,
        }
    )


def copy_feedforward(ours: EncoderLayer | DecoderLayer, theirs: Any, norm: nn.LayerNorm) -> None:
    """Give a layer of torch our feed-forward part."""
    theirs.linear1.load_state_dict(ours.feedforward.widen.state_dict())
    theirs.linear2.load_state_dict(ours.feedforward.narrow.state_dict())
    norm.load_state_dict(ours.feedforward.norm.state_dict())


# ---- layers ----


def test_attention_is_torchs_with_the_same_weights() -> None:
    ours = Attention(FORM, torch_generator(0, "weights")).double()
    theirs = nn.MultiheadAttention(16, 4, batch_first=True, dtype=torch.float64)
    copy_attention(ours, theirs)
    query, key, value = tokens(3, 5, 16), tokens(3, 7, 16), tokens(3, 7, 16).flip(0)
    padding = torch.zeros(3, 7, dtype=torch.bool)
    padding[1, 4:] = padding[2, :2] = True
    expected = theirs(query, key, value, key_padding_mask=padding, need_weights=False)[0]
    torch.testing.assert_close(ours(query, key, value, padding_BM=padding), expected)


def test_an_encoder_layer_is_torchs_with_the_same_weights() -> None:
    ours = EncoderLayer(FORM, torch_generator(0, "weights")).double()
    theirs = nn.TransformerEncoderLayer(16, 4, 24, dropout=0.0, batch_first=True, dtype=torch.float64)
    copy_attention(ours.attention, theirs.self_attn)
    copy_feedforward(ours, theirs, theirs.norm2)
    x = tokens(2, 6, 16)
    torch.testing.assert_close(ours(x), theirs(x))


def test_a_decoder_layer_is_torchs_with_the_same_weights() -> None:
    ours = DecoderLayer(FORM, torch_generator(0, "weights")).double()
    theirs = nn.TransformerDecoderLayer(16, 4, 24, dropout=0.0, batch_first=True, dtype=torch.float64)
    copy_attention(ours.attention, theirs.self_attn)
    copy_attention(ours.cross_attention, theirs.multihead_attn)
    copy_feedforward(ours, theirs, theirs.norm3)
    x, memory = tokens(2, 6, 16), tokens(2, 9, 16)
    torch.testing.assert_close(ours(x, memory), theirs(x, memory))


def test_positions_count_for_queries_and_keys_and_not_for_values() -> None:
    layer = EncoderLayer(FORM, torch_generator(0, "weights")).double()
    x, positions = tokens(2, 6, 16), tokens(6, 16)
    attended = layer.attention(x + positions, x + positions, x)
    torch.testing.assert_close(layer(x, positions), layer.feedforward(layer.norm(x + attended), Dropout()))


def test_padded_tokens_change_nothing_of_the_others() -> None:
    layer = EncoderLayer(FORM, torch_generator(0, "weights")).double()
    x = tokens(2, 6, 16)
    padding = torch.arange(6).expand(2, -1) >= 4
    changed = torch.where(padding[..., None], 7.0, x)
    first, second = layer(x, None, padding), layer(changed, None, padding)
    torch.testing.assert_close(first[:, :4], second[:, :4])
    torch.testing.assert_close(first[:, :4], layer(x[:, :4]))


def test_dropout_masks_keep_their_share_and_the_mean() -> None:
    masks = draw_masks(4000, {"a": (5, 2), "b": (3,)}, 0.3, torch_generator(0, "masks"))
    assert {name: tuple(mask.shape) for name, mask in masks.items()} == {"a": (4000, 5, 2), "b": (4000, 3)}
    assert masks["a"].float().mean().item() == pytest.approx(0.7, abs=0.01)
    dropped = Dropout(masks, 0.3).of("x")  # another layer's name: nothing is dropped
    ones = torch.ones(4000, 5, 2)
    assert torch.equal(dropped("a", ones), ones)
    assert Dropout(masks, 0.3)("a", ones).mean().item() == pytest.approx(1.0, abs=0.02)


def test_positions_of_a_sequence_are_the_published_formula() -> None:
    expected = np.zeros((7, 12))
    for place in range(7):
        for feature in range(12):
            angle = place / 10000 ** (2 * (feature // 2) / 12)
            expected[place, feature] = math.cos(angle) if feature % 2 else math.sin(angle)
    np.testing.assert_allclose(sine_positions(7, 12).numpy(), expected, atol=1e-6)


def test_positions_of_a_map_are_detrs_formula() -> None:
    height, width, features = 3, 5, 16
    expected = np.zeros((height * width, features))
    for row in range(height):
        for column in range(width):
            for half, (place, size) in enumerate(((row, height), (column, width))):
                for feature in range(features // 2):
                    angle = (place + 1) / size * 2 * math.pi / 10000 ** (2 * (feature // 2) / (features // 2))
                    value = math.cos(angle) if feature % 2 else math.sin(angle)
                    expected[row * width + column, half * features // 2 + feature] = value
    np.testing.assert_allclose(sine_positions_2d(height, width, features).numpy(), expected, atol=1e-6)


# ---- the loss ----


def test_the_kl_is_torchs_summed_over_dims() -> None:
    mean, log_variance = tokens(6, 4), tokens(4, 6).t()
    ours = kl_from_standard_normal(mean, log_variance)
    posterior = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    prior = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean))
    torch.testing.assert_close(ours, torch.distributions.kl_divergence(posterior, prior).sum(-1))


def test_the_l1_is_the_mean_over_entries_inside_the_episode() -> None:
    predicted, actions = tokens(3, 5, 2), tokens(3, 2, 5).transpose(1, 2)
    valid = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]], dtype=torch.float64)
    entries = [
        abs(predicted[b, h, a] - actions[b, h, a]).item()
        for b in range(3)
        for h in range(5)
        for a in range(2)
        if valid[b, h]
    ]
    assert len(entries) == 16
    assert masked_l1(predicted, actions, valid).item() == pytest.approx(sum(entries) / 16)
    assert masked_l1(predicted, actions, 0 * valid).item() == 0.0


def batch(shape: Any, size: int = 8, horizon: int = 4) -> dict[str, Any]:
    """Return one member's batch of drawn numbers, two actions a step."""
    random = numpy_generator(3, "act batch")
    arrays = {
        name: torch.from_numpy(random.integers(0, 256, (1, size, *part), dtype=np.uint8))
        if len(part) > 1
        else torch.from_numpy(random.normal(size=(1, size, *part)).astype(np.float32))
        for name, part in (shape if isinstance(shape, dict) else {"": shape}).items()
    }
    actions = torch.from_numpy(random.uniform(-1, 1, (1, size, horizon, 2)).astype(np.float32))
    observations = arrays if isinstance(shape, dict) else arrays[""]
    return {"observations": observations, "actions": actions, "valid": torch.ones(1, size, horizon)}


def test_steps_past_the_episodes_end_have_no_say_in_loss_or_latent() -> None:
    pack = Pack(ACT((5,), 2, ACTConfig(**SMALL)), [0])
    data = batch((5,))
    data["valid"][:, :, 2:] = 0
    changed = {**data, "actions": torch.where(data["valid"][..., None] > 0, data["actions"], 0.5)}
    for name, value in pack.losses(data, 0).items():
        assert value.item() == pytest.approx(pack.losses(changed, 0)[name].item()), name


def test_the_loss_is_l1_and_ten_times_the_divergence_and_held_out_losses_drop_nothing() -> None:
    pack = Pack(ACT((5,), 2, ACTConfig(**SMALL)), [0])
    losses = {name: value.item() for name, value in pack.losses(batch((5,)), 0).items()}
    assert losses["actor_loss"] == pytest.approx(losses["l1_loss"] + 10 * losses["kl_loss"])
    undropped = Pack(ACT((5,), 2, ACTConfig(**SMALL, dropout=0.0)), [0])
    assert undropped.losses(batch((5,)), 0)["actor_loss"].item() == pytest.approx(losses["actor_loss"])
    trained = pack.update(batch((5,)), 1)["actor_loss"].item()
    assert trained != undropped.update(batch((5,)), 1)["actor_loss"].item()


def test_without_the_vae_there_is_no_posterior_and_the_loss_is_the_l1() -> None:
    pack = Pack(ACT((5,), 2, ACTConfig(**SMALL, use_vae=False)), [0])
    assert not [name for name in pack.layout.shapes if name.startswith("posterior")]
    metrics = pack.losses(batch((5,)), 0)
    assert set(metrics) == {"actor_loss", "l1_loss"}
    observations = batch((5,))["observations"]
    still, moved = (pack.act(observations, torch.full((1, 8, 4), scale)) for scale in (0.0, 1.0))
    assert np.array_equal(still, moved)


# ---- the network ----


@pytest.mark.parametrize(
    ("shape", "action_dim", "parameters"),
    [
        ({"state": (14,), "top": (480, 640, 3)}, 14, 51_613_582),  # lerobot/aloha_sim: 480 x 640, one camera
        ({"state": (6,), "front": (480, 640, 3), "wrist": (480, 640, 3)}, 6, 51_597_190),  # SO-100, two cameras
    ],
)
def test_the_default_network_has_as_many_parameters_as_lerobots(shape: Any, action_dim: int, parameters: int) -> None:
    algorithm = ACT(shape, action_dim, ACTConfig(encoder="resnet18", shared_camera_encoder=True))
    network = algorithm.network(torch_generator(0, "weights"))
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert network.token_count() == 2 + 300 * (len(shape) - 1)


def test_pictures_get_a_resnet18_where_no_encoder_is_named_and_states_none() -> None:
    assert ACT({"state": (5,), "front": (32, 32, 3)}, 2, ACTConfig(**SMALL)).config.encoder == "resnet18"
    assert ACT((5,), 2, ACTConfig(**SMALL)).config.encoder is None


def test_every_camera_state_and_goal_has_tokens_that_reach_the_actions() -> None:
    shape = {**TWO_CAMERAS, "goal/front": (32, 32, 3)}
    config = ACTConfig(**SMALL, encoder="impala_small", goal_fusion="late")
    pack = Pack(ACT(shape, 2, config), [0])
    network = pack.members[0]
    assert isinstance(network, ACTNetwork)
    assert network.token_count() == 2 + 4 * 4 + 3 * 5 + 4 * 4
    assert {name.split(".")[1] for name in pack.layout.shapes if name.startswith("encoder.")} == {"front", "wrist"}
    observations = batch(shape)["observations"]
    noise = torch.zeros(1, 8, 4)
    actions = pack.act(observations, noise)
    for name in shape:
        changed = {**observations, name: observations[name].flip(1)}
        assert not np.allclose(actions, pack.act(changed, noise), atol=1e-6), name


def test_frames_of_a_history_are_told_apart() -> None:
    shape = {"state": (10,), "front": (2, 32, 32, 3)}
    pack = Pack(ACT(shape, 2, ACTConfig(**SMALL, encoder="impala_small", history="sequence")), [0])
    observations = batch(shape)["observations"]
    noise = torch.zeros(1, 8, 4)
    swapped = {**observations, "front": observations["front"].flip(2)}
    assert not np.allclose(pack.act(observations, noise), pack.act(swapped, noise), atol=1e-6)


def test_eight_pairs_of_pictures_are_memorised_without_a_state() -> None:
    shape = {"front": (16, 16, 3), "wrist": (12, 20, 3)}
    config = ACTConfig(**{**SMALL, "lr": 1e-3, "dropout": 0.0, "horizon_length": 2}, encoder="impala_small")
    pack = Pack(ACT(shape, 2, config), [0])
    data = batch(shape, horizon=2)
    data["observations"] = {  # each picture of one colour
        name: pixels[:, :, :1, :1].expand_as(pixels) for name, pixels in data["observations"].items()
    }
    for step in range(1, 201):
        pack.update(data, step)
    actions = pack.act(data["observations"], torch.zeros(1, 8, 4))
    assert np.abs(actions - data["actions"].numpy()).mean() < 0.15


def test_the_encoder_has_a_learning_rate_of_its_own() -> None:
    config = ACTConfig(**SMALL, encoder="impala_small", encoder_lr=0.0)
    pack = Pack(ACT({"front": (16, 16, 3)}, 2, config), [0])
    before = pack.member_state(0)["weights"]
    pack.update(batch({"front": (16, 16, 3)}), 1)
    after = pack.member_state(0)["weights"]
    still = {name for name in before if torch.equal(before[name], after[name])}
    assert still == {name for name in before if name.startswith("encoder.")}
    assert still


# ---- settings ----


def test_lerobots_names_of_settings_are_taken() -> None:
    run = build_run({"algo": "act", "chunk_size": 20, "n_action_steps": 10, "vision_backbone": "resnet18"})
    assert (run.config.horizon_length, run.config.chunk_length, run.config.encoder) == (20, 20, "resnet18")
    assert ACTConfig.model_validate({"chunk_size": 7}).horizon_length == 7
    defaults = ACTConfig()
    assert (defaults.chunk_length, defaults.lr, defaults.weight_decay) == (100, 1e-5, 1e-4)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"dim_model": 20, "n_heads": 3}, "dim_model=20 cannot be shared by n_heads=3"),
        ({"dim_model": 18}, "multiple of 4"),
        ({"pooling": "avg", "encoder": "resnet18"}, "pooling=avg"),
        ({"hidden_dims": [64]}, "hidden_dims"),
        ({"chunk_size": 10, "n_action_steps": 11}, "n_action_steps=11 exceeds the actions of a chunk, 10"),
        ({"temporal_ensemble_coeff": 0.01}, "n_action_steps=1"),
    ],
)
def test_settings_that_do_not_fit_are_refused_in_one_line(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said) as caught:
        build_run({"algo": "act", **settings})
    assert "\n" not in str(caught.value)


def test_how_a_chunk_is_executed_is_an_evaluation_time_setting_of_every_algorithm() -> None:
    algorithm = BC((5,), 2, BCConfig(action_chunking=True, horizon_length=4))
    assert {"n_action_steps", "temporal_ensemble_coeff"} <= set(algorithm.evaluation_parameters)
    assert algorithm.executed == 4
    assert algorithm.with_config(n_action_steps=3).executed == 3
    with pytest.raises(ValidationError, match="exceeds the actions of a chunk, 4"):
        algorithm.with_config(n_action_steps=5)
    assert "n_action_steps" not in algorithm.config.model_dump()  # what is not set leaves fingerprints as they were


# ---- temporal ensembling ----


@pytest.mark.parametrize("coefficient", [0.01, 0.0, -0.5, 2.0])
def test_an_ensemble_is_the_weighted_mean_of_the_chunks_that_reach_the_step(coefficient: float) -> None:
    chunks = numpy_generator(0, "chunks").normal(size=(12, 4, 3)).astype(np.float32)
    ensemble = TemporalEnsemble(coefficient)
    for now in range(len(chunks)):
        reaching = [start for start in range(len(chunks)) if start <= now < start + 4]
        weights = [math.exp(-coefficient * age) for age in range(len(reaching))]
        expected = sum(w * chunks[start, now - start] for w, start in zip(weights, reaching, strict=True)) / sum(
            weights
        )
        found = ensemble.add(chunks[now])
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_an_expert_executes_a_part_of_its_chunks_or_their_ensemble() -> None:
    env = gymnasium.make("Pendulum-v1")
    random = numpy_generator(0, "looks")
    looks = random.normal(size=(7, 3)).astype(np.float32)
    for changes in ({"n_action_steps": 3}, {"n_action_steps": 1, "temporal_ensemble_coeff": 0.3}):
        algorithm = ACT((3,), 1, ACTConfig(**SMALL)).with_config(**changes)
        weights = algorithm.network(torch_generator(0, "weights")).state_dict()
        policy = Policy(algorithm, [weights], Normaliser.identity((3,)))
        expert = PolicyExpert(policy)
        expert.reset(env, looks[0], {}, random)
        given = np.stack([expert.act(env, look, {}) for look in looks])
        chunks = policy.act(looks)
        if "temporal_ensemble_coeff" in changes:
            ensemble = TemporalEnsemble(0.3)
            wanted = np.stack([ensemble.add(chunk) for chunk in chunks])
        else:
            wanted = np.concatenate([chunks[0, :3], chunks[3, :3], chunks[6, :1]])
        np.testing.assert_allclose(given, wanted, atol=1e-6)


def test_a_run_on_pictures_says_that_published_weights_are_not_here_unless_a_file_is_named() -> None:
    def notes(**settings: Any) -> list[str]:
        return ACT(TWO_CAMERAS, 2, ACTConfig(**SMALL, **settings)).notes()

    (said,) = notes(encoder="resnet18")
    assert "begins as it is drawn, published ACT's with ImageNet's weights: encoder_weights=FILE" in said
    assert not notes(encoder="resnet18", encoder_weights="resnet18.pt")
    assert not ACT((5,), 2, ACTConfig(**SMALL)).notes()
