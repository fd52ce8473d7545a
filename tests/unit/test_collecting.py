"""Rollouts handed out as data: transitions and episodes in the store's own columns."""

from __future__ import annotations

import itertools

import gymnasium
import numpy as np
import pytest
from tests.unit.test_rollout import Make, Policy, Walk, run

from understudy.envs.rollouts.acting import Execution, View
from understudy.envs.rollouts.collecting import collect, episodes
from understudy.envs.rollouts.limits import check_limit, episode_limit, limited
from understudy.envs.store.store import EpisodeStore
from understudy.envs.store.writer import StoreWriter
from understudy.errors import UserError

EXECUTION = Execution(noise_shape=(4,), executed=4)


def collected(count: int, seed: int = 5, **options):
    return list(itertools.islice(collect(Policy(members=1), Walk(), View(), EXECUTION, seed=seed, **options), count))


def test_a_next_observation_is_the_row_after_it_or_the_episodes_final_one(tmp_path) -> None:
    transitions = collected(100)
    for now, after in itertools.pairwise(transitions):
        assert (after.episode, after.step) == ((now.episode + 1, 0) if now.ends else (now.episode, now.step + 1))
        if not now.ends:
            np.testing.assert_array_equal(now.after["observations"], after.row["observations"])
    whole = list(episodes(transitions))
    assert len(whole) >= 4
    with StoreWriter(tmp_path / "walks", name="walks", source="test", env_id="none") as writer:
        for episode in whole:
            writer.add_episode(episode)
    store = EpisodeStore.open(tmp_path / "walks")
    ends = [item for item in transitions if item.ends][: len(whole)]
    finals = store.episode_column("final_observations")
    np.testing.assert_array_equal(finals, np.stack([item.after["observations"] for item in ends]))
    rows = store.column("observations")
    np.testing.assert_array_equal(rows, np.stack([item.row["observations"] for item in transitions[: len(rows)]]))


def test_two_collections_with_one_seed_are_equal_and_later_episodes_can_be_collected_alone() -> None:
    first, again, other = collected(60), collected(60), collected(60, seed=6)
    for one, two in zip(first, again, strict=True):
        for name, value in one.row.items():
            np.testing.assert_array_equal(value, two.row[name])
    assert not np.array_equal(first[0].row["observations"], other[0].row["observations"])
    third = [item for item in first if item.episode == 2]
    for one, two in zip(third, collected(len(third), first_episode=2), strict=True):
        np.testing.assert_array_equal(one.row["actions"], two.row["actions"])


def test_terminals_are_the_tasks_doing_and_not_a_time_limits() -> None:
    ends = [item for item in collected(600) if item.ends]
    assert {bool(item.row["terminals"]) for item in ends} == {True, False}
    for item in ends:
        assert bool(item.row["terminals"]) == (item.step < 19 or item.after["observations"][0] > 3)


@pytest.mark.parametrize("processes", [0, 2])
def test_an_evaluation_hands_out_the_episodes_that_a_collection_makes(processes) -> None:
    kept: dict[tuple[int, int], dict] = {}
    result = run(
        make=Make(),
        policy=Policy(members=1),
        members=1,
        episodes=3,
        processes=processes,
        on_episode=lambda member, episode, columns: kept.update({(member, episode): columns}),
    )
    for episode, columns in zip(range(3), episodes(collected(60)), strict=False):
        assert list(kept[0, episode]) == list(columns)
        for name, value in columns.items():
            np.testing.assert_array_equal(kept[0, episode][name], value)
        assert result.returns[0, episode] == pytest.approx(columns["rewards"].sum(), rel=1e-5)


def test_a_limit_is_found_wherever_it_is_set() -> None:
    class Own(Walk):
        max_episode_steps = 30

    assert episode_limit(Walk()) is None
    assert episode_limit(limited(Walk(), 12)) == 12
    assert episode_limit(Own()) == 30
    assert episode_limit(gymnasium.wrappers.TimeAwareObservation(limited(Own(), 40))) == 30
    assert limited(Own(), 0).spec is None
    with pytest.raises(UserError, match="eval_max_steps=1000, say, or its class a line `max_episode_steps = 1000`"):
        check_limit("mine", None)
