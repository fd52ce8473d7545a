"""Film chosen episodes of an evaluation: the same start states and noise, so that each is the one that was recorded.

One environment, one episode after the other: filming is rare, and pictures cost more than steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from understudy.envs.rollouts.acting import Act, Acting, Execution, View, decide
from understudy.envs.rollouts.collecting import Recording, Row
from understudy.envs.rollouts.evaluation import Ended
from understudy.envs.rollouts.pools import Command, MakeEnv, Poll, Pool, discard_pool, pool_for


@dataclass(frozen=True)
class Filmed:
    """One episode with its pictures."""

    ended: Ended
    frames: np.ndarray
    """[F, height, width, 3] uint8: before the first step, each `frame_skip` steps, and at the end."""
    columns: Row
    """The episode as a store has it: observations, actions, rewards."""


def film(
    act: Act,
    make_env: MakeEnv,
    execution: Execution,
    seed: int,
    chosen: Sequence[tuple[int, int]],
    frame_skip: int = 3,
    poll: Poll | None = None,
) -> Iterator[Filmed]:
    """Play the chosen (member, episode) pairs of an evaluation whose first episode has the seed `seed`, and film them.

    `poll` is called between steps; what it raises ends the filming.
    """
    pool = pool_for(make_env, render=True, processes=1, slots=1)  # of its own: a renderer belongs to its thread
    camera = _Camera(act, pool, make_env, execution, seed, frame_skip, poll)
    for member, episode in chosen:
        try:
            filmed = camera.film(member, episode)
        except BaseException:
            discard_pool(pool)
            raise
        yield filmed


@dataclass(frozen=True)
class _Camera:
    """What plays and films one episode at a time."""

    act: Act
    pool: Pool
    make_env: MakeEnv
    execution: Execution
    seed: int
    skip: int
    poll: Poll | None

    def film(self, member: int, episode: int) -> Filmed:
        """Play one episode of one member from its own start state."""
        view: View = getattr(self.make_env, "view", View())
        start = self.pool.run([Command(0, seed=self.seed + episode, frame_skip=self.skip)], self.poll)[0]
        told = {"goal": start.goal, "text": start.text}
        acting = Acting(view, self.execution, start.observation, **told, member=member, episode=episode)
        recording = Recording(start.observation, episode=episode)
        frames, returns, success, done = list(start.frames), 0.0, None, False
        while not done:
            decide(self.act, [acting], self.seed)
            command = Command(
                0, actions=acting.next_actions(), frame_skip=self.skip, recent=view.obs_horizon, record=True
            )
            outcome = self.pool.run([command], self.poll)[0]
            done, returns = outcome.done, returns + outcome.reward
            if outcome.success is not None:
                success = max(success or 0.0, outcome.success)
            frames.extend(outcome.frames)
            for observation in outcome.observations:
                acting.see(observation)
            for step in outcome.recorded:
                recording.add(step)
        place, scored = (member, episode, self.seed + episode), self._normalized(returns)
        ended = Ended(*place, returns, len(recording), success, scored, acting.text)
        return Filmed(ended, np.stack(frames), recording.columns())

    def _normalized(self, returns: float) -> float | None:
        score: Any = getattr(self.make_env, "normalized_score", None)
        known = None if score is None else score(np.array([returns]))
        return None if known is None else float(known[0])
