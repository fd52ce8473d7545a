"""What every registered algorithm must do. A new algorithm is tested here without an edit.

Shapes: K members, B samples, H steps of the chunk, A action dims, O observation dims.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from understudy.algorithm import EXPERT, Algorithm, Batch
from understudy.errors import CheckpointError, TrainingDiverged, UserError
from understudy.normaliser import Normaliser
from understudy.randomness import numpy_generator, torch_generator
from understudy.registry import algorithms
from understudy.spec.parts import Chunks
from understudy.trainables.loops.agent import Agent
from understudy.trainables.loops.contract import MadeUp
from understudy.trainables.packs import running
from understudy.trainables.packs.captured import Captured
from understudy.trainables.packs.pack import Pack
from understudy.trainables.packs.runners import Looped
from understudy.trainables.packs.tape import Tape

OBSERVATION, ACTION, HORIZON = 5, 3, 4
NAMES = algorithms.names()
IN_CHUNKS = [name for name in NAMES if issubclass(algorithms.get(name).Config, Chunks)]
IMITATE = [name for name in NAMES if not algorithms.get(name).Config().sampling.transitions]
"""Those that learn the actions that they are shown, and not from what these led to."""

CHUNK: dict[str, Any] = {"action_chunking": True, "horizon_length": HORIZON}
SMALL_BLOCKS: dict[str, Any] = {"dim_model": 16, "n_heads": 2, "n_layers": 1}
WINDOW: dict[str, Any] = {"obs_horizon": OBSERVATION}
"""Each number of an observation is a step."""
# Sizes that are quick to train, of algorithms that are not sized by hidden_dims.
SIZES: dict[str, dict[str, Any]] = {
    "act": {
        **{"dim_model": 16, "n_heads": 2, "dim_feedforward": 32, "latent_dim": 4},
        **{"n_encoder_layers": 1, "n_vae_encoder_layers": 1, "lr": 1e-3, "action_chunking": False},
    },
    "diffusion_policy": {
        **{"down_dims": (16, 16), "step_embed_dim": 8, "n_groups": 4, "kernel_size": 3, "lr": 1e-3},
        **{"diffusion_steps": 5, "action_chunking": False},
    },
    "flow_transformer": {**SMALL_BLOCKS, "lr": 1e-3, "action_chunking": False},
    "reward_classifier": {"latent_dim": 16, "hidden_dim": 16},
    "ipmd": {"hidden_dims": (32, 32), "reward_hidden_dims": (32,)},
    "bc_rnn": {**WINDOW, "rnn_hidden_dim": 16},
    "bc_transformer": {**WINDOW, **SMALL_BLOCKS, "lr": 1e-3},
    "vq_bet": {**WINDOW, **SMALL_BLOCKS, "lr": 1e-3, "codes": 4, "action_chunking": False},
}
OTHER_SIZES: dict[str, dict[str, Any]] = {
    "act": {"dim_model": 32},
    "reward_classifier": {"hidden_dim": 32},
    "diffusion_policy": {"down_dims": (8, 16)},
    "flow_transformer": {"dim_model": 8},
    "bc_rnn": {"rnn_hidden_dim": 8},
    "bc_transformer": {"dim_model": 8},
    "vq_bet": {"dim_model": 8},
}
# Settings that let an algorithm memorise within a second; those not named here do it with their defaults.
QUICK: dict[str, dict[str, Any]] = {
    "ddpm_bc": {"ema_rate": 0.02, "dropout": 0.0},
    "gc_ddpm_bc": {"ema_rate": 0.02, "dropout": 0.0},
    "act": {"dim_model": 32, "dropout": 0.0},
    "diffusion_policy": {"ema_rate": 0.02, "dropout": 0.0},
    "reward_classifier": {"dropout": 0.0},
    "bc_rnn": {"rnn_hidden_dim": 32, "lr": 1e-2},
    "vq_bet": {"dropout": 0.0},
    "bc_transformer": {"dropout": 0.0, "dim_model": 32, "lr": 1e-2, "modes": 2},
}
ROUNDING = ("act", "diffusion_policy")
"""Those with biases of hardly any effect (of attention's keys, before a norm): Adam must not make steps of rounding."""
UPDATES = {"act": 300}
"""Within which it memorises; 1000 for those not named here."""
SETTINGS = [
    *[(name, {}) for name in NAMES],
    *[(name, CHUNK) for name in IN_CHUNKS],
    *[("flow_bc", {"actor": actor}) for actor in ("one_step", "best_of_n")],
    ("hilserl", {"gripper": "discrete"}),
    ("diffusion_policy", {"denoiser": "transformer", **CHUNK, **SMALL_BLOCKS}),
    *[("bc_rnn", {"policy": policy}) for policy in ("gaussian", "mse")],
    ("bc_transformer", {"policy": "mse"}),
]


def _kind(settings: dict[str, Any]) -> str:
    named = [settings[key] for key in ("actor", "gripper", "denoiser", "policy") if key in settings]
    return named[0] if named else "chunk" if settings else "single"


EACH = pytest.mark.parametrize("name", NAMES)
EACH_SETTING = pytest.mark.parametrize(
    ("name", "settings"),
    SETTINGS,
    ids=[f"{name}-{_kind(settings)}" for name, settings in SETTINGS],
)


def make(name: str, **settings: Any) -> Algorithm:
    """Return a small instance of a registered algorithm."""
    return fitted(algorithms.get(name)((OBSERVATION,), ACTION, config(name, **settings)))


def fitted(algorithm: Algorithm) -> Algorithm:
    """Return it with the constants that it computes from all data first, if there are any."""
    if algorithm.fits:
        algorithm.constants = dict(algorithm.fit(MadeUp(algorithm)))
    return algorithm


def config(name: str, **settings: Any) -> Any:
    """Return the small configuration of an algorithm."""
    return algorithms.get(name).Config(**{**SIZES.get(name, {"hidden_dims": (32, 32)}), **settings})


def width(algorithm: Algorithm) -> int:
    """Return the numbers that `act` gives for one step: an action, or what is said in place of one."""
    return ACTION if algorithm.acts else 1


def columns(algorithm: Algorithm, observations: np.ndarray) -> dict[str, np.ndarray]:
    """Return what the algorithm learns from beside observations and actions, [B]; what followed is what was seen."""
    random, size, sampling = numpy_generator(7, "test columns"), len(observations), algorithm.config.sampling
    names = [*sampling.columns, *(("rewards", "discounts") if sampling.transitions else ())]
    found = {name: random.normal(size=size).astype(np.float32) for name in names}
    found |= {"next_observations": observations} if sampling.transitions else {}
    if sampling.demonstrations:
        actions = random.uniform(-1, 1, size=(size, ACTION)).astype(np.float32)
        shown = {"observations": observations, "next_observations": observations, "actions": actions}
        found |= {f"{EXPERT}{name}": value for name, value in shown.items()}
        found[f"{EXPERT}rewards"] = np.zeros(size, np.float32)
        found[f"{EXPERT}discounts"] = np.full(size, 0.99, np.float32)
    return found


def batch(algorithm: Algorithm, step: int, members: int = 1, size: int = 16) -> Batch:
    """Return a batch whose every member holds the same samples, some steps masked."""
    random = numpy_generator(7, "test batch", step)
    sampling = algorithm.config.sampling
    shape = (size, sampling.horizon)
    valid = np.ones(shape, np.float32)
    valid[: size // 4, np.arange(sampling.horizon) != sampling.before] = 0
    arrays = {
        "observations": random.normal(size=(size, OBSERVATION)).astype(np.float32),
        "actions": random.uniform(-1, 1, size=(*shape, ACTION)).astype(np.float32),
        "valid": valid,
        **columns(algorithm, np.zeros((size, OBSERVATION), np.float32)),
    }
    if algorithm.config.sampling.transitions:
        arrays |= {
            "next_observations": random.normal(size=(size, OBSERVATION)).astype(np.float32),
            "rewards": random.normal(size=shape).astype(np.float32),
            "discounts": random.integers(0, 2, size=shape).astype(np.float32),
        }
    if algorithm.config.sampling.demonstrations:
        arrays |= {name: arrays[name][:, None] for name in (f"{EXPERT}actions", f"{EXPERT}discounts")}
    return {name: torch.from_numpy(np.stack([array] * members)) for name, array in arrays.items()}


def train(pack: Pack, first: int, last: int) -> list[list[float]]:
    """Train steps first..last; return each step's losses, one a member."""
    rows = []
    for step in range(first, last + 1):
        metrics = pack.update(batch(pack.algorithm, step, len(pack)), step)
        rows.append(metrics["actor_loss"].tolist())
    return rows


@EACH_SETTING
def test_two_trainings_with_one_seed_are_bit_for_bit_equal(name: str, settings: dict[str, Any]) -> None:
    one, two = (Pack(make(name, **settings), [3]) for _ in range(2))
    torch.manual_seed(0)
    first = train(one, 1, 5)
    torch.manual_seed(1)  # the global random state has no say
    assert first == train(two, 1, 5)
    assert torch.equal(one.parameters, two.parameters)


@EACH
def test_training_leaves_the_global_random_state_alone(name: str) -> None:
    before = torch.get_rng_state()
    train(Pack(make(name), [0]), 1, 2)
    assert torch.equal(before, torch.get_rng_state())


@EACH
def test_two_seeds_differ_in_weights(name: str) -> None:
    pack = Pack(make(name), [0, 1])
    assert not torch.equal(pack.parameters[0], pack.parameters[1])


@EACH_SETTING
def test_one_update_changes_every_parameter_that_has_a_gradient(name: str, settings: dict[str, Any]) -> None:
    pack = Pack(make(name, **settings), [0])
    before = pack.member_state(0)["weights"]
    train(pack, 1, 1)
    after = pack.member_state(0)["weights"]
    assert [key for key in before if torch.equal(before[key], after[key])] == []


@EACH_SETTING
def test_a_member_of_a_pack_equals_the_seed_trained_alone_bit_for_bit(name: str, settings: dict[str, Any]) -> None:
    algorithm = make(name, **settings)
    own = [{"lr": (index + 1) * 1e-3, "weight_decay": 0.1 * (index == 1)} for index in range(3)]
    pack = Pack(algorithm, [4, 5, 6], own=own)
    together = train(pack, 1, 6)
    for index, seed in enumerate(pack.seeds):
        alone = Pack(algorithm, [seed], own=[own[index]])
        assert [row[index] for row in together] == [row[0] for row in train(alone, 1, 6)]
        assert torch.equal(pack.parameters[index], alone.parameters[0])
        observations, noise = decisions(algorithm, members=1)
        assert np.array_equal(pack.act(observations, noise, [index]), alone.act(observations, noise))


@EACH_SETTING
def test_steps_from_a_tape_are_the_steps_to_the_bit(name: str, settings: dict[str, Any], monkeypatch: Any) -> None:
    taped = Pack(make(name, **settings), [4, 5])
    monkeypatch.setattr(running, "Captured", lambda runner, *_: runner)
    plain = Pack(make(name, **settings), [4, 5])
    every = max(phase.every for phase in plain.phases)
    assert train(taped, 1, 4 * every) == train(plain, 1, 4 * every)
    assert torch.equal(taped.parameters, plain.parameters)
    assert isinstance(taped._running.runner, Captured)
    assert isinstance(plain._running.runner, Looped)
    tapes = taped._running.runner._recordings.values()
    assert all(isinstance(one, Tape) and one.proven for one in tapes), "this loss's steps are not done from its tape"


@EACH_SETTING
def test_a_stacked_pack_equals_a_looped_one_within_tolerance(name: str, settings: dict[str, Any]) -> None:
    algorithm = make(name, **settings, **({"adam_eps": 1e-3} if name in ROUNDING else {}))
    looped, stacked = (Pack(algorithm, [4, 5, 6], mode=mode) for mode in ("loop", "vmap"))
    np.testing.assert_allclose(train(looped, 1, 6), train(stacked, 1, 6), rtol=1e-5)
    torch.testing.assert_close(looped.parameters, stacked.parameters, rtol=1e-4, atol=1e-5)
    observations, noise = decisions(algorithm, members=2)
    expected = looped.act(observations, noise, [0, 2])
    np.testing.assert_allclose(stacked.act(observations, noise, [0, 2]), expected, atol=1e-4)


def decisions(algorithm: Algorithm, members: int, rows: int = 7) -> tuple[np.ndarray, np.ndarray]:
    """Return observations [K, R, O] and noise [K, R, ...] for `act`."""
    random = numpy_generator(7, "test decisions")
    observations = random.normal(size=(members, rows, OBSERVATION)).astype(np.float32)
    return observations, random.normal(size=(members, rows, *algorithm.noise_shape())).astype(np.float32)


@EACH_SETTING
def test_actions_are_chunks_within_bounds_and_depend_on_nothing_but_their_arguments(
    name: str, settings: dict[str, Any]
) -> None:
    algorithm = make(name, **settings)
    pack = Pack(algorithm, [0, 1])
    observations, noise = decisions(algorithm, members=2)
    actions = pack.act(observations, noise)
    assert actions.shape == (2, 7, algorithm.chunk_length, width(algorithm))
    assert actions.dtype == np.float32
    assert np.abs(actions).max() <= 1.0
    assert np.array_equal(actions, pack.act(observations, noise))


@EACH
def test_evaluation_parameters_are_settings_that_act_reads_and_the_weights_do_not(name: str) -> None:
    algorithm = make(name)
    shapes = {key: value.shape for key, value in algorithm.network(torch_generator(0, "x")).state_dict().items()}
    changes = {"flow_steps": 3, "sampling_steps": 5, "sampler": "ddim", "repeat_last_step": 2, "n_action_steps": 1}
    changes |= {"temporal_ensemble_coeff": 0.01, "num_samples": 4, "eval_temperature": 0.5, "eval_std": 1e-4}
    changes |= {"x0_range": 1.5, "variance": "fixed_small", "spacing": "leading"}
    for key in set(algorithm.evaluation_parameters) - {"eval_language"}:  # which needs texts: test_task_texts.py
        needed = {"n_action_steps": 1} if key == "temporal_ensemble_coeff" else {}
        changed = algorithm.with_config(**{key: changes[key]}, **needed)
        network = changed.network(torch_generator(0, "x"))
        assert {key: value.shape for key, value in network.state_dict().items()} == shapes
        pack = Pack(algorithm, [0])
        observations, noise = decisions(changed, members=1)
        assert pack.act(observations, noise, algorithm=changed).shape == (1, 7, 1, width(algorithm))


@EACH_SETTING
def test_saving_and_loading_a_member_goes_on_bit_for_bit(name: str, settings: dict[str, Any], tmp_path: Any) -> None:
    algorithm = make(name, **settings)
    whole, before, after = (Pack(algorithm, [8, 9]) for _ in range(3))
    train(whole, 1, 6)
    train(before, 1, 3)
    torch.save([before.member_state(k) for k in range(2)], tmp_path / "members.pt")
    for index, state in enumerate(torch.load(tmp_path / "members.pt", weights_only=True)):
        after.load_member_state(index, state)
    train(after, 4, 6)
    assert torch.equal(whole.parameters, after.parameters)
    for key, value in whole.weights(1).items():
        assert torch.equal(value, after.weights(1)[key])


@EACH
def test_state_of_another_network_is_refused_with_one_line(name: str) -> None:
    state = Pack(make(name, **OTHER_SIZES.get(name, {"hidden_dims": (16, 16)})), [0]).member_state(0)
    with pytest.raises(CheckpointError, match="of another network") as caught:
        Pack(make(name), [0]).load_member_state(0, state)
    assert "\n" not in str(caught.value)


@EACH
def test_a_nan_loss_names_step_and_seed_and_touches_no_parameter(name: str) -> None:
    pack = Pack(make(name), [0, 1])
    before = pack.parameters.clone()
    bad = batch(pack.algorithm, 1, members=2)
    bad["observations"][1, 0, 0] = float("nan")
    with pytest.raises(TrainingDiverged, match=r"seed 1 .* step 12"):
        pack.update(bad, 12)
    assert torch.equal(before, pack.parameters)


@pytest.mark.parametrize(("name", "settings"), [item for item in SETTINGS if item[0] in IMITATE])
def test_eight_samples_are_memorised(name: str, settings: dict[str, Any]) -> None:
    algorithm = make(name, **{"lr": 3e-3, **QUICK.get(name, {}), **settings})
    few = batch(algorithm, 0, size=8)
    few["valid"].fill_(1.0)
    repeated = {key: value.repeat(1, 16, *[1] * (value.ndim - 2)) for key, value in few.items()}
    pack = Pack(algorithm, [0], normaliser=Normaliser.fit(few["observations"][0].numpy(), "zscore"))
    now = few["actions"][:, :, algorithm.config.sampling.before :]
    wanted = now if algorithm.acts else (few["rewards"] > 0)[:, :, None, None].float()
    losses: list[float] = []
    error = np.inf
    while error >= 0.1 and len(losses) < UPDATES.get(name, 1000):
        steps = range(len(losses) + 1, len(losses) + 51)
        losses += [pack.update(repeated, step)["actor_loss"].item() for step in steps]
        actions = pack.act(few["observations"], torch.zeros(1, 8, *algorithm.noise_shape()))
        error = np.abs(actions - wanted.numpy()).mean()
    assert error < 0.1
    assert np.mean(losses[-50:]) < losses[0]


@EACH
def test_batch_update_equals_a_sequence_of_updates(name: str) -> None:
    one, two = (Agent(make(name), seed=2) for _ in range(2))
    batches = [{key: value[0].numpy() for key, value in batch(one.algorithm, step).items()} for step in range(3)]
    rows = [one.update(item) for item in batches]
    means = two.batch_update({key: np.stack([item[key] for item in batches]) for key in batches[0]})
    assert torch.equal(one.pack.parameters, two.pack.parameters)
    assert means["actor_loss"] == pytest.approx(np.mean([row["actor_loss"] for row in rows]))


@EACH_SETTING
def test_an_agent_acts_saves_and_loads(name: str, settings: dict[str, Any], tmp_path: Any) -> None:
    agent = Agent(make(name, **settings))
    agent.update({key: value[0].numpy() for key, value in batch(agent.algorithm, 0).items()})
    chunk = (HORIZON, ACTION) if agent.algorithm.config.chunks.action_chunking else (width(agent.algorithm),)
    one, many = np.zeros(OBSERVATION), np.zeros((6, OBSERVATION))
    assert agent.sample_actions(one).shape == chunk
    assert agent.sample_actions(many, temperature=1.0).shape == (6, *chunk)
    assert np.array_equal(agent.sample_actions(one, temperature=0.0), agent.sample_actions(one, temperature=0.0))

    agent.save(tmp_path / "agent.pt")
    other = Agent(make(name, **settings), seed=99)
    other.load(tmp_path / "agent.pt")
    assert np.array_equal(agent.sample_actions(many, temperature=1.0), other.sample_actions(many, temperature=1.0))
    more = {key: value[0].numpy() for key, value in batch(agent.algorithm, 1).items()}
    assert agent.update(more) == other.update(more)


@EACH
def test_an_agent_refuses_arrays_of_the_wrong_shape(name: str) -> None:
    agent = Agent(make(name))
    more = columns(agent.algorithm, np.zeros((4, OBSERVATION), np.float32))
    with pytest.raises(UserError, match=r"observations \(4, 9\)"):
        agent.update({"observations": np.zeros((4, 9)), "actions": np.zeros((4, ACTION)), **more})
    with pytest.raises(UserError, match="actions missing"):
        agent.update({"observations": np.zeros((4, OBSERVATION)), **more})
    with pytest.raises(UserError, match="observations have shape"):
        agent.sample_actions(np.zeros(OBSERVATION + 1))


@EACH
def test_pixels_train_and_act_through_an_encoder(name: str) -> None:
    kind = algorithms.get(name)
    small = SIZES.get(name, {"hidden_dims": (16,)})
    settings = kind.Config(**small, encoder="impala_small")
    window = settings.sampling.before + 1
    shape = (window, 16, 16, 3) if window > 1 else (16, 16, 3)
    agent = Agent(fitted(kind(shape, ACTION, settings)))
    random = numpy_generator(0, "pixels")
    pixels = random.integers(0, 256, size=(4, *shape), dtype=np.uint8)
    actions = random.uniform(-1, 1, size=(4, window, ACTION))
    agent.update({"observations": pixels, "actions": actions, **columns(agent.algorithm, pixels)})
    assert agent.sample_actions(pixels[0]).shape == (width(agent.algorithm),)
