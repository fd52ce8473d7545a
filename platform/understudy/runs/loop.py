"""Training loops: the interface that each has, and the one that a spec asks for."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from understudy.errors import SpecError, UnknownName, UserError
from understudy.files import check_writable
from understudy.registry import algorithms, loops
from understudy.runs import mirror
from understudy.runs.results import OnEvaluation, OnProgress, RunResult
from understudy.runs.turns import Turns
from understudy.spec.run import RunSpec

if TYPE_CHECKING:
    import numpy as np

    from understudy.algorithm import Algorithm
    from understudy.envs.rollouts.runner import Runner
    from understudy.policy import Policy
    from understudy.runs.clips import Clip
    from understudy.trainables.loops.agent import Agent
    from understudy.trainables.loops.evaluation import Outcome

Episode = Mapping[str, "np.ndarray"]
"""Columns of one episode: observations [T, *O], actions [T, A], rewards [T], terminals [T], final_observation [*O]."""


class Trains(Protocol):
    """What can be launched: a Loop, or one that several workers share."""

    def run(
        self,
        path: Path,
        *,
        report: OnEvaluation | None = None,
        progress: OnProgress | None = None,
        grid: Mapping[str, tuple[Any, ...]] | None = None,
    ) -> RunResult:
        """Train in the run directory `path`, going on from its newest checkpoint."""
        ...


class Loop(abc.ABC):
    """A training loop, and how what it trained is evaluated. An algorithm names its loop: `loop = "offline"`."""

    has_fixed_data: ClassVar[bool] = False
    """Whether it passes over a dataset, so that epochs can be counted (`samples`)."""
    shares: ClassVar[bool] = False
    """Whether trainings of several configurations can take their updates together (`share`)."""

    @abc.abstractmethod
    def __init__(self, spec: RunSpec) -> None:
        """Read and check everything that the run needs, and write nothing."""

    @classmethod  # noqa: B027  (a loop of a plug-in may have nothing to add)
    def check(cls, spec: RunSpec) -> None:
        """Raise the errors of a new run that can be found without fetching, importing or simulating anything."""

    @abc.abstractmethod
    def run(
        self,
        path: Path,
        *,
        report: OnEvaluation | None = None,
        progress: OnProgress | None = None,
        grid: Mapping[str, tuple[Any, ...]] | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> RunResult:
        """Train in the run directory `path`, going on from its newest checkpoint."""

    def share(self, turns: Turns, place: int) -> None:
        """Have the run's updates taken with those of others that take turns, before `run` is called in its turn."""
        raise UserError(f"{self}: trainings of this kind are not taken together")

    @staticmethod
    @abc.abstractmethod
    def evaluate(
        policy: Policy,
        spec: RunSpec,
        *,
        on_step: Callable[[int, int], None] | None = None,
        poll: Callable[[], None] | None = None,
    ) -> Outcome:
        """Evaluate every member of a trained policy by the spec's settings.

        `poll` is called between environment steps (or held-out batches); what it raises ends the evaluation.
        """

    @staticmethod
    @abc.abstractmethod
    def record(
        policy: Policy,
        spec: RunSpec,
        path: Path,
        member: int = 0,
        *,
        episodes: Sequence[int] | None = None,
        poll: Callable[[], None] | None = None,
    ) -> None:
        """Write a video of one member, with `poll` called between its steps; where none can be made, log why.

        `episodes` are filmed; the first `video_episodes` where none are named.
        """

    @staticmethod
    def film(
        policy: Policy,
        spec: RunSpec,
        folder: Path,
        chosen: Sequence[tuple[int, int]],
        *,
        step: int = 0,
        poll: Callable[[], None] | None = None,
    ) -> Iterator[Clip]:
        """Film the chosen (member, episode) pairs of an evaluation, each as a clip in `folder`, and yield the clips."""
        raise UserError(f"{policy.algorithm.name}: its training loop films no episodes")

    @classmethod
    def plays(cls, spec: RunSpec, recorded: Mapping[str, Any] | None = None) -> bool:
        """Return whether there is an environment to evaluate the run's policies in.

        `recorded` is what a trained policy keeps of its environment.
        """
        return True

    @classmethod
    def samples(cls, spec: RunSpec) -> int:
        """Return how many samples one pass over the run's data has; SpecError for a method without fixed data."""
        raise SpecError(
            f"epochs: algo={spec.algo} has no fixed data to pass over; training_steps says how long it learns"
        )

    @staticmethod
    def collect(policy: Policy, spec: RunSpec, *, poll: Callable[[], None] | None = None) -> Sequence[Episode]:
        """Return the episodes that one member plays by the spec's evaluation settings, as stores have them."""
        raise UserError(f"{policy.algorithm.name}: its training loop collects no demonstrations")

    @staticmethod
    def act(spec: RunSpec, *, patience: float, say: Callable[[str], None], poll: Callable[[], None]) -> int:
        """Act for the learner of this run, which is waited for `patience` seconds; return the steps that were taken.

        `say` is told what happens; `poll` is called between steps, and what it raises ends the acting.
        """
        raise UserError(f"{spec.algo}: its training loop has no actors of its own")

    @classmethod
    def replay(cls, spec: RunSpec, path: Path) -> tuple[int, float]:
        """Do the updates of a run of actors again; return their number, and how far off the weights are then."""
        raise UserError(f"{spec.algo}: its training loop keeps no ledger of updates")

    @staticmethod
    def chance(spec: RunSpec, *, poll: Callable[[], None] | None = None) -> Outcome:
        """Evaluate uniformly random actions by the spec's settings, on the episodes that policies are evaluated on."""
        raise UserError(f"{spec.algo}: its training loop plays no random actions")

    @staticmethod
    def runner(policy: Policy, member: int = 0, temperature: float | None = None, seed: int = 1_000_000) -> Runner:
        """Return what acts with one member in an environment loop of one's own, as an evaluation does."""
        raise UserError(f"{policy.algorithm.name}: its training loop plays no episodes")

    @staticmethod
    def contract(kind: type[Algorithm], config: Any) -> Iterator[tuple[str, str]]:
        """Yield what each check of an algorithm says, and what it found wrong, or ""."""
        raise UserError(f"{kind.name}: its training loop has no checks")

    @staticmethod
    def play(
        policy: Policy, env: Any, episodes: int, *, seed: int = 1_000_000, filmed: int = 0, frame_skip: int = 3
    ) -> tuple[dict[str, float], list[dict[str, np.ndarray]], list[np.ndarray]]:
        """Play episodes in an environment that is given; return means, the episodes' columns, and videos."""
        raise UserError(f"{policy.algorithm.name}: its training loop plays no episodes")

    @staticmethod
    @abc.abstractmethod
    def agent(algorithm: Algorithm, *, seed: int = 0, device: str = "cpu") -> Agent:
        """Return a trainer for scripts and notebooks, which is given its batches."""


