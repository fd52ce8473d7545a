"""Training from what the policy itself does: act, step, insert, draw, update. No ray, no mlflow, no command line.

A step of the run is a step of the environment, of every member; updates begin at `start_training` and are `utd_ratio`
a step. With several updates a step the phases before the last take all of them and the last phase, that of what acts,
only the last (RLPD, arXiv 2302.02948). With `offline_ratio` a share of each batch is drawn from the run's dataset.
Going on from a checkpoint equals never having stopped, bit for bit on the CPU: see `interaction.py`.
Shape suffixes: K members, b samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from understudy.algorithm import EXPERT, Algorithm, Batch
from understudy.devices import resolve_device
from understudy.envs.rollouts.runner import Runner, play
from understudy.envs.windows.augmentation import augment_batch
from understudy.envs.windows.windows import Windows
from understudy.errors import SpecError
from understudy.normaliser import Mode, Normaliser
from understudy.observations import together
from understudy.registry import algorithms, loops
from understudy.runs.directory import RunDir
from understudy.runs.loop import Loop
from understudy.runs.results import OnEvaluation, OnProgress, RunResult
from understudy.spec.parts import Interaction
from understudy.spec.run import RunSpec
from understudy.trainables.loops.acting_feed import ActingFeed
from understudy.trainables.loops.agent import Agent
from understudy.trainables.loops.contract import contract
from understudy.trainables.loops.data import Data, environment_of, open_data
from understudy.trainables.loops.evaluation import Evaluator
from understudy.trainables.loops.filming import film_policy, record_policy
from understudy.trainables.loops.interaction import MakesPlayer, Player, Surroundings
from understudy.trainables.loops.logs import Logs
from understudy.trainables.loops.saved import collect_episodes, evaluate_chance, evaluate_policy
from understudy.trainables.loops.session import Caller, Feed, train
from understudy.trainables.loops.steps import Training
from understudy.trainables.packs.members import check_useful
from understudy.trainables.packs.optimiser import Schedule
from understudy.trainables.packs.precision import check_precision


class Experience:
    """What an online run knows before it acts: the action space, and its dataset where it draws from one.

    Observations are scaled as the dataset says only where the policy's own batches are drawn from it (`offline_ratio`).
    Demonstrations beside them lie where an expert goes: what a learner sees elsewhere would be hundreds of deviations
    away (the cosine of a pole that an expert holds upright hardly varies).
    """

    validation: Windows | None = None

    def __init__(self, surroundings: Surroundings, data: Data | None, *, scales: bool) -> None:
        self._surroundings, self.data, self._scales = surroundings, data, scales

    @property
    def content_hash(self) -> str:
        """The dataset's; '' without one."""
        return self.data.content_hash if self.data else ""

    def normaliser(self, mode: Mode, action_mode: Mode = "none") -> Normaliser:
        """Return the action space's scaling to [-1, 1], and that of observations, if the dataset says one."""
        return self._surroundings.normaliser(self.data.normaliser(mode) if self.data and self._scales else None)


