"""Evaluate the members of a pack in a simulator: many environments, one policy call for all that need an action.

The numbers depend on nothing but the policy, the seed and the episode (`acting.py`): not on how many environments run
at once, in which processes, nor on whether videos are made.

Shape suffixes: K members, E episodes, H steps of a chunk, A action dims.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from understudy.envs.rollouts.acting import Act, Acting, Execution, View, decide
from understudy.envs.rollouts.collecting import Recording, Row
from understudy.envs.rollouts.pools import (
    Command,
    CommandResult,
    MakeEnv,
    Poll,
    Pool,
    WorkerDied,
    discard_pool,
    pool_for,
)
from understudy.errors import UserError

logger = logging.getLogger("understudy")
OnStep = Callable[[int, int], None]
"""Called after each round with (episodes finished, episodes in all)."""
OnEpisode = Callable[[int, int, Row], None]
"""Called with (member, episode, the episode as a store has it)."""


@dataclass(frozen=True)
class Ended:
    """What came of one episode, as soon as it ended."""

    member: int
    episode: int
    reset_seed: int
    returns: float
    length: int
    success: float | None
    normalized_return: float | None
    text: str | None = None


OnEnd = Callable[[Ended], None]
"""Called once for each episode, in the order in which they end."""


@dataclass(frozen=True)
class Episodes:
    """Which episodes each member plays, and what is filmed of them."""

    count: int = 50
    seed: int = 0
    """Environment seed of the first one; the next has the next seed."""
    filmed: int = 0
    """Episodes, from the first, that become videos."""
    frame_skip: int = 3
    """Environment steps per video frame."""


@dataclass(frozen=True)
class Stepping:
    """How many environments are stepped side by side, and where. Changes the time that it takes, no number."""

    num_envs: int = 10
    processes: bool | int = False
    """Worker processes that hold them (True: one for each CPU); none: this process."""
    timeout: float | None = None
    """Seconds after which a worker process that gives no answer is killed."""


@dataclass(frozen=True)
class Evaluation:
    """Results of E episodes for each of K members; episode e of every member has the environment seed `seed + e`."""

    returns: np.ndarray
    lengths: np.ndarray
    successes: np.ndarray | None
    normalized: np.ndarray | None
    seed: int
    frames: list[list[np.ndarray]] = field(default_factory=list)
    """frames[k][i]: the video [T, height, width, 3] uint8 of member k's episode i, of those that are filmed."""

    texts: dict[tuple[int, int], str] = field(default_factory=dict[tuple[int, int], str])
    """The task's text that member k's episode e was told, by (k, e); empty where policies are told none."""

    @property
    def members(self) -> int:
        """Members evaluated."""
        return len(self.returns)

    def summary(self, member: int = 0) -> dict[str, float]:
        """Return the means over episodes: return, length and, where known, success and normalized_return."""
        means = {"return": float(self.returns[member].mean()), "length": float(self.lengths[member].mean())}
        if self.successes is not None:
            means["success"] = float(self.successes[member].mean())
        if self.normalized is not None:
            means["normalized_return"] = float(self.normalized[member].mean())
        return means


def evaluate(
    act: Act,
    make_env: MakeEnv,
    episodes: Episodes,
    execution: Execution,
    stepping: Stepping,
    *,
    members: int = 1,
    on_step: OnStep | None = None,
    on_episode: OnEpisode | None = None,
    on_end: OnEnd | None = None,
    poll: Poll | None = None,
) -> Evaluation:
    """Play the episodes with each member and return what came of them.

    Success means that the task was solved at some step. When a worker process dies, the evaluation begins again, once;
    one that hangs is an UnderstudyError that says so. `poll` is called between environment steps, and what it raises
    ends the evaluation. `make_env` is usually an `EnvFactory`, which knows what the policy is shown (`view`) and how
    returns are normalised (`normalized_score`).
    """
    counts = {"members": members, "eval_episodes": episodes.count, "num_envs": stepping.num_envs}
    for name, value in counts.items():
        if value < 1:
            raise UserError(f"{name}={value}: must be at least 1")
    slots = min(stepping.num_envs, members * episodes.count)
    given: set[tuple[int, int]] = set()
    told: set[tuple[int, int]] = set()

    def tell(ended: Ended) -> None:
        if on_end is not None and (ended.member, ended.episode) not in told:
            told.add((ended.member, ended.episode))
            on_end(ended)

    def give(member: int, episode: int, columns: Row) -> None:
        if on_episode is not None and (member, episode) not in given:
            given.add((member, episode))
            on_episode(member, episode, columns)

    def attempt() -> _Rollouts:
        pool = pool_for(
            make_env, render=episodes.filmed > 0, processes=stepping.processes, slots=slots, timeout=stepping.timeout
        )
        run = _Rollouts(act, pool, make_env, members, episodes, execution)
        run.on_step, run.poll = on_step, poll
        run.on_episode = give if on_episode is not None else None
        run.on_end = tell
        try:
            run.play(slots)
        except BaseException:
            discard_pool(pool)
            raise
        return run

    try:
        return attempt().result()
    except WorkerDied as error:
        # Episodes are functions of their seeds: played again from the first, they are what they would have been.
        logger.warning("%s; the evaluation begins again", error)
        return attempt().result()


