"""What a policy sees in training is what it sees in the environment: histories, goals, held-out episodes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.envs.rollouts.acting import Acting, Execution, View
from understudy.envs.rollouts.factory import EnvFactory
from understudy.envs.store.store import EpisodeStore
from understudy.envs.store.writer import StoreWriter
from understudy.envs.windows.windows import Windows
from understudy.errors import DatasetError
from understudy.normaliser import Normaliser
from understudy.spec.data import DataSpec
from understudy.spec.learning import Sampling

LENGTHS = [7, 1, 12, 3, 30, 5]


def write_store(path, *, final=True, achieved=False, pixels=False, lengths=LENGTHS, masks=None) -> EpisodeStore:
    """Write a store whose observation is [episode, step] (in every pixel), its final one included."""
    with StoreWriter(path, name=path.name, source="test", env_id="none") as writer:
        for number, length in enumerate(lengths):
            states = np.stack([np.full(length + 1, number), np.arange(length + 1)], axis=1).astype(np.float32)
            seen = np.broadcast_to(states[:, None, None], (length + 1, 4, 4, 2)).astype(np.uint8) if pixels else states
            writer.add_episode(
                {
                    "observations": seen[:-1],
                    "actions": np.zeros((length, 1)),
                    "rewards": np.zeros(length),
                    "terminals": np.zeros(length),
                    **({"final_observation": seen[-1]} if final else {}),
                    **({"achieved_goals": -states[:-1, 1:]} if achieved else {}),
                    **{
                        f"mask/{name}": np.asarray(number in chosen, np.uint8) for name, chosen in (masks or {}).items()
                    },
                }
            )
    return EpisodeStore.open(path)


def everything(windows: Windows, places: float = 0.5) -> np.ndarray:
    count = windows.num_transitions
    return windows.gather(np.arange(count), (count,), np.full((2, count), places))["observations"].numpy()


def test_a_history_in_the_data_is_the_history_that_the_environment_gives(tmp_path) -> None:
    plain, view = EnvFactory("hopper-medium-v2")(), View(obs_horizon=4)
    rng, seen = np.random.default_rng(0), []
    with StoreWriter(tmp_path / "hopper", name="hopper", source="test", env_id="none") as writer:
        for seed in range(3):
            rows: dict[str, list] = {"observations": [], "actions": [], "rewards": [], "terminals": []}
            observation, _ = plain.reset(seed=seed)
            acting = Acting(view, Execution(), observation)
            done = False
            while not done:
                action = rng.uniform(-1, 1, 3)
                seen.append(acting.shown())
                following, reward, done, _, _ = plain.step(action)
                acting.see(following)
                for name, value in zip(rows, (observation, action, reward, done), strict=True):
                    rows[name].append(value)
                observation = following
            writer.add_episode({name: np.asarray(values) for name, values in rows.items()})
    windows = Windows(EpisodeStore.open(tmp_path / "hopper"), DataSpec(obs_horizon=4))
    assert windows.observation_shape == (44,)
    np.testing.assert_array_equal(everything(windows), np.asarray(seen, np.float32))


def test_a_history_of_pictures_is_a_sequence_of_frames(tmp_path) -> None:
    windows = Windows(write_store(tmp_path / "pixels", pixels=True), DataSpec(obs_horizon=3))
    assert windows.observation_shape == (3, 4, 4, 2)
    assert everything(windows)[10, :, 2, 2].tolist() == [[2, 0], [2, 1], [2, 2]]  # episode 2, steps 0 to 2
    assert everything(windows)[8, :, 0, 0].tolist() == [[2, 0]] * 3  # its first step


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(["uniform", "geometric", "final"]), st.floats(0, 1, exclude_max=True), st.booleans())
def test_a_goal_is_a_later_state_of_the_same_episode(tmp_path_factory, goals, place, final) -> None:
    store = write_store(tmp_path_factory.mktemp("goals") / "store", final=final)
    windows = Windows(store, DataSpec(goal_relabelling=goals))
    seen = everything(windows, place)
    episode, step, goal_episode, goal_step = seen.T
    last = np.repeat(LENGTHS, LENGTHS) - (0 if final else 1)
    np.testing.assert_array_equal(episode, goal_episode)
    assert (goal_step <= last).all()
    assert (goal_step >= np.minimum(step + 1, last)).all()
    if goals == "final":
        np.testing.assert_array_equal(goal_step, last)


def test_uniform_goals_cover_the_future_evenly_and_geometric_ones_follow_their_law(tmp_path) -> None:
    store = write_store(tmp_path / "long", lengths=[400])
    places = np.random.default_rng(0).random((2, 200_000))
    starts = np.full(places.shape[1], 300)  # 100 states are left
    windows = Windows(store, DataSpec(goal_relabelling="uniform"))
    uniform = windows.gather(starts, (len(starts),), places)["observations"][:, 3]
    counts = np.bincount(uniform.numpy().astype(int) - 300, minlength=101)[1:]
    assert ((counts - 2000) ** 2 / 2000).sum() < 160  # chi-square, 99 degrees of freedom: beyond it once in 10,000
    windows = Windows(store, DataSpec(goal_relabelling="geometric", discount=0.9))
    steps = windows.gather(starts, (len(starts),), places)["observations"][:, 3].numpy() - 300
    for ahead in (1, 2, 5, 20):
        probability = 0.1 * 0.9 ** (ahead - 1)
        assert abs((steps == ahead).mean() - probability) < 5 * np.sqrt(probability / places.shape[1])


def test_goals_are_a_pure_function_of_seed_and_step_and_workers_share_them(tmp_path) -> None:
    data = DataSpec(goal_relabelling="uniform", obs_horizon=2)
    windows = Windows(write_store(tmp_path / "store"), data, Sampling(horizon=2))
    whole = windows.sample([1, 2], 7, 12)
    parts = [windows.sample([1, 2], 7, 12, rank, 3) for rank in range(3)]
    for name, value in whole.items():
        assert torch.equal(torch.cat([part[name] for part in parts], dim=1), value)
    assert not torch.equal(whole["observations"], windows.sample([1, 2], 8, 12)["observations"])


def test_goals_come_from_the_achieved_goals_where_a_store_has_them(tmp_path) -> None:
    windows = Windows(write_store(tmp_path / "store", achieved=True), DataSpec(goal_relabelling="final"))
    assert windows.observation_shape == (3,)
    assert everything(windows)[8].tolist() == [2, 0, -11]  # the last stored state of an episode of 12 steps


def test_the_normaliser_repeats_for_the_history_and_fits_goals_on_their_own(tmp_path) -> None:
    store = write_store(tmp_path / "store", achieved=True)
    one = Normaliser.fit(store.column("observations"), "zscore")
    goal = Normaliser.fit(store.column("achieved_goals"), "zscore")
    joined = Windows(store, DataSpec(obs_horizon=2, goal_relabelling="uniform")).normaliser("zscore")
    np.testing.assert_array_equal(joined.shift, [*one.shift, *one.shift, *goal.shift])
    np.testing.assert_array_equal(joined.scale, [*one.scale, *one.scale, *goal.scale])
    assert Windows(store, DataSpec(obs_horizon=3)).normaliser("none").shift.shape == (6,)


def test_a_dimension_that_never_changes_is_not_blown_up_by_normalising() -> None:
    values = np.stack([np.full(50, 7.0), np.linspace(-1, 3, 50)], axis=1).astype(np.float32)
    for mode in ("zscore", "bounds"):
        normaliser = Normaliser.fit(values, mode)
        assert ((values - normaliser.shift) * normaliser.scale)[:, 0].tolist() == [0.0] * 50


def test_a_policy_is_shown_the_goal_after_the_history() -> None:
    view = View(obs_horizon=2, with_goal=True)
    acting = Acting(view, Execution(), np.zeros(2, np.float32), np.full(3, 5.0))
    assert acting.shown().tolist() == [0, 0, 0, 0, 5, 5, 5]
    acting.see(np.ones(2, np.float32))
    assert acting.shown().tolist() == [0, 0, 1, 1, 5, 5, 5]
    assert acting.shown().dtype == np.float32


def test_an_environment_without_goals_cannot_show_one() -> None:
    with pytest.raises(DatasetError, match="tells no goal"):
        Acting(View(with_goal=True), Execution(), np.zeros(2, np.float32)).shown()


def test_filter_keys_choose_episodes_and_hold_others_out(tmp_path) -> None:
    store = write_store(tmp_path / "masked", masks={"train": {0, 2, 4}, "valid": {1, 5}})
    train = Windows(store, DataSpec(filter_key="train", validation_filter_key="valid"))
    held = Windows(store, DataSpec(filter_key="train", validation_filter_key="valid"), split="validation")
    assert (train.episodes.tolist(), held.episodes.tolist()) == ([0, 2, 4], [1, 5])
    half = Windows(store, DataSpec(filter_key="train", dataset_proportion=0.5, proportion_order="first"))
    assert half.episodes.tolist() == [0, 2, 4]  # 7 + 12 are less than half of 49
    with pytest.raises(DatasetError, match=r"no filter key 'trian'.*train"):
        Windows(store, DataSpec(filter_key="trian"))


def test_training_and_validation_share_no_episode(tmp_path) -> None:
    store = write_store(tmp_path / "store")
    train = Windows(store, DataSpec(validation_fraction=0.4))
    held = Windows(store, DataSpec(validation_fraction=0.4), split="validation")
    assert sorted([*train.episodes, *held.episodes]) == list(range(len(LENGTHS)))
    with pytest.raises(DatasetError, match="empty split"):
        Windows(write_store(tmp_path / "one", lengths=[5]), DataSpec(validation_fraction=0.5))
