"""An actor: one environment and a copy of the policy, which sends what it did and takes newer weights as they come.

It acts as a member of an inline run does, with noise and episodes' seeds of its own. Nothing here knows how fragments
and weights travel.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch

from understudy.envs.replay.replay import Replay
from understudy.errors import CheckpointError
from understudy.normaliser import Normaliser
from understudy.observations import each
from understudy.randomness import numpy_generator, stream_key
from understudy.registry import algorithms
from understudy.spec.in_the_loop import InTheLoop
from understudy.spec.run import RunSpec
from understudy.trainables.loops.correcting import CorrectedPlayer, judge_of
from understudy.trainables.loops.data import environment_of
from understudy.trainables.loops.fragments import Fragment, FragmentBuffer, Header
from understudy.trainables.loops.interaction import Surroundings
from understudy.trainables.packs.pack import Pack


class Actor:
    """One environment, and the newest weights that came.

    `facts` are what only the learner knows, as JSON: its `normaliser` and the `environment` of its data.
    """

    def __init__(self, spec: RunSpec, number: int, life: str, facts: Mapping[str, Any]) -> None:
        config = spec.config
        assert isinstance(config, InTheLoop)
        torch.set_num_threads(1)
        self.number, self.life, self._config = number, life, config
        surroundings = Surroundings(environment_of(spec, facts["environment"]), spec.evaluation.eval_seed)
        algorithm = algorithms.get(spec.algo)(surroundings.shape, surroundings.action_dim, config)
        seed = spec.all_seeds[number % len(spec.all_seeds)]  # that of its member, as in `inbox.py`
        scaling = Normaliser.from_dict(facts["normaliser"])
        self._pack = Pack(algorithm, [seed], normaliser=scaling)
        self._seed = stream_key(seed, f"actor {life}", number)
        self._buffer = FragmentBuffer(surroundings.shape)
        keeps = cast(Replay, self._buffer)  # as much of one as a player needs
        self.player = CorrectedPlayer(surroundings, self._seed, keeps, config, judge_of(spec))
        self.player.run_steps = 0
        self._low, self._high = surroundings.low, surroundings.high
        self._steps, self.version, self._spent = 0, -1, 0.0

    def load(self, version: int, flat: np.ndarray, buffers: Mapping[str, np.ndarray], run_steps: int) -> None:
        """Act with these weights [P] from the next decision on; `run_steps` is how far the learner is."""
        self.player.run_steps = run_steps
        if version == self.version:
            return
        row = self._pack.parameters[0]
        if flat.shape != row.shape:
            raise CheckpointError(f"the learner's weights are {flat.shape}, this actor's {tuple(row.shape)}")
        row.copy_(torch.as_tensor(np.array(flat)))
        if buffers:
            named = {name: torch.as_tensor(np.array(value)) for name, value in buffers.items()}
            self._pack.members[0].load_state_dict(named, strict=False)
        self.version = version

    def step(self) -> Fragment | None:
        """Take one step; return a fragment where one is whole."""
        began = time.monotonic()
        shown = each(np.asarray, self.player.shown())
        observations = each(lambda part: part[None, None], shown)
        shape = self._pack.algorithm.noise_shape()
        noise = numpy_generator(self._seed, "act", self._steps).standard_normal(shape, np.float32)
        action = self._pack.act(observations, noise[None, None])[0, 0, 0]
        episode = self._buffer.counters.episodes
        totals = self.player.step(np.clip(action, self._low, self._high))
        self._steps += 1
        self._spent += time.monotonic() - began
        if totals is None and len(self._buffer) < self._config.fragment_steps:
            return None
        return self._fragment(episode, totals)

    def _fragment(self, episode: int, totals: Mapping[str, float] | None) -> Fragment:
        first, arrays = self._buffer.take()
        ended, spent = totals is not None, self._spent
        self._spent = 0.0
        header = Header(self.number, self.life, episode, first, ended, self.version, spent, dict(totals or {}))
        return Fragment(header, arrays)

    def collect(self) -> Fragment:
        """Take steps until a fragment is whole."""
        while True:
            if (fragment := self.step()) is not None:
                return fragment

    def oversight(self) -> contextlib.AbstractContextManager[object]:
        """Open the device of whoever takes over, for the length of a block."""
        overseer = self.player.overseer
        return contextlib.nullcontext() if overseer is None else overseer.control

    def close(self) -> None:
        """Close the environment."""
        self.player.close()
