"""Corrections are drawn with demonstrations and with what was done, and made on a schedule; the gripper has a critic.

Shapes: b rows.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from understudy.envs.recording.overseer import Overseer
from understudy.envs.replay.pool import INTERVENTIONS, Pool
from understudy.envs.replay.replay import Replay
from understudy.envs.rollouts.factory import EnvFactory
from understudy.envs.store.store import EpisodeStore
from understudy.envs.store.writer import StoreWriter
from understudy.envs.windows.windows import Windows
from understudy.errors import SpecError, UserError
from understudy.randomness import torch_generator
from understudy.spec.data import DataSpec
from understudy.spec.keys import build_run
from understudy.trainables.algorithms.hilserl import HILSERL, PENALTIES, HILSERLConfig, WithGrasp
from understudy.trainables.loops.in_the_loop import InTheLoopLoop
from understudy.trainables.packs.pack import Pack


def _buffer(folder: Path, first: int, rows: int, corrected: set[int], capacity: int = 100) -> Replay:
    """Return a buffer whose observations count from `first`, in episodes of four steps."""
    buffer = Replay(folder, (1,), 1, capacity, marks=(INTERVENTIONS, PENALTIES))
    for row in range(rows):
        if row % 4 == 0:
            buffer.begin(np.array([first + row], np.float32))
        seen = np.array([first + row + 0.5 if row % 4 == 3 else first + row + 1], np.float32)
        ends = row % 4 == 3
        mark = {INTERVENTIONS: float(row in corrected), PENALTIES: 1.0}
        buffer.add(np.zeros(1, np.float32), 0.0, seen, terminated=ends, ended=ends, marks=mark)
    return buffer


def _windows(folder: Path) -> Windows:
    """Return three demonstrated transitions that count from -3, executed with 0.5."""
    with StoreWriter(folder, name="shown", source="d4rl", env_id="x") as writer:
        rows = np.arange(-3, 0, dtype=np.float32)[:, None]
        episode = {"observations": rows, "actions": np.zeros((3, 1)), "executed_actions": np.full((3, 1), 0.5)}
        writer.add_episode({**episode, "rewards": np.zeros(3), "terminals": [0, 0, 1], "final_observation": [0.0]})
    return Windows(EpisodeStore.open(folder), DataSpec(), HILSERLConfig().sampling)


def test_both_draws_hold_corrections_and_only_one_holds_demonstrations(tmp_path: Path) -> None:
    pool = Pool([_buffer(tmp_path / "a", 0, 12, {1, 2}), _buffer(tmp_path / "b", 100, 8, {5})], 0.9)
    windows = _windows(tmp_path / "store")
    own = pool.draw(0, 1, 2000)
    shown = pool.draw_shown(windows, 0, 1, 2000)
    assert set(own["observations"][:, 0].tolist()) == {*range(12), *range(100, 108)}
    counted = np.unique(shown["observations"][:, 0].numpy(), return_counts=True)
    assert counted[0].tolist() == [-3, -2, -1, 1, 2, 105]
    assert counted[1].min() > 2000 / 6 * 0.8
    done = shown["observations"][:, 0] < 0
    assert set(shown["actions"][done].flatten().tolist()) == {0.5}
    after = {float(o): float(n) for o, n in zip(own["observations"], own["next_observations"], strict=True)}
    assert (after[3], after[4], after[103], after[107]) == (3.5, 5, 103.5, 107.5)
    assert (shown[PENALTIES][done].max(), shown[PENALTIES][~done].min()) == (0, 1)


def test_a_draw_can_be_made_again_when_more_rows_have_come(tmp_path: Path) -> None:
    before = [_buffer(tmp_path / "a", 0, 6, {1}, capacity=5), _buffer(tmp_path / "b", 100, 8, {5})]
    now = [_buffer(tmp_path / "c", 0, 12, {1, 7}, capacity=5), _buffer(tmp_path / "d", 100, 12, {5, 9})]
    windows = _windows(tmp_path / "store")
    early, late = Pool(before, 0.9, from_start=True), Pool(now, 0.9, from_start=True)
    counts = early.counts()
    for one, other in (
        (early.draw_shown(windows, 3, 9, 50), late.draw_shown(windows, 3, 9, 50, counts)),
        (early.draw(3, 9, 50), late.draw(3, 9, 50, counts)),
    ):
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_an_oracle_corrects_its_share_of_the_episodes_which_falls_and_is_the_same_again() -> None:
    factory = EnvFactory("gym_hil/PandaPickCube-state-v0")
    env = factory()
    config = HILSERLConfig(takeover="scripted", takeover_rate=0.5, takeover_after=2, takeover_steps=2)
    overseer, falling = (
        Overseer(c, factory, env, 0) for c in (config, config.model_copy(update={"takeover_until": 1000}))
    )
    observation, info = env.reset(seed=0)
    taken = []
    for episode in range(40):
        overseer.begin(env, observation, info, episode, 0)
        taken.append([overseer.says(env, observation, info).action is not None for _ in range(5)])
        falling.begin(env, observation, info, episode, 1000)
        assert falling.says(env, observation, info).action is None
    assert {tuple(one) for one in taken} == {(False,) * 5, (False, False, True, True, False)}
    assert 10 < sum(map(any, taken)) < 30


def test_the_gripper_does_what_its_critic_values_most_and_learns_what_it_earns() -> None:
    algorithm = HILSERL((3,), 3, HILSERLConfig(gripper="discrete", hidden_dims=(16,), lr=1e-2))
    pack = Pack(algorithm, [0])
    observations = np.random.default_rng(0).normal(size=(1, 64, 3)).astype(np.float32)
    actions = np.random.default_rng(1).choice([-1.0, 0.0, 1.0], size=(1, 64, 1, 3)).astype(np.float32)
    rewards = (actions[..., -1] == 1).astype(np.float32)  # closing is what earns
    batch = {
        "observations": observations,
        "next_observations": observations,
        "actions": actions,
        "valid": np.ones((1, 64, 1), np.float32),
        "rewards": rewards,
        "discounts": np.zeros((1, 64, 1), np.float32),
        PENALTIES: np.zeros((1, 64), np.float32),
    }
    tensors = {name: torch.from_numpy(value) for name, value in batch.items()}
    for step in range(1, 200):
        pack.update(tensors, step)
    acted = pack.act(observations, np.zeros((1, 64, *algorithm.noise_shape()), np.float32))
    assert set(acted[0, :, 0, -1].tolist()) == {1.0}
    assert acted.shape == (1, 64, 1, 3)


def test_a_penalty_lowers_what_the_gripper_is_worth() -> None:
    algorithm = HILSERL((3,), 2, HILSERLConfig(gripper="discrete", hidden_dims=(16,), gripper_penalty=-1.0))
    network = algorithm.network(torch_generator(0, "weights"))
    assert isinstance(network, WithGrasp)
    target = {"grasp": network.grasp}
    seen = torch.zeros(4, 3)
    value = network.grasp(network.encoder(seen))[:, 2].detach()
    batch = {
        "observations": seen,
        "next_observations": seen,
        "actions": torch.ones(4, 1, 2),
        "rewards": value[:, None] + 1.0,
        "discounts": torch.zeros(4, 1),
        PENALTIES: torch.ones(4),
    }
    assert algorithm.grasp_loss(network, target, batch, {})[0].item() == pytest.approx(0.0, abs=1e-10)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"takeover": "scriptd"}, "did you mean 'scripted'"),
        ({"freeze_vision_encoder": True}, "for pictures"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(words: dict, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        build_run({"algo": "hilserl", **words})


def test_an_oracle_that_there_is_not_is_said_before_a_run_begins() -> None:
    spec = build_run({"algo": "hilserl", "env_name": "Pendulum-v1", "offline_ratio": 0.0, "takeover": "scripted"})
    with pytest.raises(SpecError, match="takeover=scripted: Pendulum-v1 has no scripted expert; takeover=keyboard"):
        InTheLoopLoop(spec)


def test_a_classifier_that_is_not_there_is_named_by_its_key() -> None:
    words = {"algo": "hilserl", "env_name": "Pendulum-v1", "offline_ratio": 0.0, "reward_classifier": "/no/such/run"}
    with pytest.raises(UserError, match=r"^reward_classifier=/no/such/run: no policy at '/no/such/run'"):
        InTheLoopLoop(build_run(words))
