"""The scripted expert in the simulator: generated, imported, replayed, filmed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from understudy.envs.experts import generate, play_attempt
from understudy.envs.importing import import_file
from understudy.envs.rollout import ROWS, evaluate
from understudy.envs.source import EnvFactory
from understudy.envs.store import EpisodeStore
from understudy.envs.video import rendering_available, write_mp4
from understudy.errors import UserError
from understudy.files import sha256

NAME = "cube-single-scripted-singletask-task1-v0"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("generated")


@pytest.fixture(scope="module")
def store(folder) -> EpisodeStore:
    made = generate(NAME, 4, out_path=folder / "one.npz", workers=1)
    assert (made.episodes, made.failures) == (4, made.attempts - 4)
    return import_file("ogbench", made.path, NAME, folder / "stores")


def test_the_expert_solves_the_task_and_the_store_says_how_it_was_made(store) -> None:
    assert store.manifest.num_episodes == 4
    ends = store.starts + store.lengths
    assert (store.column("rewards")[ends - 1] == 0).all()
    assert (np.abs(store.column("actions")) <= 1).all()
    assert store.verify() == []
    assert "clean actions recorded" in store.manifest.provenance["made_by"]
    assert store.manifest.env_id == "cube-single-singletask-task1-v0"


def test_recorded_actions_are_the_oracles_and_executed_ones_are_noisy(store) -> None:
    difference = store.column("executed_actions") - store.column("actions")
    free = np.abs(store.column("actions")) < 0.3  # far from the clipping
    assert 0.15 < difference[free].std() < 0.25


def test_the_file_does_not_depend_on_the_number_of_workers(store, folder) -> None:
    again = generate(NAME, 4, out_path=folder / "two.npz", workers=2)
    assert sha256(again.path) == sha256(folder / "one.npz")
    other = generate(NAME, 1, out_path=folder / "three.npz", seed=1)
    assert sha256(other.path) != sha256(folder / "one.npz")


def test_fewer_episodes_are_the_first_of_more(store, folder) -> None:
    fewer = generate(NAME, 2, out_path=folder / "fewer.npz")
    shorter = import_file("ogbench", fewer.path, NAME, folder / "fewer")
    rows = shorter.manifest.num_transitions
    np.testing.assert_array_equal(shorter.column("observations"), store.column("observations")[:rows])


def test_replaying_the_executed_actions_meets_the_stored_observations(store) -> None:
    from understudy.randomness import stream_key

    env = EnvFactory(NAME)()
    seeds = [stream_key(0, "expert", attempt) % 2**31 for attempt in range(4)]
    observation, _ = env.reset(seed=seeds[0])
    for step in range(30):
        stored = store.column("observations")[step]
        np.testing.assert_allclose(observation, stored, rtol=0, atol=2e-4)  # executed actions are stored in float32
        observation = env.step(store.column("executed_actions")[step])[0]


def test_only_noise_that_the_expert_survives_is_kept() -> None:
    attempts = [play_attempt(NAME, 0, 3.0, number) for number in range(2)]
    assert attempts == [None, None]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"env_name": "cube-single-play-singletask-task1-v0"}, "did you mean 'cube-single-scripted"),
        ({"episodes": 0}, "episodes=0"),
        ({"noise": -1.0}, "noise=-1.0"),
        ({"workers": 0}, "workers=0"),
    ],
)
def test_bad_requests_are_refused_before_any_work(folder, options, said) -> None:
    arguments = {"env_name": NAME, "episodes": 1, "noise": 0.2, "workers": 1, **options}
    with pytest.raises(UserError, match=said):
        generate(out_path=folder / "none.npz", **arguments)
    assert not (folder / "none.npz").exists()


def replay(store: EpisodeStore):
    """Act as the stored expert of episode 0 does, whatever is seen: enough to see a success counted."""
    chunks = iter(np.array_split(store.column("executed_actions")[: store.lengths[0]], store.lengths[0]))

    def act(observations, noise, members):
        action = next(chunks, np.zeros((1, 5), np.float32))
        return np.broadcast_to(action, (len(members), ROWS, 1, 5))

    return act


def test_a_rollout_counts_the_success_and_ends_at_it_with_or_without_a_video(store, tmp_path) -> None:
    from understudy.randomness import stream_key

    seed = stream_key(0, "expert", 0) % 2**31
    factory = EnvFactory(NAME, size=64)
    plain = evaluate(replay(store), factory, episodes=1, seed=seed)
    assert plain.summary() == {"return": plain.returns[0, 0], "length": plain.lengths[0, 0], "success": 1.0}
    assert plain.lengths[0, 0] == store.lengths[0] - 9  # the task ends at the first of the ten solved steps
    reason = rendering_available()
    if reason is not None:
        assert "no videos" in reason
        assert "\n" not in reason
        return
    filmed = evaluate(replay(store), factory, episodes=1, seed=seed, video_episodes=1, processes=1)
    np.testing.assert_array_equal(plain.returns, filmed.returns)
    frames = filmed.frames[0][0]
    assert frames.shape[1:] == (64, 64, 3)
    assert frames.std() > 10
    video = write_mp4(frames, tmp_path / "videos" / "policy.mp4", fps=10)
    assert video.stat().st_size > 1000
    assert video.read_bytes()[4:8] == b"ftyp"
    assert [p.name for p in video.parent.iterdir()] == ["policy.mp4"]