@loops.register("online")
class OnlineLoop(Loop):
    """Train every seed of one configuration in environments of its own."""

    evaluate = staticmethod(evaluate_policy)
    record = staticmethod(record_policy)
    film = staticmethod(film_policy)
    runner = Runner
    play = staticmethod(play)
    contract = staticmethod(contract)
    collect = staticmethod(collect_episodes)
    chance = staticmethod(evaluate_chance)
    agent = Agent

    def __init__(self, spec: RunSpec) -> None:
        self.spec = spec
        self._settings(spec)
        self.device = resolve_device(spec.placement.device)
        check_precision(spec.config.precision, self.device)
        Schedule.of(spec.config, spec.training_steps)
        shown = self._settings(spec).offline_ratio or spec.config.sampling.demonstrations
        data = open_data(spec) if shown else None  # before the environment, which these may name
        self.surroundings = Surroundings(environment_of(spec), spec.evaluation.eval_seed)
        if data is not None:
            data.check_shapes(spec.env_name, self.surroundings.shape, self.surroundings.action_dim)
        self.experience = Experience(self.surroundings, data, scales=self._settings(spec).offline_ratio > 0)
        kind = algorithms.get(spec.algo)
        spec.augment.check(self.surroundings.shape, 1)
        self.algorithm: Algorithm = kind(self.surroundings.shape, self.surroundings.action_dim, spec.config)
        network = self.algorithm.network(torch.Generator())  # an encoder that does not fit is said now
        check_useful(spec.population.pbt or (), self.algorithm, network)
        self.evaluator = Evaluator(spec) if spec.evaluation.eval_episodes else None
        if self.evaluator:
            self.evaluator.check(self.surroundings.shape, self.surroundings.action_dim)

    @classmethod
    def check(cls, spec: RunSpec) -> None:
        """Raise what is wrong with a new run's device, environment's name and numbers; nothing is simulated."""
        cls._settings(spec)
        resolve_device(spec.placement.device)

    @staticmethod
    def _settings(spec: RunSpec) -> Interaction:
        """Return how the run collects; SpecError for numbers that leave it nothing to learn."""
        config = spec.config
        assert isinstance(config, Interaction)
        if config.start_training >= spec.training_steps:
            raise SpecError(
                f"training_steps={spec.training_steps} leaves no update after the"
                f" start_training={config.start_training} random steps"
            )
        if config.grad_accumulation > 1 and config.sampling.demonstrations:
            raise SpecError(f"grad_accumulation={config.grad_accumulation}: batches with demonstrations come whole")
        if spec.placement.num_workers > 1:
            raise SpecError(
                f"num_workers={spec.placement.num_workers}: a run that acts in an environment is one worker"
            )
        if spec.placement.checkpoint_storage:
            raise SpecError("checkpoint_storage does not copy replay buffers, which resuming an online run needs")
        if spec.data.obs_horizon > 1:
            raise SpecError(f"obs_horizon={spec.data.obs_horizon}: online methods see the newest observation alone")
        return config

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
        """Act and train to `training_steps`, going on from the newest whole checkpoint in the run directory."""
        torch.set_num_threads(self.spec.placement.cpus)
        run = RunDir(path)
        training = Training(self.spec, run, self.experience, self.algorithm, self.device)
        return train(training, self._feed(training), self.evaluator, Caller(report, progress, grid or {}))

    def _feed(self, training: Training) -> Feed:
        """Return where updates come from."""
        return FromEnvironments(training, self.surroundings, self.experience.data)


class FromEnvironments(ActingFeed):
    """Updates on what the members have done so far, one step of the environment after another."""

    waited = 0.0

    def __init__(
        self,
        training: Training,
        surroundings: Surroundings,
        data: Data | None,
        *,
        player: MakesPlayer = Player,
        marks: Sequence[str] = (),
    ) -> None:
        config = training.spec.config
        assert isinstance(config, Interaction)
        super().__init__(training, surroundings, config.buffer_size, player=player, marks=marks)
        self._data, self._config = data, config
        self._offline = round(training.spec.config.batch_size * config.offline_ratio)

    def log_name(self, step: int) -> str:
        """Return the name that the published code of Q-chunking gives it."""
        return "online_agent.csv"

    def updates(self, training: Training, logs: Logs | None) -> Iterator[dict[str, torch.Tensor]]:
        """Take the remaining steps of the environment; yield the newest update's metrics, {} before the first."""
        metrics: dict[str, torch.Tensor] = {}
        while not training.last:
            step = training.step + 1
            exploring = step <= self._config.start_training
            acted = self._act(step, exploring)
            self._log_episodes(acted, step)
            if not exploring:
                metrics = self._update(training, step)
            training.step = step
            yield metrics

    def _act(self, step: int, exploring: bool) -> Sequence[Mapping[str, Any] | None]:
        """Take a step with every member; return the totals of the episodes that end."""
        return self._players.explore(step) if exploring else self._players.act(self._training.pack, step)

    def _update(self, training: Training, step: int) -> dict[str, torch.Tensor]:
        """Take the updates that follow a step of the environment."""
        ratio = self._config.utd_ratio
        first = (step - self._config.start_training - 1) * ratio + 1
        before_last = [phase.name for phase in training.pack.phases[:-1]]
        metrics: dict[str, torch.Tensor] = {}
        augment, device = training.spec.augment, training.pack.device
        for update in range(first, first + ratio):
            only = None if update == first + ratio - 1 else before_last
            batch = augment_batch(self._batch(update), augment, training.seeds, update, device=device)
            metrics = training.pack.update(batch, update, only)
        return metrics

    def _batch(self, update: int) -> Batch:
        """Return the batch of an update: a share of the dataset first, then of what the member did."""
        size = self._training.spec.config.batch_size
        done = self._players.sample(update, size - self._offline)
        seeds, demonstrations = self._training.seeds, self._training.spec.config.sampling.demonstrations
        if self._offline:
            assert self._data is not None
            shown = self._data.windows(update).sample(seeds, update, self._offline)
            done = {name: together(partial(torch.cat, dim=1), [shown[name], done[name]]) for name in done}
        if demonstrations:
            assert self._data is not None
            shown = self._data.windows(update).sample(seeds, update, demonstrations)
            done |= {f"{EXPERT}{name}": value for name, value in shown.items()}
        return done

    def held_out(self) -> Iterator[Batch]:
        """Return nothing: there are no held-out episodes."""
        return iter(())
