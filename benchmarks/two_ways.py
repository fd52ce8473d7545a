"""Two ways round an obstacle: success, and the share of each way, by method and by the noise that it acts with.

    python benchmarks/two_ways.py FOLDER [--methods bc_mse flow_bc ...] [--seeds 3] [--updates 1500] [--episodes 50]

A point mass in MuJoCo starts below a box and shall come to a place above it; the demonstrations go round it to the left
or to the right, at random, half of the episodes each way. In the middle the mean of their actions leads into the box.
Each method is trained on the same demonstrations, all seeds as one pack, and the same policies play the same starts at
temperature 0 and at 1; intervals are for other seeds and other starts. A way is the side on which an episode passes the
box; those that never do have none.
"""

from __future__ import annotations

import argparse
import functools
import importlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

import understudy
from understudy.envs.rollouts.acting import decide
from understudy.policy import Policy
from understudy.statistics import interval

mujoco: Any = importlib.import_module("mujoco")  # whose functions have no types
XML = """
<mujoco>
  <option timestep="0.02" gravity="0 0 0"/>
  <worldbody>
    <body name="mass">
      <joint name="x" type="slide" axis="1 0 0"/>
      <joint name="y" type="slide" axis="0 1 0"/>
      <geom type="sphere" size="0.08" mass="1" friction="0 0 0"/>
    </body>
    <geom name="box" type="box" size="0.4 0.15 0.2" friction="0 0 0"/>
  </worldbody>
  <actuator>
    <velocity joint="x" kv="20"/>
    <velocity joint="y" kv="20"/>
  </actuator>
</mujoco>
"""
SUBSTEPS = 5
LIMIT = 60
"""Steps of an episode; a demonstration takes about 30."""
STARTS = 1_000_000
"""Seed of the first start that policies play."""
GOAL, NEAR, CORNER, SPEED = np.array([0.0, 1.0]), 0.15, 0.65, 0.9
CHUNKS = {"action_chunking": True, "horizon_length": 5}
DENSE = {"hidden_dims": [128, 128], "lr": 1e-3, "batch_size": 128, **CHUNKS}
DEEP = {"lr": 1e-3, "batch_size": 64}
OF_EIGHT = {"horizon_length": 8, "n_action_steps": 5, **DEEP}
BOUNDS = {"normalize": "bounds", "normalize_actions": "bounds"}
METHODS: dict[str, dict[str, Any]] = {
    "bc_mse": {"algo": "bc", "policy": "mse", **DENSE},
    "bc_gmm": {"algo": "bc", "policy": "gmm", **DENSE},
    "flow_bc": {"algo": "flow_bc", **DENSE},
    "ddpm_bc": {"algo": "ddpm_bc", "ema_rate": 0.01, "dropout": 0.0, **DENSE},
    "vq_bet": {"algo": "vq_bet", "dim_model": 64, "n_heads": 4, "n_layers": 2, **DEEP, **CHUNKS},
    "bc_rnn": {"algo": "bc_rnn", "policy": "gmm", "rnn_hidden_dim": 64, **DEEP},
    "flow_transformer": {"algo": "flow_transformer", "dim_model": 64, "n_layers": 2, **OF_EIGHT},
    "diffusion_policy": {
        **{"algo": "diffusion_policy", "down_dims": [32, 64], "step_embed_dim": 32, "obs_horizon": 2, **OF_EIGHT},
        **{"sampler": "ddim", "sampling_steps": 10, **BOUNDS},
    },
}


@functools.cache
def _model() -> Any:
    return mujoco.MjModel.from_xml_string(XML)


class TwoWays(gymnasium.Env[np.ndarray, np.ndarray]):
    """A point mass whose actions are wanted velocities in [-1, 1]; it sees its place and its velocity."""

    observation_space = spaces.Box(-np.inf, np.inf, (4,), np.float32)
    action_space = spaces.Box(-1, 1, (2,), np.float32)

    def __init__(self) -> None:
        self._model = _model()
        self._data = mujoco.MjData(self._model)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin below the box, nearly in its middle."""
        super().reset(seed=seed)
        mujoco.mj_resetData(self._model, self._data)
        self._data.qpos[:] = [self.np_random.uniform(-0.05, 0.05), -1.0]
        mujoco.mj_forward(self._model, self._data)
        return self._seen(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Follow a velocity for a tenth of a second; an episode ends at the goal."""
        self._data.ctrl[:] = np.clip(action, -1, 1)
        mujoco.mj_step(self._model, self._data, SUBSTEPS)
        distance = float(np.linalg.norm(self._data.qpos - GOAL))
        return self._seen(), -distance, distance < NEAR, False, {"success": distance < NEAR}

    def _seen(self) -> np.ndarray:
        return np.concatenate([self._data.qpos, self._data.qvel]).astype(np.float32)


