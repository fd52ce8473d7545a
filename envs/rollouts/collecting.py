"""Rollouts as data: what a policy or an expert did in an environment, in the store's own columns.

`Recording` turns the steps of an episode into rows, for demonstrations and evaluations as well; `collect` plays a
policy for ever and hands out each transition as it happens, so that the weights may change between two of them.
A transition's next observation is the row after it, or its episode's final one: never a copy.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from understudy.envs.rollouts.acting import Act, Acting, Execution, View, decide
from understudy.envs.store.store import FINAL, IMAGES
from understudy.language import text_of
from understudy.observations import STATE, each

Row = dict[str, np.ndarray]
SMALL = ("actions", "executed_actions", "rewards")
"""Columns that are float32 whatever an environment or an expert gave."""


@dataclass(frozen=True)
class Step:
    """What one action did in an environment."""

    action: np.ndarray
    observation: Any
    """What is seen after the action: an array, or a dict of parts."""
    reward: float
    terminated: bool
    truncated: bool = False

    @property
    def ends(self) -> bool:
        """Whether the episode is over."""
        return self.terminated or self.truncated


@dataclass(frozen=True)
class Transition:
    """One step as a store has it."""

    row: Row
    """Its columns: what was seen before it, `actions`, `rewards`, `terminals`, and what else was recorded."""
    after: Row
    """The columns of what was seen after it, which the next row of the episode repeats."""
    ends: bool
    """Whether it is its episode's last; `terminals` says whether that is the task's doing or only a time limit's."""
    episode: int = 0
    step: int = 0


class Recording:
    """The rows of one episode."""

    def __init__(self, observation: Any, *, stored_reward: Callable[[float], float] = float, episode: int = 0) -> None:
        self._seen = observation_columns(observation)
        self._stored_reward = stored_reward
        self._episode = episode
        self._rows: list[Row] = []

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, step: Step, extra: Mapping[str, Any] | None = None) -> Transition:
        """Add a step, with further columns such as the simulator's state before it; return its transition."""
        row = {
            **self._seen,
            "actions": np.asarray(step.action),
            **{name: np.asarray(value) for name, value in (extra or {}).items()},
            "rewards": np.asarray(self._stored_reward(step.reward)),
            "terminals": np.asarray(step.terminated),
        }
        row |= {name: row[name].astype(np.float32) for name in SMALL if name in row}
        self._rows.append(row)
        self._seen = observation_columns(step.observation)
        return Transition(row, self._seen, step.ends, self._episode, len(self._rows) - 1)

    def columns(self) -> Row:
        """Return the episode as `StoreWriter.add_episode` takes it: rows [T, ...], and what was seen at its end."""
        return _stacked(self._rows, self._seen)


def collect(
    act: Act,
    env: Any,
    view: View,
    execution: Execution,
    *,
    seed: int,
    first_episode: int = 0,
    stored_reward: Callable[[float], float] = float,
) -> Iterator[Transition]:
    """Play one policy, episode after episode, and yield each transition once its step is done.

    Episode e begins with the environment's seed `seed + e`; it and its noise depend on nothing else, so that the same
    seed and weights give the same transitions, from any `first_episode` on.
    """
    for episode in itertools.count(first_episode):
        observation, info = env.reset(seed=seed + episode)
        recording = Recording(observation, stored_reward=stored_reward, episode=episode)
        told = {"goal": goal_of(info), "text": text_of(info, env)}
        acting = Acting(view, execution, each(stored, observation), **told, episode=episode)
        ends = False
        while not ends:
            decide(act, [acting], seed)
            action = acting.next_action()
            observation, reward, terminated, truncated, _ = env.step(action)
            ends = bool(terminated or truncated)
            acting.see(each(stored, observation))
            yield recording.add(Step(action, observation, float(reward), bool(terminated), bool(truncated)))


def episodes(transitions: Iterable[Transition]) -> Iterator[Row]:
    """Join transitions to whole episodes, as `StoreWriter.add_episode` takes them; one that has not ended is left."""
    rows: list[Row] = []
    for transition in transitions:
        rows.append(transition.row)
        if transition.ends:
            yield _stacked(rows, transition.after)
            rows = []


def observation_columns(observation: Any) -> Row:
    """Return an observation as columns of a dataset: an array is `observations`, and so is a dict's `state`."""
    if not isinstance(observation, Mapping):
        return {"observations": stored(observation)}
    names = {name: "observations" if name == STATE else IMAGES + name for name in observation}
    return {column: stored(observation[name]) for name, column in names.items()}


def final_columns(columns: Mapping[str, np.ndarray]) -> Row:
    """Return what was seen after the last action under the names that it has in an episode."""
    return {"final_observation" if name == "observations" else FINAL + name: row for name, row in columns.items()}


def goal_of(info: Mapping[str, Any]) -> Any:
    """Return the goal that a reset told, as policies are shown it; None where it told none."""
    return each(stored, info["goal"]) if "goal" in info else None


def stored(observation: Any) -> np.ndarray:
    """Return a copy as stores and policies have it: pictures uint8, states float32.

    Environments may write into the same array.
    """
    array = np.asarray(observation)
    return array.copy() if array.dtype == np.uint8 and array.ndim > 2 else array.astype(np.float32)


def _stacked(rows: list[Row], after: Row) -> Row:
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]} | final_columns(after)
