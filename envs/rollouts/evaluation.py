"""Evaluate the members of a pack in a simulator: many environments, one policy call for all that need an action.

The numbers depend on nothing but the policy, the seed and the episode: not on how many environments run at
once, in which processes, nor on whether videos are made. For that, an episode's noise is a pure function of
(seed, episode, decision), and the policy is always called on blocks of ROWS rows in which an episode has a
fixed row, so that the shapes, and with them the float arithmetic, never change.

Shape suffixes: K members, R rows of a block, E episodes, H steps of a chunk, A action dims, O observation dims.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from understudy.envs.rollouts.ensembling import TemporalEnsemble
from understudy.envs.rollouts.pools import Command, MakeEnv, Outcome, Pool, WorkerDied, discard_pool, pool_for
from understudy.errors import UnderstudyError, UserError
from understudy.observations import Arrays, each
from understudy.randomness import numpy_generator

logger = logging.getLogger("understudy")
ROWS = 16
Act = Callable[[Arrays, np.ndarray, Sequence[int]], np.ndarray]
"""act(observations [K, R, *O], noise [K, R, *noise_shape], members) -> actions [K, R, H, A]; K == len(members)."""
OnStep = Callable[[int, int], None]
"""Called after each round with (episodes finished, episodes in all)."""


@dataclass(frozen=True)
class Evaluation:
    """Results of E episodes for each of K members; episode e of every member has the environment seed `seed + e`."""

    returns: np.ndarray
    lengths: np.ndarray
    successes: np.ndarray | None
    normalized: np.ndarray | None
    seed: int
    frames: list[list[np.ndarray]] = field(default_factory=list)
    """frames[k][i]: the video [T, height, width, 3] uint8 of member k's episode i, for the first video_episodes."""

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
    *,
    members: int = 1,
    episodes: int = 50,
    seed: int = 0,
    num_envs: int = 10,
    noise_shape: tuple[int, ...] = (),
    temperature: float = 1.0,
    executed: int = 1,
    ensemble: float | None = None,
    processes: bool | int = False,
    timeout: float | None = None,
    video_episodes: int = 0,
    video_frame_skip: int = 3,
    on_step: OnStep | None = None,
    normalized_score: Callable[[np.ndarray], np.ndarray | None] | None = None,
) -> Evaluation:
    """Run `episodes` episodes of each member and return what came of them.

    The first `executed` actions of a chunk are executed, then the policy is asked again. With `ensemble` it is asked
    at each step, and what all chunks said of it is averaged with that coefficient (see `TemporalEnsemble`). Noise is
    standard normal times `temperature`. Success means that the task was solved at some step. `processes` puts the
    environments into that many worker processes (True: one for each CPU); one that gives no answer in `timeout`
    seconds is killed, and UnderstudyError says so; when one dies, the evaluation begins again, once. `make_env` is
    usually an `EnvFactory`; its `normalized_score` is used unless one is given.
    """
    for name, value in (("members", members), ("eval_episodes", episodes), ("num_envs", num_envs)):
        if value < 1:
            raise UserError(f"{name}={value}: must be at least 1")
    score = normalized_score or getattr(make_env, "normalized_score", None)
    slots = min(num_envs, members * episodes)

    def attempt() -> _Evaluator:
        pool = pool_for(make_env, render=video_episodes > 0, processes=processes, slots=slots, timeout=timeout)
        run = _Evaluator(act, pool, members, episodes, seed, noise_shape, temperature, executed)
        run.ensemble = ensemble
        run.video_episodes, run.frame_skip = video_episodes, max(1, video_frame_skip)
        try:
            run.play(slots, on_step)
        except BaseException:
            discard_pool(pool)
            raise
        return run

    try:
        run = attempt()
    except WorkerDied as error:
        # Episodes are functions of their seeds: played again from the first, they are what they would have been.
        logger.warning("%s; the evaluation begins again", error)
        run = attempt()
    return run.result(score)


@dataclass
class _Running:
    """The episode that a slot is playing."""

    member: int
    episode: int
    observation: Arrays
    decisions: int = 0
    ensemble: TemporalEnsemble | None = None


