"""Make demonstrations with a scripted expert in the simulator: what the quick start learns from.

OGBench's cube oracle solves the task while Gaussian noise is added to the action that is EXECUTED and the
oracle's own clean action is RECORDED (as in DART, Laskey et al. 2017, arXiv 1703.09327): the data show how to
come back from mistakes. So `actions` are labels to imitate; what moved the arm is in `executed_actions`.

An attempt is a pure function of (seed, attempt number), and the kept episodes are the first successful attempts:
the file does not depend on the number of workers.
"""

from __future__ import annotations

import functools
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from understudy.envs.source import source_for
from understudy.errors import UnderstudyError, UserError, did_you_mean
from understudy.files import write_atomic
from understudy.randomness import numpy_generator, stream_key

SUCCESSES = 10
"""Steps after the task was first solved: the data also show how to stay there."""
MAX_STEPS = 200
FAILURE_LIMIT = 5
"""Give up after this many attempts for each episode asked for."""
Progress = Callable[[int, int], None]
"""Called with (episodes kept, attempts made)."""


@dataclass(frozen=True)
class Generated:
    """What `generate` did."""

    path: Path
    episodes: int
    transitions: int
    attempts: int

    @property
    def failures(self) -> int:
        """Attempts in which the oracle did not solve the task; they are not in the file."""
        return self.attempts - self.episodes


def supported_names() -> list[str]:
    """Return the dataset names that a scripted expert can make."""
    return [name for name in source_for("cube-single-scripted-singletask-v0").known_names() if "-scripted-" in name]


def generate(
    env_name: str,
    episodes: int,
    *,
    out_path: str | Path,
    seed: int = 0,
    noise: float = 0.2,
    workers: int = 1,
    progress: Progress | None = None,
) -> Generated:
    """Write an OGBench-format npz with `episodes` successful episodes of the scripted expert.

    `noise` is the standard deviation of what is added to the executed action (actions span [-1, 1]).
    """
    if env_name not in supported_names():
        raise UserError(f"no scripted expert for {env_name!r}{did_you_mean(env_name, supported_names())}")
    for name, value, low in (("episodes", episodes, 1), ("workers", workers, 1), ("noise", noise, 0)):
        if value < low:
            raise UserError(f"{name}={value}: must be at least {low}")
    kept: list[dict[str, np.ndarray]] = []
    attempts = 0
    for episode in _attempts(env_name, seed, noise, workers, limit=FAILURE_LIMIT * episodes, ahead=episodes):
        attempts += 1
        if episode is not None:
            kept.append(episode)
        if progress is not None:
            progress(len(kept), attempts)
        if len(kept) == episodes:
            break
    if len(kept) < episodes:
        raise UnderstudyError(
            f"{env_name}: the expert solved only {len(kept)} of {attempts} attempts; use less noise than {noise}"
        )
    target = Path(out_path).expanduser()
    arrays = {name: np.concatenate([episode[name] for episode in kept]) for name in kept[0]}
    arrays["made_by"] = np.asarray(
        f"understudy scripted expert: {env_name}, {episodes} of {attempts} attempts, seed {seed}, "
        f"noise {noise} on executed actions, clean actions recorded"
    )
    write_atomic(target, lambda stream: np.savez(stream, allow_pickle=False, **arrays))
    return Generated(target, episodes, len(arrays["actions"]) - episodes, attempts)


def _attempts(
    env_name: str, seed: int, noise: float, workers: int, limit: int, ahead: int
) -> Iterator[dict[str, np.ndarray] | None]:
    """Yield attempts 0, 1, 2, ... in order, None for failed ones; no more are started than can be needed."""
    play = functools.partial(play_attempt, env_name, seed, noise)
    if workers == 1:
        yield from map(play, range(limit))
        return
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        pending: list[Future[dict[str, np.ndarray] | None]] = [pool.submit(play, i) for i in range(min(ahead, limit))]
        try:
            number = 0
            while number < len(pending):
                episode = pending[number].result()
                number += 1
                if episode is None and len(pending) < limit:
                    pending.append(pool.submit(play, len(pending)))
                yield episode
        except BrokenProcessPool as error:
            raise UnderstudyError(f"{env_name}: a generating process died; try fewer workers") from error
        finally:
            for future in pending:
                future.cancel()


@functools.lru_cache(maxsize=1)
def _expert(env_name: str) -> tuple[Any, Any]:
    from ogbench.manipspace.oracles.markov.cube_markov import CubeMarkovOracle

    env = source_for(env_name).make_env(env_name)
    arm: Any = env.unwrapped
    arm._terminate_at_goal = False  # the episode goes on for SUCCESSES steps
    return env, CubeMarkovOracle(env=env, min_norm=0.4)


def play_attempt(env_name: str, seed: int, noise: float, attempt: int) -> dict[str, np.ndarray] | None:
    """Play one attempt; return its rows, the last of which is only the final state, or None if it failed."""
    from understudy.envs.deterministic import global_numpy_seed

    env, oracle = _expert(env_name)
    key = stream_key(seed, "expert", attempt)
    stream = numpy_generator(seed, "expert noise", attempt)
    observation, info = env.reset(seed=key % 2**31)
    rows: list[dict[str, Any]] = []
    solved = 0
    with global_numpy_seed(key):  # the oracle draws its rest pose from the global np.random
        oracle.reset(observation, info)
        for _ in range(MAX_STEPS):
            action = oracle.select_action(observation, _oracle_info(env, info))
            executed = np.clip(action + stream.normal(0.0, noise, action.shape), -1.0, 1.0)
            rows.append(_row(env, observation, action, executed))
            observation, _, _, truncated, info = env.step(executed)
            solved += bool(info["success"])
            if solved >= SUCCESSES or truncated:
                break
    rows.append(_row(env, observation, np.zeros_like(action), np.zeros_like(action)))
    if not solved:
        return None
    episode = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    episode["terminals"] = np.arange(len(rows)) == len(rows) - 1
    return episode


def _oracle_info(env: Any, info: dict[str, Any]) -> dict[str, Any]:
    """Return the info with the target that the oracle looks for, which the single-task mode leaves out."""
    arm = env.unwrapped
    target = arm._data.mocap_pos[arm._cube_target_mocap_ids[0]].copy()
    extra = {"target_block": 0, "target_block_pos": target, "target_block_yaw": np.zeros(1)}
    return {**info, **{f"privileged/{name}": value for name, value in extra.items()}}


def _row(env: Any, observation: np.ndarray, action: np.ndarray, executed: np.ndarray) -> dict[str, np.ndarray]:
    data = env.unwrapped._data
    return {
        "observations": np.asarray(observation, np.float32),
        "actions": np.asarray(action, np.float32),
        "executed_actions": np.asarray(executed, np.float32),
        "qpos": data.qpos.copy(),
        "qvel": data.qvel.copy(),
    }
