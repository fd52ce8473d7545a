"""Rollouts: the numbers depend on the policy, the seed and the episode, and on nothing else."""

from __future__ import annotations

import multiprocessing

import gymnasium
import numpy as np
import pytest
from tests.unit.walking import Make, Walk

from understudy.envs.rollouts.acting import ROWS, Execution
from understudy.envs.rollouts.evaluation import Episodes, Stepping, evaluate
from understudy.envs.rollouts.filming import film
from understudy.envs.rollouts.pools import close_pools
from understudy.errors import UnderstudyError, UserError


class Policy:
    """A random two-layer network whose arithmetic would show a changed batch shape or another row's values."""

    def __init__(self, members: int = 3, chunk: int = 4) -> None:
        rng = np.random.default_rng(0)
        self.first = rng.normal(size=(members, 2 + chunk, 64)).astype(np.float32)
        self.second = rng.normal(size=(members, 64, chunk)).astype(np.float32) / 8
        self.chunk, self.calls = chunk, 0

    def __call__(self, observations, noise, members):
        assert observations.dtype == np.float32
        assert observations.shape[:2] == noise.shape[:2] == (len(members), ROWS)
        self.calls += 1
        hidden = np.tanh(np.concatenate([observations, noise], axis=-1) @ self.first[list(members)])
        return np.clip(hidden @ self.second[list(members)] + 0.1, -1, 1)[..., None]


def run(make=None, policy=None, *, members=3, episodes=20, seed=5, num_envs=7, executed=4, **options):
    """Evaluate a policy; the options are those of Episodes, Execution, Stepping and evaluate."""
    chosen = {"noise_shape": (4,), **options}
    parts = [
        kind(**{name: chosen.pop(name) for name in list(chosen) if name in kind.__dataclass_fields__}, **given)
        for kind, given in (
            (Episodes, {"count": episodes, "seed": seed}),
            (Execution, {"executed": executed}),
            (Stepping, {"num_envs": num_envs}),
        )
    ]
    return evaluate(policy or Policy(), make or Make(), *parts, members=members, **chosen)


@pytest.fixture(scope="module", autouse=True)
def _tidy():
    yield
    close_pools()
    assert multiprocessing.active_children() == []


@pytest.fixture(scope="module")
def usual():
    return run()


@pytest.mark.parametrize("num_envs", [1, 2, 16, 60, 200])
def test_the_numbers_do_not_depend_on_how_many_environments_run_at_once(usual, num_envs) -> None:
    other = run(num_envs=num_envs)
    np.testing.assert_array_equal(usual.returns, other.returns)
    np.testing.assert_array_equal(usual.lengths, other.lengths)
    np.testing.assert_array_equal(usual.successes, other.successes)


def test_the_numbers_do_not_depend_on_processes(usual) -> None:
    np.testing.assert_array_equal(usual.returns, run(processes=2).returns)
    np.testing.assert_array_equal(usual.returns, run(processes=2, num_envs=3).returns)


def test_the_numbers_do_not_depend_on_videos(usual) -> None:
    np.testing.assert_array_equal(usual.returns, run(filmed=2).returns)


def test_fewer_episodes_are_the_first_of_more(usual) -> None:
    np.testing.assert_array_equal(usual.returns[:, :9], run(episodes=9).returns)


def test_a_member_does_as_it_does_alone(usual) -> None:
    policy = Policy()
    policy.first, policy.second = policy.first[1:2], policy.second[1:2]
    np.testing.assert_array_equal(usual.returns[1], run(policy=policy, members=1).returns[0])


def test_returns_lengths_and_successes_are_those_of_a_plain_loop(usual) -> None:
    policy, env = Policy(), Walk()
    from understudy.randomness import numpy_generator

    for episode in (0, 17):
        look, _ = env.reset(seed=5 + episode)
        total, steps, decision, done, queue, info = 0.0, 0, 0, False, [], {}
        while not done:
            if not queue:
                observations = np.zeros((1, ROWS, 2), np.float32)
                noise = np.zeros((1, ROWS, 4), np.float32)
                observations[0, episode % ROWS] = look
                stream = numpy_generator(5, "act", episode, decision)
                noise[0, episode % ROWS] = stream.standard_normal(4, np.float32)
                queue, decision = list(policy(observations, noise, [2])[0, episode % ROWS]), decision + 1
            look, reward, ended, late, info = env.step(queue.pop(0))
            total, steps, done = total + reward, steps + 1, ended or late
        assert usual.lengths[2, episode] == steps
        assert usual.successes is not None
        assert usual.successes[2, episode] == info["success"]
        assert usual.returns[2, episode] == pytest.approx(total, rel=1e-12)


def test_the_policy_is_asked_once_a_chunk_and_not_once_a_step() -> None:
    policy = Policy()
    result = run(policy=policy, members=1, episodes=16, num_envs=16)
    assert policy.calls == int(np.ceil(result.lengths.max() / 4))


def test_a_part_of_each_chunk_is_executed_when_asked() -> None:
    policy = Policy()
    result = run(policy=policy, members=1, episodes=16, num_envs=16, executed=3)
    assert policy.calls == int(np.ceil(result.lengths.max() / 3))
    cut = Policy()
    whole = run(policy=lambda *block: cut(*block)[:, :, :3], members=1, episodes=16, executed=3)
    np.testing.assert_array_equal(result.returns, whole.returns)


