"""Training from a fixed dataset: the steps of `steps.py`, the hooks of `hooks.py`. No ray, no mlflow, no command line.

open data -> pack of seeds -> for each step: batch, update, log, evaluate, checkpoint -> RunResult
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from understudy.algorithm import Algorithm, Batch
from understudy.devices import resolve_device
from understudy.envs.rollouts.runner import Runner, play
from understudy.envs.windows.windows import Windows
from understudy.language import Told
from understudy.plugins import plug_in_errors
from understudy.registry import loops
from understudy.runs.directory import RunDir
from understudy.runs.loop import Loop
from understudy.runs.results import OnEvaluation, OnProgress, RunResult
from understudy.runs.turns import Turns
from understudy.spec.effects import check_with_data
from understudy.spec.run import RunSpec
from understudy.trainables.loops.agent import Agent
from understudy.trainables.loops.batches import Batches, Order, Steps, check_resident, loader_workers
from understudy.trainables.loops.contract import contract
from understudy.trainables.loops.data import algorithm_for, data_here, facts_of, is_playable, open_data
from understudy.trainables.loops.dry_run import try_plug_ins
from understudy.trainables.loops.evaluation import Evaluator
from understudy.trainables.loops.filming import film_policy, record_policy
from understudy.trainables.loops.logs import Logs
from understudy.trainables.loops.saved import collect_episodes, evaluate_chance, evaluate_policy
from understudy.trainables.loops.session import Caller, Feed, train
from understudy.trainables.loops.steps import Training, steps
from understudy.trainables.loops.whole import fit
from understudy.trainables.packs.captured import check_capture
from understudy.trainables.packs.members import check_useful
from understudy.trainables.packs.optimiser import Schedule
from understudy.trainables.packs.precision import check_precision
from understudy.trainables.packs.transfer import load_encoder, read_weights
from understudy.trainables.packs.workers import Worker

logger = logging.getLogger("understudy")


@loops.register("offline")
class OfflineLoop(Loop):
    """Train every seed of one configuration from a fixed dataset."""

    has_fixed_data = True
    shares = True
    evaluate = staticmethod(evaluate_policy)
    record = staticmethod(record_policy)
    film = staticmethod(film_policy)
    collect = staticmethod(collect_episodes)
    chance = staticmethod(evaluate_chance)
    runner = Runner
    play = staticmethod(play)
    contract = staticmethod(contract)
    agent = Agent

    def __init__(self, spec: RunSpec) -> None:
        self.spec, self._place = spec, None
        self.device = resolve_device(spec.placement.device)
        self.data = open_data(spec)
        first = self.data.windows(1)
        self.algorithm, _ = _learner(spec, first)  # an encoder that does not fit is said now
        check_precision(spec.config.precision, self.device)
        check_capture(spec.placement.cuda_graphs, self.device)
        if spec.placement.data_on_device:
            check_resident(spec, first)
        Schedule.of(spec.config, spec.total_steps)
        self.evaluator = Evaluator(spec) if spec.evaluation.eval_episodes and self.algorithm.acts else None
        if self.evaluator:
            told = Told.of(self.algorithm.config.language)
            self.evaluator.check(first.observation_shape, first.action_dim, told)

    @classmethod
    def check(cls, spec: RunSpec) -> None:
        """Raise what is wrong with a new run's device, names, files, and data that are here; nothing is simulated."""
        resolve_device(spec.placement.device)
        source = spec.config.vision.encoder_weights  # of a run that goes on, it may be gone
        weights = read_weights(source, spec.placement.tracking()) if source else {}
        data = data_here(spec)
        if data is not None:
            for note in check_with_data(spec, facts_of(spec, data)):
                logger.warning("note: %s", note)
            algorithm, network = _learner(spec, data.windows(1))
            for note in algorithm.notes():
                logger.warning("note: %s", note)
            if source:
                load_encoder(network, weights, source)

    @classmethod
    def plays(cls, spec: RunSpec, recorded: Mapping[str, Any] | None = None) -> bool:
        """Return whether the dataset, or what a policy `recorded` of it, names an environment."""
        return is_playable(spec, recorded)

    @classmethod
    def samples(cls, spec: RunSpec) -> int:
        """Return the transitions that are trained on."""
        return open_data(spec).windows(1).num_transitions

    def share(self, turns: Turns, place: int) -> None:
        """Have the run's updates taken with those of others, as one pack."""
        self._place = (turns, place)

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
        """Train to `training_steps`, going on from the newest whole checkpoint in the run directory."""
        torch.set_num_threads(self.spec.placement.cpus)
        worker = Worker(rank, world)
        training = Training(self.spec, RunDir(path), self.data, self.algorithm, self.device, worker, self._place)
        return train(training, self._feed(training), self.evaluator, Caller(report, progress, grid or {}))

    def _feed(self, training: Training) -> Feed:
        """Return the updates of the remaining steps, and the batches of their evaluations."""
        name = "offline_agent.csv" if self.spec.placement.layout == "qc" else "train.csv"
        return FromDataset(self._batches(training), name)

    def _batches(self, training: Training) -> Batches:
        """Return the batches of the remaining steps on the data and of their evaluations."""
        worker = training.worker
        resident = self.device if self.spec.placement.data_on_device else None
        drawn = Steps(self.spec, training.seeds, worker.rank, worker.world, self.data, resident)
        order = Order(training.step + 1, self.spec.training_steps, training.validation_due, training.evaluating)
        return Batches(drawn, order, loader_workers(self.spec, self.data), self.device)


class FromDataset:
    """Updates on batches of a dataset."""

    def __init__(self, batches: Batches, name: str = "train.csv") -> None:
        self._batches, self._name = batches, name

    def log_name(self, step: int) -> str:
        """Return the one name of its csv file."""
        return self._name

    @property
    def waited(self) -> float:
        """Seconds that were waited for batches."""
        return self._batches.waited

    def updates(self, training: Training, logs: Logs | None) -> Iterator[dict[str, torch.Tensor]]:
        """Take one update after another."""
        return steps(training, self._batches)

    def held_out(self) -> Iterator[Batch]:
        """Return the same iterator: the batches of held-out episodes come when they are due."""
        return self._batches

    def sync(self) -> None:
        """Nothing: updates write nothing."""

    def written(self, state: Mapping[str, Any]) -> None:
        """Nothing: checkpoints need nothing else."""

    def close(self) -> None:
        """End the workers that prepare batches."""
        self._batches.close()


def _learner(spec: RunSpec, windows: Windows) -> tuple[Algorithm, torch.nn.Module]:
    """Return the run's algorithm for what the windows hold, and one network of it."""
    spec.augment.check(windows.observation_shape, spec.data.obs_horizon)
    with plug_in_errors():
        algorithm = algorithm_for(spec, windows)
        if algorithm.fits:
            fit(algorithm, windows, windows.normaliser(spec.data.normalize, spec.data.normalize_actions))
        network = algorithm.network(torch.Generator())
    check_useful(spec.population.pbt or (), algorithm, network)
    try_plug_ins(spec, algorithm, network, windows)
    return algorithm, network
