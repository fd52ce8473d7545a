"""Actors of one run as Ray actors: started with it, started again when they die, two calls in flight each.

They share one placement group and die with the run. A call carries the newest weights, one object in Ray's store for
all actors of a seed; what it returns is copied out of the store at once. Where a node is lost, Ray starts its actors
again on another; a Ray that is gone ends the run, which may be resumed.
"""

from __future__ import annotations

import logging
import os
import secrets
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from understudy.errors import UnderstudyError
from understudy.randomness import stream_key
from understudy.runs import ray_processes
from understudy.runs.ray_start import start_ray
from understudy.spec.in_the_loop import InTheLoop
from understudy.spec.keys import build_run
from understudy.spec.run import RunSpec
from understudy.trainables.loops.fragments import Fragment
from understudy.trainables.loops.learner import Published

logger = logging.getLogger("understudy")
IN_FLIGHT = 2
PLACE_SECONDS = 120.0
LOOK_SECONDS = 0.005
SILENCE_SECONDS = 60.0
"""After which it is said that actors which died were not started again yet."""


def _ray() -> Any:
    """Return Ray, whose functions have no types; imported where an actor runs, and nowhere else."""
    import ray

    return ray


class ActorProcess:
    """What runs in a Ray actor."""

    def __init__(self, spec: dict[str, Any], number: int, facts: dict[str, Any]) -> None:
        from understudy.trainables.loops.actor import Actor

        self._actor = Actor(build_run(spec), number, secrets.token_hex(4), facts)

    def collect(self, weights: list[Any]) -> Fragment:
        """Act with these weights (a reference in a list, which Ray leaves unresolved) until a fragment is whole."""
        ray = _ray()

        version, steps, held = weights
        if version != self._actor.version:
            published: Published = ray.get(held)
            self._actor.load(published.version, published.flat, published.buffers, steps)
        else:
            self._actor.player.run_steps = steps
        return self._actor.collect()