def plays(spec: RunSpec, recorded: Mapping[str, Any] | None = None) -> bool:
    """Return whether there is an environment to evaluate the run's policies in."""
    return _loop_of(spec).plays(spec, recorded)


def check_new(spec: RunSpec) -> None:
    """Check a run before it begins (names, files, data that are already here, the network); raise what is wrong."""
    check_writable(Path(spec.placement.save_dir))
    _loop_of(spec).check(spec)


def make_loop(spec: RunSpec) -> Loop:
    """Return the spec's training loop; every problem with data, environment, storage or device is raised here."""
    mirror.check(spec.placement.checkpoint_storage)
    return _loop_of(spec)(spec)


def can_share(spec: RunSpec) -> bool:
    """Return whether a run's updates can be taken with those of other configurations, as one pack."""
    return _loop_of(spec).shares


class InTurns:
    """A run whose updates are taken with others', opened and trained in its turn."""

    def __init__(self, spec: RunSpec, turns: Turns, place: int) -> None:
        self._spec, self._turns, self._place = spec, turns, place

    def run(
        self,
        path: Path,
        *,
        report: OnEvaluation | None = None,
        progress: OnProgress | None = None,
        grid: Mapping[str, tuple[Any, ...]] | None = None,
    ) -> RunResult:
        """Train in the run directory `path`."""
        loop = make_loop(self._spec)
        loop.share(self._turns, self._place)
        return loop.run(path, report=report, progress=progress, grid=grid)


def _loop_of(spec: RunSpec) -> type[Loop]:
    """Return the loop that the run's algorithm names."""
    try:
        return loops.get(algorithms.get(spec.algo).loop_for(spec.config))
    except UnknownName as error:
        raise UnknownName(f"algorithm {spec.algo!r} ({algorithms.origin(spec.algo)}): {error}") from None