class _Evaluator:
    video_episodes = 0
    frame_skip = 1
    ensemble: float | None = None

    def __init__(
        self,
        act: Act,
        pool: Pool,
        members: int,
        episodes: int,
        seed: int,
        noise_shape: tuple[int, ...],
        temperature: float,
        executed: int,
    ) -> None:
        self._act, self._pool = act, pool
        self._episodes, self._seed = episodes, seed
        self._noise_shape, self._temperature, self._chunk = tuple(noise_shape), float(temperature), executed
        self._waiting = [(member, episode) for member in range(members) for episode in range(episodes)][::-1]
        self._returns = np.zeros((members, episodes))
        self._lengths = np.zeros((members, episodes), np.int64)
        self._successes = np.full((members, episodes), np.nan)
        self._frames: list[list[list[np.ndarray]]] = []
        self._members = members

    def play(self, slots: int, on_step: OnStep | None) -> None:
        """Fill the slots with episodes until none is left."""
        self._frames = [[[] for _ in range(min(self.video_episodes, self._episodes))] for _ in range(self._members)]
        running: dict[int, _Running] = {}
        total, finished = self._members * self._episodes, 0
        while finished < total:
            self._start(running, slots)
            chunks = self._decide(list(running.values()))
            commands = [
                Command(slot, actions=chunk, frame_skip=self._skip(playing.episode))
                for (slot, playing), chunk in zip(running.items(), chunks, strict=True)
            ]
            for command, outcome in zip(commands, self._pool.run(commands), strict=True):
                finished += self._record(running, command.slot, outcome)
            if on_step is not None:
                on_step(finished, total)

    def result(self, score: Callable[[np.ndarray], np.ndarray | None] | None) -> Evaluation:
        """Return the finished evaluation."""
        known = not np.isnan(self._successes).any()
        return Evaluation(
            returns=self._returns,
            lengths=self._lengths,
            successes=self._successes if known else None,
            normalized=None if score is None else score(self._returns),
            seed=self._seed,
            frames=[[np.stack(frames) for frames in member] for member in self._frames],
        )

    def _start(self, running: dict[int, _Running], slots: int) -> None:
        commands, pairs = [], []
        for slot in range(slots):
            if slot not in running and self._waiting:
                member, episode = self._waiting.pop()
                pairs.append((member, episode))
                commands.append(Command(slot, seed=self._seed + episode, frame_skip=self._skip(episode)))
        for command, (member, episode), outcome in zip(commands, pairs, self._pool.run(commands), strict=True):
            ensemble = None if self.ensemble is None else TemporalEnsemble(self.ensemble)
            running[command.slot] = _Running(member, episode, outcome.observation, ensemble=ensemble)
            self._keep_frames(member, episode, outcome)

    def _decide(self, playing: Sequence[_Running]) -> list[np.ndarray]:
        """Return the next chunk [H, A] of each running episode, asking the policy block by block."""
        chunks: list[np.ndarray] = [np.zeros(0)] * len(playing)
        blocks: dict[int, list[int]] = {}
        for index, item in enumerate(playing):
            blocks.setdefault(item.episode // ROWS, []).append(index)
        for indices in blocks.values():
            actions = self._ask([playing[index] for index in indices])
            for index, chunk in zip(indices, actions, strict=True):
                chunks[index] = chunk
        return chunks

    def _ask(self, block: Sequence[_Running]) -> list[np.ndarray]:
        members = sorted({item.member for item in block})
        leading = (len(members), ROWS)
        observations = each(lambda part: np.zeros((*leading, *part.shape), part.dtype), block[0].observation)
        noise = np.zeros((len(members), ROWS, *self._noise_shape), np.float32)
        places = [(members.index(item.member), item.episode % ROWS) for item in block]
        for (k, row), item in zip(places, block, strict=True):
            _put(item.observation, observations, (k, row))
            if self._temperature:
                stream = numpy_generator(self._seed, "act", item.episode, item.decisions)
                noise[k, row] = stream.standard_normal(self._noise_shape, np.float32) * np.float32(self._temperature)
            item.decisions += 1
        actions = np.asarray(self._act(observations, noise, members))
        if actions.shape[:2] != (len(members), ROWS) or actions.ndim != 4 or actions.shape[2] < self._chunk:
            expected = f"{(len(members), ROWS)} + (at least {self._chunk}, A)"
            raise UnderstudyError(f"the policy returned actions {actions.shape}, expected {expected}")
        chosen = [
            actions[k, row, : self._chunk] if item.ensemble is None else item.ensemble.add(actions[k, row])[None]
            for (k, row), item in zip(places, block, strict=True)
        ]
        for item, chunk in zip(block, chosen, strict=True):
            if not np.isfinite(chunk).all():
                raise UnderstudyError(f"the policy of member {item.member} returned NaN or infinite actions")
        return chosen

    def _record(self, running: dict[int, _Running], slot: int, outcome: Outcome) -> int:
        """Add a chunk's outcome to its episode; return 1 when the episode is over."""
        item = running[slot]
        place = (item.member, item.episode)
        self._returns[place] += outcome.reward
        self._lengths[place] += outcome.steps
        if outcome.success is not None:
            self._successes[place] = np.fmax(self._successes[place], outcome.success)
        self._keep_frames(item.member, item.episode, outcome)
        item.observation = outcome.observation
        if outcome.done:
            del running[slot]
        return int(outcome.done)

    def _skip(self, episode: int) -> int:
        return self.frame_skip if episode < self.video_episodes else 0

    def _keep_frames(self, member: int, episode: int, outcome: Outcome) -> None:
        if outcome.frames:
            self._frames[member][episode].extend(outcome.frames)


def _put(observation: Arrays, into: Arrays, place: tuple[int, int]) -> None:
    """Copy one observation to its place in a block."""
    if isinstance(observation, dict) and isinstance(into, dict):
        for name, part in observation.items():
            into[name][place] = part
    elif not isinstance(into, dict):
        into[place] = observation