def test_an_ensemble_averages_what_the_chunks_of_one_episode_said(usual) -> None:
    ensembled = run(executed=1, ensemble=0.3)
    np.testing.assert_array_equal(ensembled.returns, run(executed=1, ensemble=0.3, num_envs=1).returns)
    assert not np.array_equal(ensembled.returns, run(executed=1).returns)
    policy, env = Policy(), Walk()
    from understudy.randomness import numpy_generator

    look, _ = env.reset(seed=5)
    chunks, total, done = [], 0.0, False
    while not done:
        observations, noise = np.zeros((1, ROWS, 2), np.float32), np.zeros((1, ROWS, 4), np.float32)
        observations[0, 0] = look
        noise[0, 0] = numpy_generator(5, "act", 0, len(chunks)).standard_normal(4, np.float32)
        chunks.append(policy(observations, noise, [0])[0, 0])
        heard = np.stack([chunk[age] for age, chunk in enumerate(reversed(chunks[-4:]))])[::-1]
        action = np.average(heard, axis=0, weights=np.exp(-0.3 * np.arange(len(heard))))
        look, reward, ended, late, _ = env.step(action)
        total, done = total + reward, ended or late
    assert ensembled.lengths[0, 0] == len(chunks)
    assert ensembled.returns[0, 0] == pytest.approx(total, rel=1e-5)


def test_another_seed_and_temperature_zero_give_other_numbers(usual) -> None:
    assert not np.array_equal(usual.returns, run(seed=6).returns)
    assert not np.array_equal(usual.returns, run(temperature=0.0).returns)


def test_the_summary_has_the_means_and_the_score_when_there_is_one() -> None:
    class Scored(Make):
        def normalized_score(self, returns):
            return 100 * returns

    result = run(make=Scored())
    row = result.summary(1)
    assert set(row) == {"return", "length", "success", "normalized_return"}
    assert row["return"] == pytest.approx(result.returns[1].mean())
    assert row["normalized_return"] == pytest.approx(100 * row["return"])


def test_videos_have_the_first_each_third_and_the_last_step_of_the_asked_episodes() -> None:
    result = run(episodes=3, filmed=2, frame_skip=3)
    assert [len(member) for member in result.frames] == [2, 2, 2]
    shown = result.frames[0][1][:, 0, 0, 0].tolist()
    length = int(result.lengths[0, 1])
    assert shown == sorted({*range(0, length + 1, 3), length})


def test_a_filmed_episode_is_the_one_of_the_evaluation_whichever_are_chosen(usual) -> None:
    chosen = [(2, 17), (0, 3), (1, 3)]
    execution = Execution(noise_shape=(4,), executed=4)
    taken = list(film(Policy(), Make(), execution, 5, chosen, frame_skip=3))
    assert [(one.ended.member, one.ended.episode) for one in taken] == chosen
    for one in taken:
        place = (one.ended.member, one.ended.episode)
        assert one.ended.returns == usual.returns[place]
        assert one.ended.length == usual.lengths[place] == len(one.columns["actions"])
        assert one.ended.success == usual.successes[place]
        assert one.ended.reset_seed == 5 + place[1]
        shown = one.frames[:, 0, 0, 0].tolist()
        assert shown == sorted({*range(0, one.ended.length + 1, 3), one.ended.length})


def test_progress_counts_up_to_all_episodes() -> None:
    seen: list[tuple[int, int]] = []
    run(on_step=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (60, 60)
    assert seen == sorted(seen)


def test_a_process_that_dies_is_an_error_that_says_so_and_no_hang() -> None:
    with pytest.raises(UnderstudyError, match="died with exit code 3"):
        run(make=Make("die"), processes=2)
    assert run(processes=2).members == 3  # the next evaluation starts afresh


def test_an_environment_that_raises_in_a_process_is_an_error_with_its_words() -> None:
    with pytest.raises(UnderstudyError, match="RuntimeError: the arm fell off"):
        run(make=Make("raise"), processes=2)


@pytest.mark.slow
def test_an_environment_that_hangs_is_killed_after_the_timeout_and_named() -> None:
    before = {child.pid for child in multiprocessing.active_children()}
    with pytest.raises(UnderstudyError, match=r"hangs: worker process \d .* gave no answer in 5 s"):
        run(make=Make("hang"), processes=1, timeout=5.0)
    assert {child.pid for child in multiprocessing.active_children()} <= before


def test_nan_actions_are_refused_before_they_reach_the_simulator() -> None:
    def broken(observations, noise, members):
        return np.full((len(members), ROWS, 4, 1), np.nan)

    with pytest.raises(UnderstudyError, match="NaN"):
        run(policy=broken)


def test_actions_of_a_wrong_shape_are_refused() -> None:
    with pytest.raises(UnderstudyError, match="expected"):
        run(policy=lambda observations, noise, members: np.zeros((len(members), ROWS, 2, 1)))


@pytest.mark.parametrize("option", ["members", "episodes", "num_envs"])
def test_counts_below_one_are_refused(option) -> None:
    with pytest.raises(UserError, match="at least 1"):
        run(**{option: 0})


def test_environments_are_kept_between_evaluations() -> None:
    made = []

    def make(render: bool = False) -> gymnasium.Env:
        made.append(1)
        return Walk()

    for _ in range(3):
        run(make=make, num_envs=4)
    assert len(made) == 4
    with pytest.raises(UserError, match="picklable"):
        run(make=make, processes=1)
