"""Windows of steps: an action for each observation shown, and policies that see each step alone and those before it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from understudy.cli.train import read_run
from understudy.envs.store.store import EpisodeStore
from understudy.envs.store.writer import StoreWriter
from understudy.envs.windows.windows import Windows
from understudy.errors import DatasetError, SpecError
from understudy.normaliser import Normaliser
from understudy.policy import Policy
from understudy.randomness import torch_generator
from understudy.runs.directory import RunDir, read_csv
from understudy.runs.launch import launch
from understudy.spec.data import DataSpec
from understudy.spec.keys import build_run, with_changes
from understudy.spec.learning import Sampling
from understudy.trainables.algorithms.bc_rnn import BCRNN, BCRNNConfig
from understudy.trainables.algorithms.bc_transformer import BCTransformer, BCTransformerConfig
from understudy.trainables.loops.judging import action_errors
from understudy.trainables.networks.recurrent import LSTM
from understudy.trainables.networks.steps import StepPolicy, by_step, step_shape

LENGTHS = [7, 1, 12, 3]
SMALL = {"obs_horizon": 4, "policy": "mse"}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EpisodeStore:
    """A store whose observations and actions are [episode, step]."""
    path = tmp_path_factory.mktemp("data") / "numbered"
    with StoreWriter(path, name="numbered", source="test", env_id="none") as writer:
        for number, length in enumerate(LENGTHS):
            where = np.stack([np.full(length, number), np.arange(length)], axis=1)
            rewards = np.zeros(length)
            writer.add_episode({"observations": where, "actions": where, "rewards": rewards, "terminals": rewards})
    return EpisodeStore.open(path)


@settings(max_examples=30, deadline=None)
@given(before=st.integers(1, 15), ahead=st.integers(1, 7), proportion=st.sampled_from([0.5, 1.0]))
def test_actions_begin_before_the_newest_observation_and_count_inside_the_episode(
    store: EpisodeStore, before: int, ahead: int, proportion: float
) -> None:
    data = DataSpec(obs_horizon=before + 1, dataset_proportion=proportion, proportion_order="first")
    windows = Windows(store, data, Sampling(horizon=before + ahead, before=before))
    rows = np.arange(windows.num_transitions)
    batch = windows.gather(rows, (len(rows),))
    lengths = [store.lengths[episode] for episode in windows.episodes]
    places = [(int(windows.episodes[n]), step) for n, length in enumerate(lengths) for step in range(length)]
    for index, (episode, step) in enumerate(places):
        last = int(store.lengths[episode]) - 1
        wanted = [step - before + k for k in range(before + ahead)]
        assert batch["valid"][index].tolist() == [float(0 <= place <= last) for place in wanted]
        clipped = [[episode, min(max(place, 0), last)] for place in wanted]
        np.testing.assert_array_equal(batch["actions"][index], clipped)
        seen = batch["observations"][index].unflatten(0, (before + 1, 2))
        np.testing.assert_array_equal(seen, clipped[: before + 1])  # each beside its action


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"goal_relabelling": "uniform"}, "goal_relabelling=uniform: a method that learns a window of steps"),
        ({"mask_after_done": True}, "mask_after_done=true is for chunks"),
    ],
)
def test_what_windows_of_steps_are_not_made_of_is_one_line(store: EpisodeStore, data: dict, said: str) -> None:
    with pytest.raises(DatasetError, match=said):
        Windows(store, DataSpec(obs_horizon=3, **data), Sampling(horizon=3, before=2))


def test_held_out_errors_are_of_the_newest_steps_action(store: EpisodeStore) -> None:
    algorithm = BCRNN((8,), 2, BCRNNConfig(**SMALL, rnn_hidden_dim=4))
    policy = Policy(algorithm, [algorithm.build(0).state_dict()], Normaliser.identity((8,)))
    windows = Windows(store, DataSpec(obs_horizon=4), algorithm.config.sampling)
    batch = windows.sample([0], 0, 32)
    taken = policy.act_members(batch["observations"], torch.zeros(1, 32))
    wanted = (taken[0, :, 0] - batch["actions"][0, :, -1].numpy()) ** 2
    found = action_errors(policy, [batch], (np.full(32, -1), []))[0]
    assert found["validation/action_mse"] == pytest.approx(wanted.mean())


def test_the_lstm_is_torchs_own_with_its_weights_and_gradients() -> None:
    ours = LSTM(5, 7, 3, torch_generator(0, "weights"))
    theirs = nn.LSTM(5, 7, 3, batch_first=True)
    theirs.load_state_dict(ours.state_dict())
    one, other = (torch.randn(4, 6, 5, generator=torch_generator(1, "x")).requires_grad_() for _ in range(2))
    mine, torchs = ours(one), theirs(other)[0]
    torch.testing.assert_close(mine, torchs, rtol=0, atol=1e-6)
    mine.square().sum().backward()
    torchs.square().sum().backward()
    torch.testing.assert_close(one.grad, other.grad, rtol=1e-5, atol=1e-6)
    for name, value in theirs.named_parameters():
        torch.testing.assert_close(ours.get_parameter(name).grad, value.grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", [BCRNN, BCTransformer])
def test_a_step_is_decided_from_those_up_to_it_alone(method: type) -> None:
    sizes = {"dim_model": 8, "n_heads": 2, "n_layers": 2} if method is BCTransformer else {"rnn_hidden_dim": 8}
    algorithm = method((12,), 2, method.Config(**SMALL, **sizes))
    network = algorithm.network(torch_generator(0, "weights"))
    window = torch.randn(1, 12, generator=torch_generator(1, "x"))
    changed = window.clone()
    changed[:, 9:] += 1.0  # the last of four steps
    one, other = network.features(window), network.features(changed)
    torch.testing.assert_close(one[:, :3], other[:, :3])
    assert not torch.allclose(one[:, 3], other[:, 3])
    act = algorithm.act(network, changed, torch.zeros(1, *algorithm.noise_shape()))
    torch.testing.assert_close(act, network(other[:, 3]))


def test_only_the_newest_step_is_learned_where_that_is_asked_for() -> None:
    config = BCTransformerConfig(**SMALL, dim_model=8, n_heads=2, n_layers=1, supervise_all_steps=False)
    algorithm = BCTransformer((8,), 1, config)
    network = algorithm.network(torch_generator(0, "weights"))
    seen, actions = torch.randn(3, 8, generator=torch_generator(1, "x")), torch.zeros(3, 4, 1)
    batch = {"observations": seen, "actions": actions, "valid": torch.ones(3, 4)}
    loss, _ = algorithm.loss(network, {}, batch, {})
    torch.testing.assert_close(loss, algorithm.act(network, seen, torch.zeros(3)).square().mean())


def test_pictures_and_states_are_encoded_step_by_step() -> None:
    shape = {"state": (6,), "front": (3, 8, 8, 3)}
    assert step_shape(shape, 3) == {"state": (2,), "front": (8, 8, 3)}
    seen = {"state": torch.arange(12.0).reshape(2, 6), "front": torch.arange(2 * 3 * 192).reshape(2, 3, 8, 8, 3)}
    alone = by_step(seen, 3)
    assert alone["state"].tolist() == torch.arange(12.0).reshape(6, 2).tolist()
    torch.testing.assert_close(alone["front"][4], seen["front"][1, 1])
    settings = {"obs_horizon": 3, "encoder": "impala_small", "rnn_hidden_dim": 4, "policy": "mse"}
    algorithm = BCRNN(shape, 2, BCRNNConfig(**settings))
    network = algorithm.network(torch_generator(0, "weights"))
    pictures = {**seen, "front": seen["front"].to(torch.uint8)}
    assert isinstance(network, StepPolicy)
    assert network.features(pictures).shape == (2, 3, 4)
    assert algorithm.act(network, pictures, torch.zeros(2)).shape == (2, 1, 2)


@pytest.mark.parametrize(
    ("shape", "said"),
    [((7,), "no window of obs_horizon=3"), ({"state": (3,), "goal/front": (8, 8, 3)}, "is told no goal")],
)
def test_observations_that_are_no_window_are_one_line(shape, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        step_shape(shape, 3)


def test_obs_horizon_is_one_key_of_the_method_and_of_the_data() -> None:
    assert build_run({"algo": "bc"}).data.obs_horizon == 1
    spec = build_run({"algo": "bc_rnn"})
    assert (spec.data.obs_horizon, spec.config.model_dump()["obs_horizon"]) == (10, 10)
    shorter = with_changes(spec, obs_horizon=5)
    assert (shorter.data.obs_horizon, shorter.config.sampling) == (5, Sampling(horizon=5, before=4))
    assert build_run(shorter.flat()) == shorter
    assert len({build_run({"algo": "bc_rnn", "frame_stack": n}).fingerprint() for n in (5, 6)}) == 2
    with pytest.raises(SpecError, match="obs_horizon=1: must be greater than or equal to 2"):
        build_run({"algo": "bc_rnn", "obs_horizon": 1})


def test_history_is_no_key_of_a_method_that_sees_each_step_alone() -> None:
    words = ["algo=bc_rnn", "encoder=impala_small", "history=sequence", "env_name=hopper-medium-v2"]
    with pytest.raises(SpecError, match="history=sequence changes nothing without a method that joins"):
        read_run(words)


@pytest.mark.parametrize("algo", ["bc_rnn", "bc_transformer"])
def test_a_run_trains_and_is_evaluated_with_the_window_that_it_learned(
    algo: str, hopper_data: Path, tmp_path: Path
) -> None:
    sizes = ["rnn_hidden_dim=8"] if algo == "bc_rnn" else ["dim_model=8", "n_heads=2", "n_layers=1"]
    where = [f"data_dir={hopper_data}", f"save_dir={tmp_path}", "launcher=inline", "tracking_uri=none", "device=cpu"]
    few = ["training_steps=2", "batch_size=8", "eval_episodes=2", "eval_max_steps=5", "validation_fraction=0.4"]
    spec = read_run([f"algo={algo}", "env_name=hopper-medium-v2", "obs_horizon=4", *sizes, *where, *few])
    result = launch(spec, RunDir.create(spec))
    row = read_csv(result.path / "eval.csv")[-1]
    assert np.isfinite(row["return"])
    assert np.isfinite(row["validation/mse"])