class _Rollouts:
    """The episodes of one evaluation: those that wait, those that are being played, and what came of the others."""

    on_step: OnStep | None = None
    on_episode: OnEpisode | None = None
    on_end: OnEnd | None = None
    poll: Poll | None = None

    def __init__(
        self, act: Act, pool: Pool, make_env: MakeEnv, members: int, episodes: Episodes, execution: Execution
    ) -> None:
        self._act, self._pool, self._make_env = act, pool, make_env
        self._view: View = getattr(make_env, "view", View())
        self._members, self._episodes, self._execution = members, episodes, execution
        self._waiting = [(member, episode) for member in range(members) for episode in range(episodes.count)][::-1]
        self._returns = np.zeros((members, episodes.count))
        self._lengths = np.zeros((members, episodes.count), np.int64)
        self._successes = np.full((members, episodes.count), np.nan)
        self._frames: list[list[list[np.ndarray]]] = [
            [[] for _ in range(min(episodes.filmed, episodes.count))] for _ in range(members)
        ]
        self._score: Callable[[np.ndarray], Any] | None = getattr(make_env, "normalized_score", None)
        self._texts: dict[tuple[int, int], str] = {}
        self._playing: dict[int, Acting] = {}
        self._recordings: dict[int, Recording] = {}

    def play(self, slots: int) -> None:
        """Fill the slots with episodes until none is left."""
        total, finished = self._members * self._episodes.count, 0
        while finished < total:
            self._start(slots)
            decide(self._act, list(self._playing.values()), self._episodes.seed)
            commands = [
                Command(
                    slot,
                    actions=acting.next_actions(),
                    frame_skip=self._skip(acting.episode),
                    recent=self._view.obs_horizon,
                    record=self.on_episode is not None,
                )
                for slot, acting in self._playing.items()
            ]
            for command, outcome in zip(commands, self._pool.run(commands, self.poll), strict=True):
                finished += self._take(command.slot, outcome)
            if self.on_step is not None:
                self.on_step(finished, total)

    def result(self) -> Evaluation:
        """Return the finished evaluation."""
        score = self._score
        known = not np.isnan(self._successes).any()
        return Evaluation(
            returns=self._returns,
            lengths=self._lengths,
            successes=self._successes if known else None,
            normalized=None if score is None else score(self._returns),
            seed=self._episodes.seed,
            frames=[[np.stack(frames) for frames in member] for member in self._frames],
            texts=self._texts,
        )

    def _start(self, slots: int) -> None:
        """Reset the free slots for episodes that wait."""
        commands, pairs = [], []
        for slot in range(slots):
            if slot not in self._playing and self._waiting:
                member, episode = self._waiting.pop()
                pairs.append((member, episode))
                commands.append(Command(slot, seed=self._episodes.seed + episode, frame_skip=self._skip(episode)))
        for command, (member, episode), outcome in zip(
            commands, pairs, self._pool.run(commands, self.poll), strict=True
        ):
            told = {"goal": outcome.goal, "text": outcome.text}
            acting = Acting(self._view, self._execution, outcome.observation, **told, member=member, episode=episode)
            self._playing[command.slot] = acting
            if acting.text is not None:
                self._texts[member, episode] = acting.text
            self._frames_of(acting).extend(outcome.frames)
            if self.on_episode is not None:
                reward = getattr(self._make_env, "stored_reward", float)
                self._recordings[command.slot] = Recording(outcome.observation, stored_reward=reward, episode=episode)

    def _take(self, slot: int, outcome: CommandResult) -> int:
        """Add a chunk's outcome to its episode; return 1 when the episode is over."""
        acting = self._playing[slot]
        place = (acting.member, acting.episode)
        self._returns[place] += outcome.reward
        self._lengths[place] += outcome.steps
        if outcome.success is not None:
            self._successes[place] = np.fmax(self._successes[place], outcome.success)
        self._frames_of(acting).extend(outcome.frames)
        for observation in outcome.observations:
            acting.see(observation)
        for step in outcome.recorded:
            self._recordings[slot].add(step)
        if not outcome.done:
            return 0
        del self._playing[slot]
        if self.on_episode is not None:
            self.on_episode(*place, self._recordings.pop(slot).columns())
        if self.on_end is not None:
            self.on_end(self._ended(*place))
        return 1

    def _ended(self, member: int, episode: int) -> Ended:
        place = (member, episode)
        score = None if self._score is None else self._score(self._returns[member, episode : episode + 1])
        return Ended(
            member,
            episode,
            reset_seed=self._episodes.seed + episode,
            returns=float(self._returns[place]),
            length=int(self._lengths[place]),
            success=None if np.isnan(self._successes[place]) else float(self._successes[place]),
            normalized_return=None if score is None else float(score[0]),
            text=self._texts.get(place),
        )

    def _skip(self, episode: int) -> int:
        return self._episodes.frame_skip if episode < self._episodes.filmed else 0

    def _frames_of(self, acting: Acting) -> list[np.ndarray]:
        frames = self._frames[acting.member]
        return frames[acting.episode] if acting.episode < len(frames) else []
