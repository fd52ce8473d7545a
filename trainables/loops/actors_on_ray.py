"""Actors of one run as Ray actors: started with it, started again when they die, two calls in flight each.

They share one placement group and die with the run. A call carries the newest weights, one object in Ray's store for
all actors; what it returns is copied out of the store at once.
"""

from __future__ import annotations

import logging
import os
import secrets
from typing import Any

import numpy as np

from understudy.errors import UnderstudyError
from understudy.randomness import stream_key
from understudy.runs.ray_start import start_ray
from understudy.spec.keys import build_run
from understudy.spec.run import RunSpec
from understudy.trainables.loops.fragments import Fragment
from understudy.trainables.loops.learner import Published

logger = logging.getLogger("understudy")
IN_FLIGHT = 2
PLACE_SECONDS = 120.0


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

    def __init__(self, spec: RunSpec, count: int, name: str, facts: dict[str, Any]) -> None:
        self._spec, self._count, self._facts = spec, count, facts
        self._name = f"{name}-{stream_key(0, name) % 16**6:06x}-{secrets.token_hex(2)}"
        self._actors: list[Any] = []
        self._group: Any = None
        self._calls: dict[Any, int] = {}
        self._weights: list[Any] = []
        self.lives = 0

    def start(self, weights: Published) -> None:
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
            raise UnderstudyError(
                f"num_actors={self._count}: this Ray, of {held:g} CPUs, had no room for them in {PLACE_SECONDS:g} s"
            )
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
        self.lives = self._count
        self.publish(weights)
        for number in range(self._count):
            for _ in range(IN_FLIGHT):
                self._call(number)

    def publish(self, weights: Published) -> None:
        """Put the weights into Ray's store; the next calls carry them."""
        ray = _ray()

        self._weights = [weights.version, weights.steps, ray.put(weights)]

    def poll(self, seconds: float) -> list[Fragment]:
        """Return what has come, and make as many new calls."""
        ray = _ray()

        done, _ = ray.wait(list(self._calls), num_returns=len(self._calls), timeout=seconds or 0.0, fetch_local=True)
        if not done and seconds:
            return []
        fragments: list[Fragment] = []
        for call in done:
            number = self._calls.pop(call)
            fragment = self._result(call, number)
            if fragment is not None:
                fragments.append(fragment)
            self._call(number)
        return fragments

    def _call(self, number: int) -> None:
        self._calls[self._actors[number].collect.remote(self._weights)] = number

    def _result(self, call: Any, number: int) -> Fragment | None:
        """Return a call's fragment; None where its actor died, which Ray starts again."""
        ray = _ray()
        from ray.exceptions import RayActorError, RayTaskError

        try:
            fragment: Fragment = ray.get(call)
        except RayTaskError as error:
            cause = error.cause if isinstance(error.cause, UnderstudyError) else None
            raise UnderstudyError(f"actor {number}: {cause or str(error).strip().splitlines()[-1]}") from None
        except RayActorError as error:
            if "creation task" in str(error) or "__init__" in str(error):
                raise UnderstudyError(f"actor {number} cannot be started: {_last_line(str(error))}") from None
            self.lives += 1
            logger.warning("actor %d died and is started again; the steps it had not sent are lost", number)
            return None
        return Fragment(fragment.header, {name: np.array(value) for name, value in fragment.arrays.items()})

    def close(self) -> None:
        """End the actors and give their place back."""
        ray = _ray()

        if not ray.is_initialized():
            return
        for actor in self._actors:
            ray.kill(actor)
        if self._group is not None:
            ray.util.remove_placement_group(self._group)
        self._actors, self._calls = [], {}


def _last_line(text: str) -> str:
    return text.strip().splitlines()[-1][:300]