def demonstration(env: TwoWays, number: int) -> dict[str, np.ndarray]:
    """Return an episode of the expert, which draws its side and goes by the box's corner to the goal."""
    random = np.random.default_rng(number)
    side = random.choice([-1.0, 1.0])
    seen, done = [env.reset(seed=number)[0]], []
    for _ in range(LIMIT):
        place = seen[-1][:2]
        target = np.array([side * CORNER, 0.1]) if place[1] < 0.0 else GOAL
        ahead = target - place
        action = SPEED * ahead / max(1e-6, float(np.linalg.norm(ahead))) + 0.05 * random.standard_normal(2)
        done.append(np.clip(action, -1, 1).astype(np.float32))
        observation, _, reached, _, _ = env.step(done[-1])
        seen.append(observation)
        if reached:
            break
    return {"observations": np.stack(seen), "actions": np.stack(done)}


def way(places: np.ndarray) -> int:
    """Return the side on which places [T, 2] pass the middle of the box, -1 or 1; 0 where they do not."""
    passed = np.flatnonzero(places[:, 1] > 0)
    return int(np.sign(places[passed[0], 0])) if len(passed) else 0


@dataclass
class Attempt:
    """An episode that one member of a policy plays."""

    env: TwoWays
    runner: Any
    seen: np.ndarray
    places: list[np.ndarray] = field(default_factory=list[np.ndarray])
    reached: bool = False

    @classmethod
    def of(cls, policy: Policy, member: int, temperature: float, start: int, told: dict[str, str]) -> Attempt:
        """Begin an episode of the start with this number."""
        env, runner = TwoWays(), policy.runner(member, temperature)
        seen, _ = env.reset(seed=STARTS + start)
        runner.episode = start - 1
        runner.reset(seen, told)
        return cls(env, runner, seen, [seen[:2]])


def play(policy: Policy, temperature: float, starts: int, texts: Iterable[str] = ()) -> tuple[np.ndarray, np.ndarray]:
    """Play the same starts with every member, all at once; return success and way [members, starts].

    Of several texts each start is played with each: [members, texts x starts].
    """
    told = [{"language": text} for text in texts] or [{}]
    played = [
        [Attempt.of(policy, member, temperature, start, one) for one in told for start in range(starts)]
        for member in range(len(policy))
    ]
    every = [attempt for row in played for attempt in row]
    for _ in range(LIMIT):
        going = [attempt for attempt in every if not attempt.reached]
        acting = [attempt.runner.see(attempt.seen) for attempt in going]
        decide(policy.act_members, acting, STARTS)
        for attempt, one in zip(going, acting, strict=True):
            attempt.seen, _, attempt.reached, _, _ = attempt.env.step(one.next_action())
            attempt.places.append(attempt.seen[:2])
    success_KE = np.array([[attempt.reached for attempt in row] for row in played], np.float64)
    return success_KE, np.array([[way(np.stack(attempt.places)) for attempt in row] for row in played])


def rate(values_KE: np.ndarray) -> str:
    """Return a rate with its interval, members and starts crossed."""
    found = interval(values_KE.astype(np.float64))
    return f"{found.mean:.2f} [{found.low:.2f}, {found.high:.2f}]"


def main() -> None:
    """Make the demonstrations, train the methods and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0 on")
    parser.add_argument("--updates", type=int, default=1500)
    parser.add_argument("--episodes", type=int, default=50)
    parser.add_argument("--demonstrations", type=int, default=150)
    given = parser.parse_args()
    env, data = TwoWays(), str(given.folder / "data")
    episodes = [demonstration(env, number) for number in range(given.demonstrations)]
    ways = [way(episode["observations"][:, :2]) for episode in episodes]
    lengths = [len(episode["actions"]) for episode in episodes]
    understudy.write_dataset("two-ways", episodes, data_dir=data, overwrite=True)
    sides = f"{ways.count(-1)} left, {ways.count(1)} right"
    print(f"{len(episodes)} demonstrations of {np.mean(lengths):.0f} steps, {sides}; {given.seeds} seeds")
    print("| method | temperature | success | left | right | neither |\n| --- | --- | --- | --- | --- | --- |")
    here = {"launcher": "inline", "tracking_uri": "none", "eval_episodes": 0, "quiet": True}
    here |= {"seeds": list(range(given.seeds)), "data_dir": data, "save_dir": str(given.folder / "runs")}
    for name in given.methods:
        run = understudy.train(
            env_name="two-ways", training_steps=given.updates, run_group=name, **METHODS[name], **here
        )
        policy = run.policy()
        for temperature in (0.0, 1.0) if policy.algorithm.config.acts_at_random else (0.0,):
            success_KE, ways_KE = play(policy, temperature, given.episodes)
            rates = [rate(ways_KE == -1), f"{(ways_KE == 1).mean():.2f}", f"{(ways_KE == 0).mean():.2f}"]
            cells = [name, f"{temperature:g}", rate(success_KE), *rates]
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