class RayActors:
    """The actors of one run."""

    def __init__(self, spec: RunSpec, facts: Mapping[str, Any], folder: Path) -> None:
        assert isinstance(spec.config, InTheLoop)
        self._spec, self._facts, self._folder = spec, dict(facts), folder
        self._count = spec.config.actors * len(spec.all_seeds)
        self._name = f"{folder.name}-{stream_key(0, folder.name) % 16**6:06x}-{secrets.token_hex(2)}"
        self._actors: list[Any] = []
        self._group: Any = None
        self._calls: dict[Any, int] = {}
        self._weights: list[list[Any]] = []
        self._seen: dict[int, str] = {}
        self._gone: dict[int, float] = {}
        """When actors died that have sent nothing since."""
        self.lives: dict[int, int] = {}

    def start(self, weights: Sequence[Published]) -> None:
        """Start Ray where there is none, place the actors, and give each its first calls."""
        ray = _ray()
        from ray.util.placement_group import placement_group
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        start_ray(
            max(os.cpu_count() or 1, self._count)
        )  # of a Ray of our own: actors mostly wait for their environment
        held = ray.cluster_resources().get("CPU", 0)
        self._group = placement_group([{"CPU": 1.0}] * self._count, strategy="PACK")
        if not self._group.wait(PLACE_SECONDS):
            ray.util.remove_placement_group(self._group)
            seeds = len(self._spec.all_seeds)
            wanted = f"num_actors={self._count // seeds}" + (f" for each of {seeds} seeds" if seeds > 1 else "")
            raise UnderstudyError(f"{wanted}: this Ray, of {held:g} CPUs, had no room for them in {PLACE_SECONDS:g} s")
        kind: Any = ray.remote(ActorProcess)
        for number in range(self._count):
            options = kind.options(
                name=f"{self._name}-actor{number}",
                num_cpus=1,
                max_restarts=-1,
                max_task_retries=0,
                scheduling_strategy=PlacementGroupSchedulingStrategy(self._group, placement_group_bundle_index=number),
            )
            self._actors.append(options.remote(self._spec.flat(), number, self._facts))
        self.lives = dict.fromkeys(range(self._count), 1)
        self.publish(weights)
        for number in range(self._count):
            for _ in range(IN_FLIGHT):
                self._call(number)

    def publish(self, weights: Sequence[Published]) -> None:
        """Put the weights into Ray's store; the next calls carry them.

        Of a Ray that is gone the next `poll` tells, between two steps: here the weights are those of half a step.
        """
        ray = _ray()

        if self._weights and ray_processes.lost(self._folder):
            return
        ray_processes.check(self._folder)
        self._weights = [[of.version, of.steps, ray.put(of)] for of in weights]

    def poll(self, numbers: Collection[int], seconds: float) -> list[Fragment]:
        """Return what has come of these actors, and make as many new calls; RayLost where Ray itself is gone."""
        ray = _ray()

        mine = [call for call, number in self._calls.items() if number in numbers]
        deadline = time.monotonic() + seconds
        # Never wait inside Ray: a driver that asks something of a raylet that is gone is ended by Ray, without a word.
        while True:
            ray_processes.check(self._folder)
            done, _ = ray.wait(mine, num_returns=len(mine), timeout=0, fetch_local=False)
            if done or time.monotonic() >= deadline:
                break
            time.sleep(LOOK_SECONDS)
        if not done:
            self._tell_of_silence()
        fragments: list[Fragment] = []
        for call in done:
            number = self._calls.pop(call)
            fragment = self._result(call, number)
            if fragment is not None:
                fragments.append(fragment)
            self._call(number)
        return fragments

    def _call(self, number: int) -> None:
        weights = self._weights[number % len(self._weights)]
        self._calls[self._actors[number].collect.remote(weights)] = number

    def _result(self, call: Any, number: int) -> Fragment | None:
        """Return a call's fragment; None where its actor died, which Ray starts again."""
        ray = _ray()
        from ray.exceptions import ObjectLostError, RayActorError, RayTaskError

        try:
            fragment: Fragment = ray.get(call)
        except RayTaskError as error:
            cause = error.cause if isinstance(error.cause, UnderstudyError) else None
            raise UnderstudyError(f"actor {number}: {cause or str(error).strip().splitlines()[-1]}") from None
        except (RayActorError, ObjectLostError) as error:
            if "creation task" in str(error) or "__init__" in str(error):
                raise UnderstudyError(f"actor {number} cannot be started: {_last_line(str(error))}") from None
            if number not in self._gone:
                self._gone[number] = time.monotonic()
                logger.warning("actor %d died and is started again; the steps it had not sent are lost", number)
            return None
        self._gone.pop(number, None)
        life = fragment.header.life
        self.lives[number] += self._seen.setdefault(number, life) != life
        self._seen[number] = life
        return Fragment(fragment.header, {name: np.array(value) for name, value in fragment.arrays.items()})

    def _tell_of_silence(self) -> None:
        """Say which actors are not there again after a while: a cluster may have lost the room that they had."""
        now = time.monotonic()
        late = sorted(number for number, since in self._gone.items() if now - since > SILENCE_SECONDS)
        if not late:
            return
        held = _ray().cluster_resources().get("CPU", 0)
        logger.warning(
            "actors %s are not there again after %.0f s: this Ray has %g CPUs; the run waits for room",
            *(", ".join(map(str, late)), SILENCE_SECONDS, held),
        )
        self._gone |= dict.fromkeys(late, now)

    def close(self) -> None:
        """End the actors and give their place back."""
        ray = _ray()

        if not ray.is_initialized() or ray_processes.lost(self._folder):
            return
        for actor in self._actors:
            ray.kill(actor)
        if self._group is not None:
            ray.util.remove_placement_group(self._group)
        self._actors, self._calls = [], {}


def _last_line(text: str) -> str:
    return text.strip().splitlines()[-1][:300]
