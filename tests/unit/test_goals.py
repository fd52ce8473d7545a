"""Goals, relabelled actions and aggregated saliency against what their definitions say, written out as loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from understudy.envs.sources.bridge.relabelling import binarise_gripper, relabel_actions, relabelled
from understudy.envs.windows.relabelling import goal_offsets
from understudy.envs.windows.saliency import aggregate_saliency
from understudy.errors import DatasetError, SpecError, UnknownName, UserError
from understudy.registry import goal_strategies

PLACES = np.linspace(0, 1, 200_000, endpoint=False)
DISCOUNT = 0.8


def shares(strategy: str, index: int, length: int, **keys) -> np.ndarray:
    """Return how often each offset 0 to `length` is drawn, over evenly spread places."""
    count = len(PLACES)
    drawn = goal_offsets(strategy, np.full(count, index), np.full(count, length), PLACES, discount=DISCOUNT, **keys)
    assert drawn.dtype == np.int64
    return np.bincount(drawn, minlength=length + 1) / count


def bridge_weights(strategy: str, i: int, length: int) -> np.ndarray:
    """Return how likely each offset is by BridgeData's definitions: goals are among the next observations i to T - 1.

    Next observation j is the state j + 1, j - i + 1 states ahead. The last step's goal is its own next observation.
    """
    weights = np.zeros(length + 1)
    if i == length - 1:
        weights[1] = 1.0
    elif strategy == "last_state_upweighted":
        for k in range(1, length):
            weights[min(i + k, length - 1) - i + 1] += 1
    else:
        for j in range(i + 1, length):
            weights[j - i + 1] = DISCOUNT ** (j - i) if strategy == "geometric" else 1.0
    return weights / weights.sum()


@pytest.mark.parametrize("strategy", ["uniform", "geometric", "last_state_upweighted"])
@pytest.mark.parametrize(("i", "length"), [(0, 9), (4, 9), (7, 9), (8, 9), (0, 1), (0, 2), (1, 2)])
def test_bridge_goals_are_drawn_as_often_as_its_definitions_say(strategy, i, length) -> None:
    found = shares(strategy, i, length, reached_proportion=0.0)
    np.testing.assert_allclose(found, bridge_weights(strategy, i, length), atol=3e-5)


@pytest.mark.parametrize(("i", "length"), [(0, 9), (4, 9), (8, 9), (0, 1)])
def test_uniform_and_geometric_goals_without_a_share_are_ogbenchs(i, length) -> None:
    ahead = length - i
    uniform = np.r_[0, np.full(ahead, 1 / ahead), np.zeros(i)]
    np.testing.assert_allclose(shares("uniform", i, length), uniform, atol=3e-5)
    geometric = np.r_[0, (1 - DISCOUNT) * DISCOUNT ** np.arange(ahead), np.zeros(i)]
    geometric[ahead] = DISCOUNT ** (ahead - 1)  # the end takes the rest
    np.testing.assert_allclose(shares("geometric", i, length), geometric, atol=3e-5)
    assert shares("final", i, length)[ahead] == 1


@pytest.mark.parametrize(("i", "length", "low", "high"), [(0, 9, 2, 5), (5, 9, 2, 5), (6, 9, 2, 5), (0, 3, 1, 99)])
def test_delta_goals_are_alike_within_their_range(i, length, low, high) -> None:
    allowed = np.arange(low, min(high, length + 1 - i))
    wanted = np.zeros(length + 1)
    wanted[allowed] = 1 / len(allowed)
    np.testing.assert_allclose(shares("delta_goals", i, length, delta=(low, high)), wanted, atol=3e-5)


def test_delta_goals_beyond_the_end_are_the_last_state() -> None:
    assert shares("delta_goals", 7, 9, delta=(3, 6))[2] == 1


@settings(max_examples=60, deadline=None)
@given(
    lengths=hnp.arrays(np.int64, 50, elements=st.integers(1, 1000)),
    seed=st.integers(0, 2**32 - 1),
    strategy=st.sampled_from(goal_strategies.names()),
    proportion=st.none() | st.floats(0, 1),
    discount=st.floats(0.01, 1.0),
    low=st.integers(1, 50),
    width=st.integers(1, 50),
)
def test_every_goal_lies_in_its_steps_future(lengths, seed, strategy, proportion, discount, low, width) -> None:
    rng = np.random.default_rng(seed)
    index = (rng.random(50) * lengths).astype(np.int64)
    places = np.where(rng.random(50) < 0.1, np.nextafter(1.0, 0.0), rng.random(50))
    offsets = goal_offsets(
        strategy,
        index,
        lengths,
        places,
        discount=discount,
        delta=(low, low + width),
        reached_proportion=proportion,
        reached_places=rng.random(50),
    )
    assert (offsets >= 1).all()
    assert (index + offsets <= lengths).all()
    assert offsets.dtype == np.int64


@pytest.mark.parametrize("strategy", ["uniform", "last_state_upweighted", "geometric"])
def test_a_share_of_the_goals_is_reached(strategy) -> None:
    rng = np.random.default_rng(0)
    index, length = np.full(100_000, 3), np.full(100_000, 20)
    offsets = goal_offsets(
        strategy, index, length, rng.random(100_000), reached_proportion=0.3, reached_places=rng.random(100_000)
    )
    assert np.mean(offsets == 1) == pytest.approx(0.3, abs=0.005)


def test_nonsense_is_one_line() -> None:
    one = np.ones(1, np.int64)
    for keys in ({"strategy": "unifrom"}, {"strategy": "delta_goals", "delta": (5, 5)}, {"strategy": "delta_goals",
                 "delta": (0, 5)}, {"reached_proportion": 1.5}, {"reached_proportion": 0.5}):  # fmt: skip
        with pytest.raises(UserError) as error:
            goal_offsets(**{"strategy": "uniform", "index": 0 * one, "length": one, "places": 0.0 * one, **keys})
        assert "\n" not in str(error.value)
    with pytest.raises(UnknownName, match="did you mean 'uniform'"):
        goal_offsets("unifrom", 0 * one, one, 0.0 * one)


def gripper_by_hand(commands: np.ndarray) -> np.ndarray:
    """Walk backwards and remember what settled last."""
    found, settled = np.empty(len(commands), np.float32), np.float32(commands[-1])
    for t in reversed(range(len(commands))):
        if commands[t] > 0.95:
            settled = np.float32(1.0)
        elif commands[t] < 0.05:
            settled = np.float32(0.0)
        found[t] = settled
    return found


@settings(max_examples=100, deadline=None)
@given(hnp.arrays(np.float64, st.integers(1, 40), elements=st.sampled_from([0, 0.04, 0.05, 0.3, 0.7, 0.95, 0.96, 1.0])))
def test_a_gripper_on_its_way_takes_the_value_that_settles_after(commands) -> None:
    assert binarise_gripper(commands).tolist() == gripper_by_hand(commands).tolist()
    assert binarise_gripper(np.array([0.5, 1.0, 0.5, 0.2, 0.0, 0.5])).tolist() == [1, 1, 0, 0, 0, 0.5]


def test_relabelled_actions_lead_from_state_to_state() -> None:
    rng = np.random.default_rng(0)
    states, actions = rng.normal(size=(6, 7)), rng.uniform(size=(5, 7))
    found = relabel_actions(actions, states)
    assert found.dtype == np.float32
    np.testing.assert_allclose(states[0, :6] + np.cumsum(found[:, :6], axis=0), states[1:, :6], atol=1e-6)
    assert found[:, 6].tolist() == gripper_by_hand(actions[:, 6]).tolist()
    episode = {"observations": states[:-1], "final_observation": states[-1], "actions": actions}
    assert relabelled(episode)["actions"].tobytes() == found.tobytes()
    for bad in ({**episode, "actions": actions[:, :6]}, {**episode, "actions": actions[1:]}, {"actions": actions}):
        with pytest.raises(DatasetError) as error:
            relabelled(bad)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_saliency_is_the_weighted_sum_of_the_frames_between_its_least_and_its_most(alpha) -> None:
    maps = np.random.default_rng(0).uniform(size=(5, 3, 4, 6, 1)).astype(np.float32)
    found = aggregate_saliency(maps, alpha)
    assert found.shape == (5, 4, 6, 1)
    assert found.dtype == np.float32
    for one, frames in zip(found, maps, strict=True):
        total = frames[2] + alpha * frames[1] + alpha**2 * frames[0]
        wanted = frames[2] if alpha == 0 else (total - total.min()) / (total.max() - total.min())
        np.testing.assert_allclose(one, wanted, atol=1e-6)


def test_saliency_of_one_frame_is_that_frame_and_of_none_is_nothing() -> None:
    maps = np.random.default_rng(0).uniform(0.2, 0.6, size=(2, 1, 3, 3, 1)).astype(np.float32)
    assert aggregate_saliency(maps, 0.7).tobytes() == maps[:, 0].tobytes()
    assert not aggregate_saliency(np.full((2, 3, 3, 3, 1), 0.5, np.float32), 0.7).any()
    with pytest.raises(SpecError, match="alpha 2"):
        aggregate_saliency(maps, 2)
