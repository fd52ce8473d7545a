"""Who corrects a policy while it learns, and when: the controls of recordings, on a schedule where nobody is there.

An oracle corrects a share of the episodes, from some step on: a pure function of (seed, episode), so that a run which
is resumed is corrected as it would have been.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from understudy.envs.recording.control import Control, Driven, Said
from understudy.envs.rollouts.factory import EnvFactory
from understudy.envs.simulators.deterministic import global_numpy_seed
from understudy.randomness import numpy_generator, stream_key
from understudy.registry import controls
from understudy.spec.in_the_loop import InTheLoop

SCRIPTED = "scripted"


class Overseer:
    """One environment's: at each step it takes the action over, or leaves it to the policy."""

    def __init__(self, config: InTheLoop, factory: EnvFactory, env: Any, seed: int) -> None:
        task = factory.task
        self._config, self._seed = config, seed
        self.scheduled = config.takeover == SCRIPTED
        driven = Driven.of(
            factory.env_name,
            env,
            names=task.action_names,
            fps=task.control_hz or 10.0,
            alone=self.scheduled,  # the schedule asks an oracle only where it shall act
            expert=task.expert() if self.scheduled else None,
        )
        self.control: Control = controls.get(config.takeover)(driven)
        self._steps, self._due, self._pace = 0, 0.0, 1.0 / driven.fps
        self._first: int | None = None
        self._key = 0
        self._rng = np.random.default_rng(0)

    def begin(self, env: Any, observation: Any, info: dict[str, Any], episode: int, step: int) -> None:
        """Begin an episode, before step `step` + 1 of the run."""
        self._steps, self._key = 0, stream_key(self._seed, "takeover", episode)
        self._rng = numpy_generator(self._seed, "takeover", episode)
        self._first = None
        if not self.scheduled:
            self.control.begin(env, observation, info, self._rng)
            return
        until = self._config.takeover_until
        rate = self._config.takeover_rate * (max(0.0, 1.0 - step / until) if until else 1.0)
        if self._rng.random() < rate:
            self._first = self._config.takeover_after

    def says(self, env: Any, observation: Any, info: dict[str, Any]) -> Said:
        """Return what is said of the next step."""
        place, self._steps = self._steps, self._steps + 1
        if not self.scheduled:
            self._keep_time()
            return self.control.read(env, observation, info)
        length = self._config.takeover_steps
        if self._first is None or place < self._first or (length and place >= self._first + length):
            return Said()
        with global_numpy_seed(self._key + place):  # oracles of other packages draw from the global np.random
            if place == self._first:
                self.control.begin(env, observation, info, self._rng)
            return self.control.read(env, observation, info)

    def _keep_time(self) -> None:
        """Let the environment go no faster than its own clock, where a person watches it."""
        self._due = max(self._due + self._pace, time.monotonic() - self._pace)
        time.sleep(max(0.0, self._due - time.monotonic()))
